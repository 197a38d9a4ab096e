//! What `postconf` prints: parameters, services, and lines folded for people.

use crate::master::{Entry, FIELDS, without_braces};

/// Which parts of `name = value` are printed, and whether long lines are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub parts: Parts,
    /// `-f`.
    pub fold: bool,
}

/// `-h` and `-H`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    Both,
    Value,
    Name,
}

const LINE_LIMIT: usize = 80;
const INDENT: usize = 4;

/// One parameter with its newline. White space inside the value shrinks to single spaces.
pub fn parameter(name: &str, value: &str, style: Style) -> String {
    let text = match style.parts {
        Parts::Name => name.to_owned(),
        Parts::Value => value.to_owned(),
        Parts::Both => format!("{name} = {value}"),
    };
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_ascii_whitespace() {
        if length > 0 {
            if style.fold && length + word.len() >= LINE_LIMIT {
                line.push_str("\n    ");
                length = INDENT;
            } else {
                line.push(' ');
                length += 1;
            }
        }
        line.push_str(word);
        length += word.len();
    }
    line.push('\n');
    line
}

/// The names of a service's fields as `postconf -F` has them.
pub static FIELD_NAMES: [&str; FIELDS + 1] = [
    "service",
    "type",
    "private",
    "unprivileged",
    "chroot",
    "wakeup",
    "process_limit",
    "command",
];

/// Splits `-oname=value`, writes `{ name = value }` as `name=value` and takes the braces off other words,
/// so that options are pairs of words and every word is what the program gets.
pub fn normalized(entry: &Entry) -> Entry {
    let mut fields: Vec<String> = entry.fields[..=FIELDS].to_vec();
    let mut rest = entry.fields[FIELDS + 1..].iter();
    while let Some(word) = rest.next() {
        if !word.starts_with('-') {
            fields.push(without_braces(word).to_owned());
            break;
        }
        // `-vo name=value` is `-v -o name=value`.
        let (letters, attached) = match word.split_once('o') {
            Some((letters, attached)) => (letters, attached),
            None => {
                fields.push(word.clone());
                continue;
            }
        };
        if letters.len() > 1 {
            fields.push(letters.to_owned());
        }
        let setting = if attached.is_empty() {
            rest.next().map(String::as_str)
        } else {
            Some(attached)
        };
        fields.push("-o".to_owned());
        let Some(setting) = setting else { break };
        fields.push(
            match crate::lines::split_name_value(without_braces(setting)) {
                Ok((name, value)) => format!("{name}={value}"),
                Err(_) => without_braces(setting).to_owned(),
            },
        );
    }
    fields.extend(rest.map(|word| without_braces(word).to_owned()));
    Entry {
        fields,
        line: entry.line,
    }
}

/// A normalized entry's `-o` settings: position of the value word, name, value.
pub fn overrides(entry: &Entry) -> Vec<(usize, &str, &str)> {
    let mut found = Vec::new();
    let mut at = FIELDS + 1;
    while let Some(word) = entry.fields.get(at).filter(|word| word.starts_with('-')) {
        if word == "-o" {
            at += 1;
            let setting = entry
                .fields
                .get(at)
                .and_then(|setting| setting.split_once('='));
            if let Some((name, value)) = setting {
                found.push((at, name, value));
            }
        }
        at += 1;
    }
    found
}

/// The index behind the last option of a normalized entry.
pub(crate) fn end_of_options(entry: &Entry) -> usize {
    let mut at = FIELDS + 1;
    while let Some(word) = entry.fields.get(at).filter(|word| word.starts_with('-')) {
        at += if word == "-o" { 2 } else { 1 };
    }
    at.min(entry.fields.len())
}

/// A normalized entry as `postconf -M` prints it, with its newline.
pub fn entry(entry: &Entry, fold: bool) -> String {
    /// Where the fields after the first start; a field that is too long pushes the next ones, by one space at least.
    const COLUMNS: [usize; FIELDS] = [11, 17, 25, 33, 41, 49, 57];
    let mut line = String::new();
    for (field, column) in entry.fields.iter().zip(COLUMNS) {
        line.push_str(field);
        line.push(' ');
        while line.len() < column {
            line.push(' ');
        }
    }
    line.push_str(&command(entry, line.len(), fold));
    line.push('\n');
    line
}

/// The command and its arguments. Options with a value start a line of their own when folded.
pub fn command(entry: &Entry, column: usize, fold: bool) -> String {
    let words = &entry.fields[FIELDS..];
    let mut text = words.first().cloned().unwrap_or_default();
    let mut length = column + text.len();
    let mut in_options = true;
    let mut at = 1;
    while at < words.len() {
        let mut item = braced(&words[at]);
        let mut with_value = false;
        if in_options && !item.starts_with('-') {
            in_options = false;
        } else if in_options && item == "-o" && at + 1 < words.len() {
            at += 1;
            item = format!("-o {}", braced(&words[at]));
            with_value = true;
        }
        // An option with a value has a line of its own. Braces are not counted, as in Postfix.
        let counted = words[at].len();
        if !fold || (!with_value && length + 1 + counted < LINE_LIMIT) {
            text.push(' ');
            length = length.saturating_add(1);
        } else {
            text.push_str("\n    ");
            length = INDENT;
        }
        text.push_str(&item);
        length = if with_value {
            LINE_LIMIT
        } else {
            length + counted
        };
        at += 1;
    }
    text
}

/// A word that holds white space, inside braces.
fn braced(word: &str) -> String {
    if word.contains([' ', '\t']) {
        format!("{{{word}}}")
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_folded() {
        let networks =
            "127.0.0.0/8 192.168.0.0/16 10.0.0.0/8   172.16.0.0/12 [::1]/128\t[fe80::]/64 1.2.3.4";
        let style = |fold| Style {
            parts: Parts::Both,
            fold,
        };
        assert_eq!(
            parameter("mynetworks", networks, style(true)),
            "mynetworks = 127.0.0.0/8 192.168.0.0/16 10.0.0.0/8 172.16.0.0/12 [::1]/128\n    [fe80::]/64 1.2.3.4\n"
        );
        assert_eq!(parameter("relayhost", "", style(false)), "relayhost =\n");
        assert_eq!(
            parameter(
                "relayhost",
                "",
                Style {
                    parts: Parts::Value,
                    fold: false
                }
            ),
            "\n"
        );
    }

    #[test]
    fn entries_fold_before_options_with_values() {
        let text = "s inet n - n - - smtpd -v -oa=b -o { c = d e }\n\
            d unix - n n - - pipe -v\n flags=DRhu user=vmail:vmail argv=/usr/lib/dovecot/deliver -f ${sender} -d ${recipient} {a b}\n";
        let entries = crate::master::entries(text, std::path::Path::new("m")).unwrap();
        let shown: String = entries
            .iter()
            .map(|e| entry(&normalized(e), true))
            .collect();
        assert_eq!(
            shown,
            "s          inet  n       -       n       -       -       smtpd -v\n    -o a=b\n    -o {c=d e}\n\
             d          unix  -       n       n       -       -       pipe -v flags=DRhu\n    user=vmail:vmail argv=/usr/lib/dovecot/deliver -f ${sender} -d ${recipient}\n    {a b}\n"
        );
    }
}
