//! `reject_rbl_client` and its kin: an address or a name in front of the zone of a list leads to `127.…` when it is listed.

use std::net::IpAddr;

use ::dns::{Kind, Record, Trouble};
use config::expand::{self, SyntaxError, Wanted};
use smtp::Reply;

use super::{List, Listed, address, domain_of};
use crate::evaluate::{Outcome, Question};
use crate::restriction::Subject;
use crate::{Policy, reply};

/// A listing: what DNS says of it.
struct Listing {
    reason: String,
}

impl Policy {
    pub(super) async fn listed(&self, question: &mut Question<'_>, list: &List) -> Outcome {
        let Some((query, class, listed)) = subject(question, list.of) else {
            return Outcome::Dunno;
        };
        // Nobody becomes a relay for all because a list says well of him.
        if list.permits && question.facts.recipient.is_some() {
            match self.is_ours(question).await {
                Ok(true) => {}
                Ok(false) => return Outcome::Dunno,
                Err(refusal) => return Outcome::Refuse(refusal),
            }
        }
        let name = format!("{query}.{}", list.zone);
        match self.listing(question, list, &name).await {
            Ok(None) => Outcome::Dunno,
            Ok(Some(_)) if list.permits => Outcome::Ok,
            Ok(Some(listing)) => {
                let words = Words {
                    list,
                    class,
                    listed: &listed,
                    reason: &listing.reason,
                };
                Outcome::Refuse(self.list_reply(question, &words).await)
            }
            Err(trouble) => {
                let text = trouble.describe(&name, Kind::A);
                question.warn(format!("{name}: RBL lookup error: {text}"));
                if list.permits {
                    let later = reply::list_failure(&listed, class);
                    question.defer_if_reject.get_or_insert(later);
                }
                Outcome::Dunno
            }
        }
    }

    async fn listing(
        &self,
        question: &mut Question<'_>,
        list: &List,
        name: &str,
    ) -> Result<Option<Listing>, Trouble> {
        let records = match self.dns(question, name, Kind::A).await {
            Ok(records) => records,
            Err(trouble) if trouble.is_absence() => return Ok(None),
            Err(trouble) => return Err(trouble),
        };
        let counts = |found: IpAddr| match (found, &list.filter) {
            (IpAddr::V4(found), Some(filter)) => filter.matches(found.octets()),
            (IpAddr::V4(_), None) => true,
            (IpAddr::V6(_), _) => false,
        };
        if !records.iter().filter_map(address).any(counts) {
            return Ok(None);
        }
        if list.permits {
            return Ok(Some(Listing {
                reason: String::new(),
            }));
        }
        let reason = match self.dns(question, name, Kind::Txt).await {
            Ok(records) => records.iter().find_map(|record| match record {
                Record::Txt(text) => Some(text.clone()),
                _ => None,
            }),
            Err(trouble) if trouble.is_absence() => None,
            Err(trouble) => {
                let text = trouble.describe(name, Kind::Txt);
                question.warn(format!("{name}: TXT lookup error: {text}"));
                None
            }
        };
        Ok(Some(Listing {
            reason: reason.unwrap_or_default(),
        }))
    }

    /// By `rbl_reply_maps`, or `default_rbl_reply`.
    async fn list_reply(&self, question: &mut Question<'_>, words: &Words<'_>) -> Reply {
        let template = match self.by_dns.list_replies.lookup(&words.list.argument).await {
            Ok(found) => found,
            Err(error) => {
                question.warn(format!("rbl_reply_maps: {error}"));
                return reply::configuration_error();
            }
        };
        let template = template.as_deref().unwrap_or(&self.by_dns.list_reply);
        let code = self.by_dns.list_code;
        let mut lookup = |name: &str, _: Wanted| -> Result<Option<String>, SyntaxError> {
            Ok(words.get(question, name, code))
        };
        match expand::expand(template, &mut lookup) {
            Ok(text) => reply::listed(code, &text),
            Err(error) => {
                question.warn(format!("rbl reply template \"{template}\": {error}"));
                reply::configuration_error()
            }
        }
    }
}

/// What the macros of a reply stand for.
struct Words<'a> {
    list: &'a List,
    class: &'static str,
    listed: &'a str,
    reason: &'a str,
}

impl Words<'_> {
    fn get(&self, question: &Question<'_>, name: &str, code: u16) -> Option<String> {
        let facts = question.facts;
        let sender = facts.sender.unwrap_or_default();
        let recipient = facts.recipient.unwrap_or_default();
        let part = |address: &str, first: bool| {
            let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
            if first {
                local.to_owned()
            } else {
                domain.to_owned()
            }
        };
        let text = match name {
            "rbl_code" => code.to_string(),
            "rbl_class" => self.class.to_owned(),
            "rbl_what" => self.listed.to_owned(),
            "rbl_domain" => self.list.zone.clone(),
            "rbl_reason" | "rbl_txt" => self.reason.to_owned(),
            "client" => facts.client(),
            "client_address" => facts.client_address.to_string(),
            "client_name" => facts.client_name.to_owned(),
            "reverse_client_name" => facts.names.reverse.to_owned(),
            "helo_name" => facts.helo.to_owned(),
            "sender" => match sender {
                "" => "<>".to_owned(),
                sender => sender.to_owned(),
            },
            "sender_name" => part(sender, true),
            "sender_domain" => part(sender, false),
            "recipient" => recipient.to_owned(),
            "recipient_name" => part(recipient, true),
            "recipient_domain" => part(recipient, false),
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

/// What stands in front of the zone, and how the reply calls it.
fn subject(question: &Question<'_>, of: Listed) -> Option<(String, &'static str, String)> {
    let facts = question.facts;
    let subject = match of {
        Listed::ClientAddress => {
            let address = facts.client_address;
            let known = !address.is_unspecified();
            return known.then(|| (reversed(address), reply::CLIENT, address.to_string()));
        }
        Listed::Name(subject) => subject,
    };
    let (text, class) = match subject {
        Subject::Client => (facts.client_name, reply::CLIENT),
        Subject::ReverseName => (facts.names.reverse, reply::REVERSE),
        Subject::Helo => (facts.helo, reply::HELO),
        Subject::Sender => (facts.sender?, reply::SENDER),
        _ => (facts.recipient?, reply::RECIPIENT),
    };
    let nameless = matches!(subject, Subject::Client | Subject::ReverseName) && text == "unknown";
    let domain = domain_of(text).filter(|_| !nameless)?;
    Some((domain.to_owned(), class, text.to_owned()))
}

/// `192.0.2.1` as `1.2.0.192`; IPv6 by its nibbles.
fn reversed(address: IpAddr) -> String {
    let parts: Vec<String> = match address {
        IpAddr::V4(address) => address.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles = octets
                .iter()
                .rev()
                .flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect()
        }
    };
    parts.join(".")
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_written_backwards() {
        let of = |text: &str| super::reversed(text.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), "1.2.0.192");
        assert_eq!(
            of("2001:db8::9"),
            "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
        );
    }
}
