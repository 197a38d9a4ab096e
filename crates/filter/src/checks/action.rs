//! What a table of header_checks(5) wants, and how the log tells it.

use mail::EnhancedCode;

use super::Context;

/// An action with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Reject(EnhancedCode, String),
    Discard(String),
    Hold(String),
    Filter(String),
    Redirect(String),
    Bcc(String),
    Prepend(String),
    Replace(String),
    Strip(String),
    Ignore,
    Info(String),
    Warn(String),
    Dunno,
}

impl Action {
    /// Reads a table's value. The error is the text of a warning, `%` in it stands for the parameter's name.
    pub fn parse(value: &str, header: bool) -> Result<Action, String> {
        let value = value.trim_start();
        let (word, text) = value
            .split_once([' ', '\t'])
            .map_or((value, ""), |(word, text)| (word, text.trim_start()));
        let owned = || text.to_owned();
        Ok(match word.to_ascii_uppercase().as_str() {
            "REJECT" => reject(text),
            "DISCARD" => Action::Discard(owned()),
            "HOLD" => Action::Hold(owned()),
            "STRIP" => Action::Strip(owned()),
            "IGNORE" => Action::Ignore,
            "INFO" => Action::Info(owned()),
            "WARN" => Action::Warn(owned()),
            // OK says nothing here either, and Postfix does not complain of it.
            "DUNNO" | "OK" => Action::Dunno,
            "FILTER" if text.is_empty() => {
                return Err("missing FILTER command argument in % map".to_owned());
            }
            "FILTER" if !text.contains(':') => {
                return Err(format!(
                    "bad FILTER command {text} in % -- need transport:destination"
                ));
            }
            "FILTER" => Action::Filter(owned()),
            "REDIRECT" if !text.contains('@') => {
                return Err(format!(
                    "bad REDIRECT target \"{text}\" in % map -- need user@domain"
                ));
            }
            "REDIRECT" => Action::Redirect(owned()),
            "BCC" if !text.contains('@') => {
                return Err(format!(
                    "bad BCC address \"{text}\" in % map -- need user@domain"
                ));
            }
            "BCC" => Action::Bcc(owned()),
            "PREPEND" | "REPLACE" if text.is_empty() => {
                return Err(format!("{word} action without text in % map"));
            }
            "PREPEND" | "REPLACE" if header && !is_header(text) => {
                return Err(format!(
                    "bad {word} header text \"{text}\" in % map -- need \"headername: headervalue\""
                ));
            }
            "PREPEND" => Action::Prepend(owned()),
            "REPLACE" => Action::Replace(owned()),
            _ => return Err(format!("unknown command in % map: {value}")),
        })
    }

    /// The word in the log, and the text behind it.
    fn logged(&self) -> Option<(&'static str, String)> {
        Some(match self {
            Action::Reject(code, text) => ("reject", format!("{code} {text}")),
            Action::Discard(text) => ("discard", text.clone()),
            Action::Hold(text) => ("hold", text.clone()),
            Action::Filter(text) => ("filter", text.clone()),
            Action::Redirect(text) => ("redirect", text.clone()),
            Action::Bcc(text) => ("bcc", text.clone()),
            Action::Prepend(text) => ("prepend", text.clone()),
            Action::Replace(text) => ("replace", text.clone()),
            Action::Strip(text) => ("strip", text.clone()),
            Action::Info(text) => ("info", text.clone()),
            Action::Warn(text) => ("warning", text.clone()),
            Action::Ignore | Action::Dunno => return None,
        })
    }

    /// `ID: reject: header Subject: x from host[1.2.3.4]; from=<…> to=<…> proto=… helo=<…>: text`.
    pub fn log_line(
        &self,
        prefix: &str,
        what: &str,
        content: &str,
        context: &Context<'_>,
    ) -> Option<String> {
        let (word, text) = self.logged()?;
        let shown = shown(content);
        let Context { id, client, .. } = context;
        let envelope = context.envelope();
        let mut line = format!("{id}: {prefix}{word}: {what} {shown} from {client}; {envelope}");
        if !text.is_empty() {
            line.push_str(": ");
            line.push_str(&text);
        }
        Some(line)
    }
}

/// The first 200 bytes, `?` for what is not printable.
fn shown(content: &str) -> String {
    let mut end = content.len().min(200);
    while !content.is_char_boundary(end) {
        end -= 1;
    }
    content[..end].replace(|c: char| c.is_control(), "?")
}

fn reject(text: &str) -> Action {
    let (code, text) = match EnhancedCode::split_prefix(text) {
        Some((code, rest)) if code.class == 5 => (code, rest.trim_start()),
        _ => (EnhancedCode::new(5, 7, 1), text),
    };
    let text = match text {
        "" => "message content rejected",
        text => text,
    };
    Action::Reject(code, text.to_owned())
}

/// `Name: value`.
fn is_header(text: &str) -> bool {
    let name = text.split_once(':').map(|(name, _)| name.trim_end());
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        let text = |text: &str| text.to_owned();
        for (value, expected) in [
            ("reject", Ok(reject(""))),
            (
                "REJECT 5.1.2 no  way",
                Ok(Action::Reject(EnhancedCode::new(5, 1, 2), text("no  way"))),
            ),
            ("Hold  on", Ok(Action::Hold(text("on")))),
            ("IGNORE whatever", Ok(Action::Ignore)),
            ("FILTER smtp:host", Ok(Action::Filter(text("smtp:host")))),
            ("PREPEND X: y", Ok(Action::Prepend(text("X: y")))),
            (
                "REPLACE y",
                Err(text(
                    "bad REPLACE header text \"y\" in % map -- need \"headername: headervalue\"",
                )),
            ),
            (
                "BCC nobody",
                Err(text(
                    "bad BCC address \"nobody\" in % map -- need user@domain",
                )),
            ),
            ("OK", Ok(Action::Dunno)),
            ("MAYBE", Err(text("unknown command in % map: MAYBE"))),
        ] {
            assert_eq!(Action::parse(value, true), expected, "{value}");
        }
        assert_eq!(
            Action::parse("REPLACE y", false),
            Ok(Action::Replace(text("y")))
        );
    }
}
