//! `postconf -M`, `-F` and `-P` with `-e`, `-X` or `-#`: changes to master.cf. Entries that are touched are written anew in Postfix's layout.

use crate::edit::{is_skipped, replace_file};
use crate::error::{ConfigError, Origin};
use crate::master::{Entry, FIELDS, bad_entry, check_field, words};
use crate::show;
use std::path::Path;

/// Which services: name and type, either of them `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub name: String,
    pub kind: String,
}

impl Pattern {
    pub fn matches(&self, entry: &Entry) -> bool {
        self.fits(&entry.fields[0], &entry.fields[1])
    }

    fn fits(&self, name: &str, kind: &str) -> bool {
        (self.name == "*" || self.name == name) && (self.kind == "*" || self.kind == kind)
    }
}

/// What to do with the services that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `-Me name/type=entry`: the whole entry; appended when nothing matches.
    Replace(String),
    /// `-MX`.
    Remove,
    /// `-M#`.
    CommentOut,
    /// `-Fe name/type/field=value`: the field's position in [`show::FIELD_NAMES`].
    Field(usize, String),
    /// `-Pe name/type/parameter=value`.
    SetOverride(String, String),
    /// `-PX name/type/parameter`.
    RemoveOverride(String),
}

/// One argument of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As given, for messages.
    pub text: String,
    pub pattern: Pattern,
    pub action: Action,
}

/// Changes master.cf at `path`. Returns warnings in Postfix's words.
pub fn edit_master(path: &Path, requests: &[Request]) -> Result<Vec<String>, ConfigError> {
    let mut warnings = Vec::new();
    replace_file(path, |text| {
        let (new, unmatched) = apply(&String::from_utf8_lossy(text), requests, path)?;
        warnings = unmatched;
        Ok(new.into_bytes())
    })?;
    Ok(warnings)
}

/// The changed text, and warnings about requests that matched no service.
/// `file` serves for messages.
pub fn apply(
    text: &str,
    requests: &[Request],
    file: &Path,
) -> Result<(String, Vec<String>), ConfigError> {
    let mut out = String::with_capacity(text.len() + 80);
    let mut matched = vec![false; requests.len()];
    let requests_with_entries = requests
        .iter()
        .map(|request| {
            let entry = match &request.action {
                Action::Replace(text) => Some(parse(text, &request.text)?),
                _ => None,
            };
            Ok((request, entry))
        })
        .collect::<Result<Vec<_>, ConfigError>>()?;
    // An entry of the new one's name and type is the one to replace, whatever the pattern says.
    let fits = |at: usize, name: &str, kind: &str| {
        let (request, entry) = &requests_with_entries[at];
        let same = |entry: &Entry| entry.fields[0] == name && entry.fields[1] == kind;
        request.pattern.fits(name, kind) || entry.as_ref().is_some_and(same)
    };
    let mut rest = text.split_inclusive('\n').zip(1..).peekable();
    while let Some((line, number)) = rest.next() {
        let mut head = line.split_ascii_whitespace();
        let (name, kind) = (
            head.next().unwrap_or_default(),
            head.next().unwrap_or_default(),
        );
        let hits: Vec<usize> = if is_skipped(line.as_bytes()) || line.starts_with([' ', '\t']) {
            Vec::new()
        } else {
            (0..requests.len())
                .filter(|at| fits(*at, name, kind))
                .collect()
        };
        if hits.is_empty() {
            out.push_str(line);
            continue;
        }
        // Of several that match, the first is replaced, and the others go.
        let superfluous = hits
            .iter()
            .any(|at| matched[*at] && matches!(requests[*at].action, Action::Replace(_)));
        hits.iter().for_each(|at| matched[*at] = true);
        let is =
            |action: &dyn Fn(&Action) -> bool| hits.iter().any(|at| action(&requests[*at].action));
        let comment_out = is(&|action| *action == Action::CommentOut);
        // A replaced entry stands where it stood; a changed one comes behind the comments that follow it.
        let replaced = is(&|action| matches!(action, Action::Replace(_)));
        let hits = || hits.iter().map(|at| &requests[*at]);
        let mut entry = line.replace(['\n', '\r'], " ");
        if comment_out {
            out.push_str(&format!("#{line}"));
        } else if replaced && !superfluous {
            out.push_str(&changed(&entry, hits(), &Origin::new(file, number))?);
        }
        while let Some((next, _)) =
            rest.next_if(|(next, _)| is_skipped(next.as_bytes()) || next.starts_with([' ', '\t']))
        {
            if is_skipped(next.as_bytes()) {
                out.push_str(next);
            } else if comment_out {
                out.push_str(&format!("#{next}"));
            } else {
                entry.push_str(&next.replace(['\n', '\r'], " "));
            }
        }
        if !comment_out && !replaced {
            out.push_str(&changed(&entry, hits(), &Origin::new(file, number))?);
        }
    }
    let mut warnings = Vec::new();
    for (request, _) in requests
        .iter()
        .zip(&matched)
        .filter(|(_, matched)| !**matched)
    {
        match &request.action {
            Action::Replace(entry) => {
                if out.chars().last().is_some_and(|last| last != '\n') {
                    out.push('\n');
                }
                out.push_str(&show::entry(&parse(entry, &request.text)?, true));
            }
            Action::Field(..) | Action::SetOverride(..) | Action::RemoveOverride(_) => {
                warnings.push(format!("unmatched service_name/type: \"{}\"", request.text));
            }
            Action::Remove | Action::CommentOut => {}
        }
    }
    Ok((out, warnings))
}

