//! Texts that the administrator changes on their way: commands (`smtpd_command_filter`) and refusals
//! (`smtpd_reject_footer`).

use std::fmt;
use std::sync::Arc;

use super::input::Line;
use super::session::{Pending, Session};
use super::{Peer, Question};
use crate::Reply;

/// `smtpd_reject_footer`: what stands below every refusal.
#[derive(Clone)]
pub struct Footer(Arc<dyn Fn(&Peer) -> String + Send + Sync>);

impl Footer {
    /// The text for a client, as main.cf has it: `\n` begins a line, and so does its start unless that is `\c`.
    pub fn new(text: impl Fn(&Peer) -> String + Send + Sync + 'static) -> Footer {
        Footer(Arc::new(text))
    }

    pub(super) fn below(&self, reply: &Reply, client: &Peer) -> Reply {
        let text = (self.0)(client);
        let (between, text) = match text.strip_prefix("\\c") {
            Some(rest) => ("", rest),
            None => ("\n", text.as_str()),
        };
        let text = text.replace("\\n", "\n");
        Reply {
            text: format!("{}{between}{}", reply.text, text.trim_end_matches('\n')).into(),
            ..reply.clone()
        }
    }
}

impl fmt::Debug for Footer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Footer")
    }
}

impl Session {
    /// Has the line looked up before it is executed.
    pub(super) fn filter_command(&mut self, line: Line) {
        let text = String::from_utf8_lossy(&line.bytes).into_owned();
        self.ask(Question::Command(text), Pending::Command(line));
    }

    /// What is executed instead of the command of [`Question::Command`]; to be said before its answer.
    pub fn replace_command(&mut self, text: String) {
        if let Some(Pending::Command(line)) = &mut self.pending {
            line.bytes = text.into_bytes();
        }
    }
}
