//! Carries out what a milter wants changed at the end of a message.

use crate::checks::{Checker, Context};
use crate::draft::{Draft, DraftError};

use super::Change;
use super::packet::Edit;

/// A message is changed in so many places by one milter, no more.
const MOST: usize = 20_000;

/// The message in the hands of one milter.
pub(super) struct Editor<'a> {
    draft: &'a mut Draft,
    changes: &'a mut Vec<Change>,
    /// `milter_header_checks`.
    checks: Option<(&'a mut Checker, &'a Context<'a>)>,
    size_limit: u64,
    edits: usize,
    pub quarantine: bool,
    /// The message could not be changed; what else the milter wants is not looked at.
    pub failure: Option<DraftError>,
}

impl<'a> Editor<'a> {
    pub fn new(
        draft: &'a mut Draft,
        changes: &'a mut Vec<Change>,
        checks: Option<(&'a mut Checker, &'a Context<'a>)>,
        size_limit: u64,
    ) -> Editor<'a> {
        Editor {
            draft,
            changes,
            checks,
            size_limit,
            edits: 0,
            quarantine: false,
            failure: None,
        }
    }

    /// The headers as the milter is to see them.
    pub fn visible(&self) -> impl Iterator<Item = &[u8]> {
        self.draft.visible()
    }

    /// The body as the milter is to see it.
    pub fn body(&self) -> queue::Pieces {
        self.draft.body()
    }

    /// One change. An error is nonsense of the milter's.
    pub async fn apply(&mut self, edit: Edit, leading_space: bool) -> Result<(), String> {
        self.edits += 1;
        if self.edits > MOST {
            return Err(format!("more than {MOST} changes of one message"));
        }
        if self.failure.is_some() {
            return Ok(());
        }
        match edit {
            Edit::AddHeader { name, value } => {
                if let Some(header) = self.header(&name, &value, leading_space).await? {
                    self.draft.add_header(header);
                }
            }
            Edit::InsertHeader { index, name, value } => {
                let index = usize::try_from(index).unwrap_or(usize::MAX);
                if let Some(header) = self.header(&name, &value, leading_space).await? {
                    self.draft.insert_header(index, header);
                }
            }
            Edit::ChangeHeader { index, name, value } => {
                let index = usize::try_from(index).unwrap_or(usize::MAX).max(1);
                let header = match value.is_empty() {
                    true => None,
                    false => self.header(&name, &value, leading_space).await?,
                };
                self.draft.change_header(index, &name, header);
            }
            Edit::AddRecipient {
                address,
                parameters,
            } => self.changes.push(Change::AddRecipient {
                address,
                parameters,
            }),
            Edit::DeleteRecipient { address } => {
                self.changes.push(Change::DeleteRecipient { address });
            }
            Edit::ChangeSender {
                address,
                parameters,
            } => self.changes.push(Change::Sender {
                address,
                parameters,
            }),
            Edit::ReplaceBody(piece) => {
                let replaced = self.draft.replace_body(&piece, self.size_limit).await;
                self.failure = replaced.err();
            }
            Edit::Quarantine { .. } => self.quarantine = true,
        }
        Ok(())
    }

    /// The new body is complete.
    pub async fn settle(&mut self) {
        if self.failure.is_none() {
            self.failure = self.draft.settle().await.err();
        }
    }

    /// `Name: value`, continuation lines indented; `None` where `milter_header_checks` leaves it out.
    async fn header(
        &mut self,
        name: &str,
        value: &[u8],
        leading_space: bool,
    ) -> Result<Option<Vec<u8>>, String> {
        let good = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !good {
            let name: String = name.chars().take(100).collect();
            return Err(format!("\"{}\" is no header name", name.escape_debug()));
        }
        let mut header = name.as_bytes().to_vec();
        header.push(b':');
        if !leading_space {
            header.push(b' ');
        }
        for (at, line) in value.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if at > 0 {
                header.push(b'\n');
                if !matches!(line.first(), Some(b' ' | b'\t')) {
                    header.push(b'\t');
                }
            }
            header.extend_from_slice(line);
        }
        match &mut self.checks {
            None => Ok(Some(header)),
            Some((checker, context)) => Ok(checker.header(header, context).await),
        }
    }
}