/// The new text of a matched entry; empty when it is removed.
fn changed<'a>(
    old: &str,
    requests: impl Iterator<Item = &'a Request>,
    origin: &Origin,
) -> Result<String, ConfigError> {
    let mut entry = None;
    for request in requests {
        let mut current = match (entry.take(), &request.action) {
            (_, Action::Replace(text)) => parse(text, &request.text)?,
            (_, Action::Remove) => return Ok(String::new()),
            (Some(current), _) => current,
            (None, _) => parse(old, old).map_err(|error| match words(old).len() > FIELDS {
                true => error,
                false => bad_entry(&origin.file, origin.line, &error.problem, &error.remedy),
            })?,
        };
        match &request.action {
            Action::Field(at, value) => set_field(&mut current, *at, value)?,
            Action::SetOverride(name, value) => set_override(&mut current, name, Some(value)),
            Action::RemoveOverride(name) => set_override(&mut current, name, None),
            Action::Replace(_) | Action::Remove | Action::CommentOut => {}
        }
        entry = Some(current);
    }
    Ok(entry
        .map(|entry| show::entry(&entry, true))
        .unwrap_or_default())
}

fn parse(text: &str, shown: &str) -> Result<Entry, ConfigError> {
    let fields = words(text);
    if fields.len() <= FIELDS {
        let text = format!("bad field count: \"{shown}\"");
        let error = ConfigError::new("bad field count", "an entry has eight fields");
        return Err(error.like_postfix(text));
    }
    for (at, field) in fields.iter().take(FIELDS).enumerate() {
        check_field(at, field, text)?;
    }
    Ok(show::normalized(&Entry { fields, line: 0 }))
}

fn set_field(entry: &mut Entry, at: usize, value: &str) -> Result<(), ConfigError> {
    check_field(at, value, value)?;
    if at == FIELDS {
        entry.fields.truncate(FIELDS);
        entry.fields.extend(words(value));
        *entry = show::normalized(entry);
    } else {
        value.clone_into(&mut entry.fields[at]);
    }
    Ok(())
}

fn set_override(entry: &mut Entry, name: &str, value: Option<&str>) {
    let found: Vec<usize> = show::overrides(entry)
        .into_iter()
        .filter(|(_, known, _)| *known == name)
        .map(|(at, ..)| at)
        .collect();
    match value {
        Some(value) if found.is_empty() => {
            let options = show::end_of_options(entry);
            let setting = ["-o".to_owned(), format!("{name}={value}")];
            entry.fields.splice(options..options, setting);
        }
        Some(value) => found
            .into_iter()
            .for_each(|at| entry.fields[at] = format!("{name}={value}")),
        None => found
            .into_iter()
            .rev()
            .for_each(|at| drop(entry.fields.drain(at - 1..=at))),
    }
}
