//! The `$name` expressions in the settings that local(8) expands for each recipient: `forward_path`,
//! `mailbox_command`, `luser_relay` and the like.

use super::Account;

/// What the names stand for.
pub(super) struct Words<'a> {
    /// The address, in internal form.
    pub recipient: &'a str,
    /// Its local part, with the extension.
    pub local: &'a str,
    pub user: &'a str,
    /// With its delimiter.
    pub extension: Option<&'a str>,
    pub account: Option<&'a Account>,
    pub sender: &'a str,
}

impl Words<'_> {
    /// Whether `text` names, without a condition, what only an address with an extension has.
    pub fn lacks(&self, text: &str) -> bool {
        let extension_names = ["extension", "recipient_delimiter"];
        self.extension.is_none() && extension_names.iter().any(|name| names(text, name))
    }

    /// `text` expanded; characters of values outside `filter` become `_`. `None`: an expression is wrong.
    pub fn expand(&self, text: &str, filter: &str) -> Option<String> {
        let mut lookup =
            |name: &str, _wanted| -> Result<Option<String>, config::expand::SyntaxError> {
                let keep = |c: char| if filter.contains(c) { c } else { '_' };
                let value = self.value(name);
                Ok(value.map(|value| match filter {
                    "" => value,
                    _ => value.chars().map(keep).collect(),
                }))
            };
        config::expand::expand(text, &mut lookup).ok()
    }

    fn value(&self, name: &str) -> Option<String> {
        let account = self.account;
        let text = match name {
            "user" => self.user,
            "local" => self.local,
            "domain" => mail::address::domain(self.recipient)?,
            "recipient" => self.recipient,
            "sender" => self.sender,
            "home" => &account?.home,
            "shell" => &account?.shell,
            "extension" | "recipient_delimiter" => {
                let extension = self.extension?;
                let delimiter = extension.chars().next().map_or(0, char::len_utf8);
                let (delimiter, rest) = extension.split_at(delimiter);
                match name {
                    "extension" => rest,
                    _ => delimiter,
                }
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Whether `$name` stands in the text without a condition.
fn names(text: &str, name: &str) -> bool {
    [format!("${{{name}}}"), format!("$({name})")]
        .iter()
        .any(|whole| text.contains(whole))
        || text.split('$').skip(1).any(|after| {
            after.strip_prefix(name).is_some_and(|rest| {
                !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::rights::Owner;

    #[test]
    fn values_and_their_filter() {
        let account = Account {
            name: "alice".into(),
            owner: Owner { uid: 7, gid: 7 },
            home: "/home/alice".into(),
            shell: "/bin/sh".into(),
        };
        let filter = "abcdefghijklmnopqrstuvwxyz@./+";
        for (extension, text, expected) in [
            (None, "$home/.forward", Some("/home/alice/.forward")),
            (
                Some("+work;"),
                "$home/.forward${recipient_delimiter}${extension}",
                Some("/home/alice/.forward+work_"),
            ),
            (None, "x ${extension?-a}$extension", Some("x ")),
            (
                Some("+b"),
                "$user $domain ${extension?-a}",
                Some("alice host -a"),
            ),
            (None, "${user", None),
        ] {
            let words = Words {
                recipient: "alice@host",
                local: "alice",
                user: "alice",
                extension,
                account: Some(&account),
                sender: "",
            };
            assert_eq!(words.expand(text, filter).as_deref(), expected, "{text}");
            let lacks = extension.is_none() && text.contains("xtension}");
            assert_eq!(
                words.lacks(text),
                lacks || text.ends_with("$extension"),
                "{text}"
            );
        }
    }
}
