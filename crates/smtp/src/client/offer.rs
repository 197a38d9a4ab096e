//! What the server offers in its EHLO reply, and the commands that make use of it.

use mail::status::EnhancedCode;

use super::Transaction;
use crate::xtext;

/// The extensions of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub pipelining: bool,
    pub eight_bit: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub starttls: bool,
    /// The mechanisms behind `AUTH`.
    pub auth: Vec<String>,
    /// `SIZE`; the limit is 0 when none was named.
    pub size: Option<u64>,
}

impl Offer {
    /// Reads the EHLO reply: the server's name, then one keyword a line.
    pub fn parse(text: &str, overlook: &[String]) -> Offer {
        let mut offer = Offer::default();
        for line in text.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else {
                continue;
            };
            if overlook.iter().any(|o| o.eq_ignore_ascii_case(keyword)) {
                continue;
            }
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => offer.pipelining = true,
                "8BITMIME" => offer.eight_bit = true,
                "SMTPUTF8" => offer.smtputf8 = true,
                "DSN" => offer.dsn = true,
                "STARTTLS" => offer.starttls = true,
                "AUTH" => offer.auth.extend(words.map(str::to_owned)),
                "SIZE" => offer.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                // The form of servers and clients from before RFC 2554.
                old if old.starts_with("AUTH=") => {
                    let first = keyword["AUTH=".len()..].to_owned();
                    offer.auth.push(first);
                    offer.auth.extend(words.map(str::to_owned));
                }
                _ => {}
            }
        }
        offer
    }

    /// Whether the server can take the message at all.
    pub fn check(
        &self,
        transaction: &Transaction,
        server: &str,
    ) -> Result<(), (EnhancedCode, String)> {
        if transaction.smtputf8 && !self.smtputf8 {
            let text = format!("SMTPUTF8 is required, but was not offered by host {server}");
            return Err((EnhancedCode::new(5, 6, 7), text));
        }
        match (self.size, transaction.size) {
            (Some(limit), Some(size)) if limit > 0 && size > limit => {
                let text =
                    format!("message size {size} exceeds size limit {limit} of server {server}");
                Err((EnhancedCode::new(5, 3, 4), text))
            }
            _ => Ok(()),
        }
    }

    pub fn write_mail(&self, transaction: &Transaction, out: &mut Vec<u8>) {
        let mut line = format!("MAIL FROM:<{}>", external(&transaction.sender));
        if let (Some(_), Some(size)) = (self.size, transaction.size) {
            line.push_str(&format!(" SIZE={size}"));
        }
        if self.eight_bit && transaction.eight_bit {
            line.push_str(" BODY=8BITMIME");
        }
        if self.smtputf8 && transaction.smtputf8 {
            line.push_str(" SMTPUTF8");
        }
        if self.dsn {
            if let Some(envid) = &transaction.envid {
                line.push_str(&format!(" ENVID={}", xtext::encode(envid, false)));
            }
            if let Some(ret) = transaction.ret {
                line.push_str(&format!(" RET={ret}"));
            }
        }
        line.push_str("\r\n");
        out.extend_from_slice(line.as_bytes());
    }

    pub fn write_rcpt(&self, transaction: &Transaction, i: usize, out: &mut Vec<u8>) {
        let recipient = &transaction.recipients[i];
        let mut line = format!("RCPT TO:<{}>", external(&recipient.address));
        if self.dsn {
            if let Some((kind, address)) =
                recipient.orcpt.as_deref().and_then(|o| o.split_once(';'))
            {
                let utf8 = transaction.smtputf8 && self.smtputf8;
                line.push_str(&format!(" ORCPT={kind};{}", xtext::encode(address, utf8)));
            }
            if let Some(notify) = recipient.notify {
                line.push_str(&format!(" NOTIFY={notify}"));
            }
        }
        line.push_str("\r\n");
        out.extend_from_slice(line.as_bytes());
    }
}

/// The external form of an address. A control character cannot be sent in a command: it becomes `?`,
/// so that an address can never bring a command of its own.
fn external(address: &str) -> String {
    // The null sender is `<>`, not `<"">`.
    if address.is_empty() {
        return String::new();
    }
    let quoted = mail::address::quote_local(address);
    if quoted.chars().any(char::is_control) {
        return quoted
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Recipient;
    use crate::{Notify, Ret};

    #[test]
    fn parameters_only_where_offered() {
        let transaction = Transaction {
            sender: "john doe@example.org".into(),
            recipients: vec![Recipient {
                address: "a\r\nQUIT@b".into(),
                notify: Some(Notify::NEVER),
                orcpt: Some("rfc822;x+y@b".into()),
            }],
            size: Some(7),
            eight_bit: true,
            smtputf8: true,
            ret: Some(Ret::Headers),
            envid: Some("a b".into()),
        };
        let full = Offer::parse(
            "host\nPIPELINING\nsize 10\n8BITMIME\nDSN\nSMTPUTF8\nFOO",
            &[],
        );
        for (offer, mail) in [
            (Offer::default(), "MAIL FROM:<\"john doe\"@example.org>\r\n"),
            (
                full.clone(),
                "MAIL FROM:<\"john doe\"@example.org> SIZE=7 BODY=8BITMIME SMTPUTF8 ENVID=a+20b RET=HDRS\r\n",
            ),
        ] {
            let mut out = Vec::new();
            offer.write_mail(&transaction, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), mail);
        }
        let mut out = Vec::new();
        full.write_rcpt(&transaction, 0, &mut out);
        let line = String::from_utf8_lossy(&out);
        assert!(
            line.ends_with(" ORCPT=rfc822;x+2By@b NOTIFY=NEVER\r\n"),
            "{line}"
        );
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert_eq!(full.check(&transaction, "h"), Ok(()));
        assert!(
            Offer::parse("host\nSIZE 5\nSMTPUTF8", &[])
                .check(&transaction, "h")
                .is_err()
        );
        assert_eq!(Offer::parse("host\nDSN", &["dsn".into()]), Offer::default());
    }
}
