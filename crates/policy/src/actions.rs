//! What an access table's answer does: access(5).

use smtp::Reply;
use tables::TableList;

use crate::access::{self, Action, Found, Key, Refused};
use crate::evaluate::{Outcome, Question};
use crate::restriction::{self, Restriction, Subject};
use crate::{Event, Policy, Stage, reply};

/// What was looked up: the words of its replies.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub what: &'static str,
    pub value: &'a str,
}

impl Policy {
    /// `check_…_access`.
    pub(crate) async fn check_access(
        &self,
        question: &mut Question<'_>,
        subject: Subject,
        list: &TableList,
    ) -> Outcome {
        let Some((keys, value, what)) = self.keys(question, subject) else {
            return Outcome::Dunno;
        };
        match access::find(list, &keys).await {
            Ok(None) => Outcome::Dunno,
            Ok(Some(found)) => {
                let about = Place {
                    what,
                    value: &value,
                };
                self.act(question, found, about).await
            }
            Err(error) => {
                question.effects.notes.push(error.to_string());
                Outcome::Refuse(reply::access_table_failure(&value, what))
            }
        }
    }

    /// What is looked up, and how replies name it.
    fn keys(
        &self,
        question: &Question<'_>,
        subject: Subject,
    ) -> Option<(Vec<Key>, String, &'static str)> {
        let facts = question.facts;
        let parents = self.access_parents;
        let (texts, value, what) = match subject {
            Subject::Client => {
                let name = access::domain_keys(facts.client_name, parents);
                let address = match facts.client_address.is_unspecified() {
                    true => vec!["unknown".to_owned()],
                    false => access::network_keys(facts.client_address),
                };
                let keys = Key::all(name).chain(Key::all(address)).collect();
                return Some((keys, facts.client(), reply::CLIENT));
            }
            Subject::Certificate => {
                let shown = facts.certificate?;
                let fingerprint = Key::all(vec![shown.fingerprint.clone()]);
                let keys = fingerprint.chain(Key::all(vec![shown.public_key.clone()]));
                return Some((keys.collect(), shown.subject.clone(), reply::CERTIFICATE));
            }
            Subject::Helo if facts.helo.is_empty() => return None,
            Subject::Helo => {
                let keys = access::domain_keys(facts.helo, parents);
                (keys, facts.helo, reply::HELO)
            }
            Subject::Sender => match facts.sender? {
                "" => (vec![self.null_sender_key.clone()], "", reply::SENDER),
                sender => (self.address_keys(sender), sender, reply::SENDER),
            },
            Subject::Recipient => {
                let recipient = facts.recipient?;
                (self.address_keys(recipient), recipient, reply::RECIPIENT)
            }
            Subject::Etrn => {
                let domain = question.etrn?;
                let keys = access::domain_keys(domain, parents);
                (keys, domain, reply::ETRN)
            }
            Subject::Login => {
                let login = facts.login?;
                (vec![login.to_owned()], login, reply::LOGIN)
            }
        };
        Some((Key::all(texts).collect(), value.to_owned(), what))
    }

    fn address_keys(&self, address: &str) -> Vec<String> {
        let canonical = self.router.rewrite(address);
        access::address_keys(&canonical, self.router.extensions(), self.access_parents)
    }

    /// What the answer of a table or a policy service does.
    pub(crate) async fn act(
        &self,
        question: &mut Question<'_>,
        found: Found,
        about: Place<'_>,
    ) -> Outcome {
        let Place { what, value } = about;
        let action = Action::parse(&found.value);
        if let Some(name) = action.of_the_message()
            && !self.may_act_on_the_message(question, &found, name)
        {
            return Outcome::Dunno;
        }
        // What is wrong with an action, for the log.
        let wrong = |problem: &str| {
            format!(
                "access table {} entry \"{}\" {problem}",
                found.table, found.key
            )
        };
        match action {
            Action::Ok => {
                let origin = format!("from {}", found.table);
                self.log_permit(question, &found.value, what, value, &origin)
                    .await;
                return Outcome::Ok;
            }
            Action::Dunno => {}
            Action::Reject(refused) => {
                return self.refuse(question, refused, self.codes.access, about);
            }
            Action::Defer(refused) => {
                return self.refuse(question, refused, self.codes.access_defer, about);
            }
            Action::DeferIfPermit(refused) => {
                let later = self.later(question, refused, about);
                return self.defer_if_permit(question, later);
            }
            Action::DeferIfReject(refused) => {
                let later = self.later(question, refused, about);
                question.defer_if_reject.get_or_insert(later);
            }
            // Once is enough.
            Action::Hold(_) if question.effects.hold.is_some() => {}
            Action::Hold(text) => {
                question.log("hold", triggers(about, "HOLD action", &text));
                question.effects.hold = Some(text);
            }
            Action::Discard(text) => {
                question.log("discard", triggers(about, "DISCARD action", &text));
                question.effects.discard = Some(text);
            }
            Action::Filter(route) if route.is_empty() => {
                question.warn(wrong("has FILTER entry without value"));
            }
            Action::Filter(route) if !route.contains(':') => {
                question.warn(wrong("requires transport:destination"));
            }
            Action::Filter(route) => {
                question.log("filter", triggers(about, &format!("FILTER {route}"), ""));
                question.effects.filter = Some(route);
            }
            Action::Redirect(address) | Action::Bcc(address) if !address.contains('@') => {
                question.warn(wrong("requires user@domain target"));
            }
            Action::Redirect(address) => {
                let text = triggers(about, &format!("REDIRECT {address}"), "");
                question.log("redirect", text);
                question.effects.redirect = Some(address);
            }
            Action::Bcc(address) => {
                question.log("bcc", triggers(about, &format!("BCC {address}"), ""));
                question.effects.bcc.push(address);
            }
            Action::Prepend(_) if question.stage == Stage::EndOfData => {
                question.warn(format!(
                    "access table {}: action PREPEND must be used before smtpd_end_of_data_restrictions",
                    found.table
                ));
            }
            Action::Prepend(header) if !access::is_header(&header) => {
                question.warn(wrong("requires header: text"));
            }
            Action::Prepend(header) => question.effects.prepend.push(header),
            Action::Warn(text) => question.log("warn", text),
            Action::Info(text) => question.log("info", text),
            Action::Other(text) => {
                return self
                    .restrictions_of_value(question, &text, &found.table, about)
                    .await;
            }
        }
        Outcome::Dunno
    }

    /// Before MAIL there is no message that an action could be about.
    fn may_act_on_the_message(
        &self,
        question: &mut Question<'_>,
        found: &Found,
        action: &str,
    ) -> bool {
        let problem = match question.stage {
            Stage::Etrn => format!("action {action} is unavailable in smtpd_etrn_restrictions"),
            _ if question.facts.sender.is_none() => format!(
                "with smtpd_delay_reject=no, action {action} is always skipped in {} or {} restrictions",
                reply::CLIENT,
                reply::HELO
            ),
            _ => return true,
        };
        question.warn(format!("access table {}: {problem}", found.table));
        false
    }

    fn refuse(
        &self,
        question: &mut Question<'_>,
        refused: Refused,
        code: u16,
        about: Place<'_>,
    ) -> Outcome {
        let code = refused.code.unwrap_or(code);
        Outcome::Refuse(self.refusal(question, refused, code, about, "Access denied"))
    }

    fn later(&self, question: &mut Question<'_>, refused: Refused, about: Place<'_>) -> Reply {
        let code = self.codes.access_defer;
        self.refusal(question, refused, code, about, "Service unavailable")
    }

    fn refusal(
        &self,
        question: &mut Question<'_>,
        refused: Refused,
        code: u16,
        Place { what, value }: Place<'_>,
        otherwise: &str,
    ) -> Reply {
        let text = match refused.text.as_str() {
            "" => otherwise,
            text => text,
        };
        let fitting = refused.enhanced.map(|code| access::fitting(code, what));
        if let (Some(given), Some(fitting)) = (refused.enhanced, fitting)
            && given != fitting
        {
            let text = format!("mapping DSN status {given} into {what} status {fitting}");
            question.effects.events.push(Event::Info(text));
        }
        reply::access_denied(code, fitting, value, what, text)
    }

    /// A table's value may be a list of restrictions that need no table of their own.
    async fn restrictions_of_value(
        &self,
        question: &mut Question<'_>,
        text: &str,
        table: &str,
        Place { what, value }: Place<'_>,
    ) -> Outcome {
        if text.contains(':') {
            for line in [
                format!("access table {table} has entry with lookup table: {text}"),
                "do not specify lookup tables inside SMTPD access maps".to_owned(),
                "define a restriction class and specify its name instead.".to_owned(),
            ] {
                question.warn(line);
            }
            return Outcome::Refuse(reply::configuration_error());
        }
        let mut list: Vec<Restriction> = Vec::new();
        for word in config::split_list(text) {
            let class = self.classes.get(&word).cloned();
            let known = class.or_else(|| restriction::plain(&word.to_ascii_lowercase()));
            match known {
                Some(restriction) => list.push(restriction),
                None => {
                    // What stands before the mistake counts.
                    let before = self.go_through(question, &list, what, value).await;
                    if before != Outcome::Dunno {
                        return before;
                    }
                    question.warn(format!("unknown smtpd restriction: \"{word}\""));
                    return Outcome::Refuse(reply::configuration_error());
                }
            }
        }
        self.go_through(question, &list, what, value).await
    }
}

/// `<value>: Client host triggers HOLD action`, or with the table's own text.
fn triggers(Place { what, value }: Place<'_>, action: &str, text: &str) -> String {
    match text {
        "" => format!("<{value}>: {what} triggers {action}"),
        text => format!("<{value}>: {what} {text}"),
    }
}
