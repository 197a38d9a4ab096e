//! The text of a suite: what `side_by_side/README.md` describes.

use std::collections::BTreeMap;
use std::path::Path;

/// Which of the compared things may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Replies,
    Log,
    Mail,
}

/// A configuration directory, and the dialogues to be spoken.
#[derive(Debug, Default)]
pub struct Suite {
    pub name: String,
    pub main: String,
    pub master: String,
    /// The settings of each further smtpd service, one a line.
    pub services: BTreeMap<String, String>,
    pub files: Vec<(String, String)>,
    pub dialogues: Vec<Dialogue>,
}

#[derive(Debug)]
pub struct Dialogue {
    pub name: String,
    /// Empty: the site's own port.
    pub service: String,
    pub lines: Vec<String>,
    /// Expected differences: in which part (None: any), and why.
    pub differences: Vec<(Option<Part>, String)>,
}

impl Dialogue {
    pub fn expects(&self, part: Part) -> bool {
        let mut parts = self.differences.iter().map(|(part, _)| part);
        parts.any(|expected| expected.is_none_or(|expected| expected == part))
    }
}

impl Suite {
    /// Reads `tests/side_by_side/NAME.suite`.
    pub fn read(name: &str) -> Suite {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/side_by_side");
        let path = folder.join(format!("{name}.suite"));
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Suite::parse(name, &text)
    }

    pub fn parse(name: &str, text: &str) -> Suite {
        let mut suite = Suite {
            name: name.to_owned(),
            ..Suite::default()
        };
        let mut section: Option<(String, String)> = None;
        for line in text.lines() {
            let header = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            match (header, &mut section) {
                (Some((head, rest)), _) => {
                    suite.take(section.take());
                    section = Some((format!("{head} {}", rest.trim()), String::new()));
                }
                (None, Some((_, body))) => {
                    body.push_str(line);
                    body.push('\n');
                }
                (None, None) => assert!(
                    line.is_empty() || line.starts_with('#'),
                    "{name}: text before the first section: {line:?}"
                ),
            }
        }
        suite.take(section);
        suite
    }

    fn take(&mut self, section: Option<(String, String)>) {
        let Some((head, body)) = section else { return };
        let body = body.trim_end().to_owned() + "\n";
        let (kind, rest) = head.trim().split_once(' ').unwrap_or((head.trim(), ""));
        let (argument, title) = match rest.split_once(':') {
            Some((argument, title)) => (argument.trim().to_owned(), title.trim().to_owned()),
            None => (rest.trim().to_owned(), String::new()),
        };
        match kind {
            "main" => self.main += &body,
            "master" => self.master += &body,
            "service" => {
                let before = self.services.insert(argument.clone(), body);
                assert!(before.is_none(), "{}: service {argument} twice", self.name);
            }
            "file" => self.files.push((argument, body)),
            "dialogue" => self.add_dialogue(argument, title, &body),
            other => panic!("{}: no such section: [{other}]", self.name),
        }
    }

    fn add_dialogue(&mut self, service: String, title: String, body: &str) {
        assert!(
            service.is_empty() || self.services.contains_key(&service),
            "{}: no [service {service}] before its dialogue {title:?}",
            self.name
        );
        let mut dialogue = Dialogue {
            name: format!("{service}: {title}"),
            service,
            lines: Vec::new(),
            differences: Vec::new(),
        };
        for line in body.lines().filter(|line| !line.is_empty()) {
            if let Some(difference) = line.strip_prefix("# difference") {
                let (part, reason) = difference.split_once(':').unwrap_or((difference, ""));
                let part = match part.trim() {
                    "" => None,
                    "(replies)" => Some(Part::Replies),
                    "(log)" => Some(Part::Log),
                    "(mail)" => Some(Part::Mail),
                    other => panic!("{}: no such part: {other}", dialogue.name),
                };
                assert!(
                    !reason.trim().is_empty(),
                    "{}: a difference needs its reason",
                    dialogue.name
                );
                let reason = reason.trim().to_owned();
                dialogue.differences.push((part, reason));
            } else if !line.starts_with("# ") {
                dialogue.lines.extend(expand(line, &title));
            }
        }
        self.dialogues.push(dialogue);
    }
}

/// What the abbreviations of a dialogue stand for.
fn expand(line: &str, title: &str) -> Vec<String> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let command = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let own = |lines: &[&str]| lines.iter().map(|line| line.to_string()).collect();
    match (command, words.as_slice()) {
        ("@from", [name, address]) => own(&[
            &format!("XCLIENT NAME={name} ADDR={address}"),
            "EHLO client.example",
        ]),
        ("@mail", [from, to @ ..]) => {
            let mut lines = vec![format!("MAIL FROM:{from}")];
            lines.extend(to.iter().map(|to| format!("RCPT TO:{to}")));
            lines
        }
        ("@data", _) => own(&["DATA", &format!("|Subject: {title}"), "|", "|text", "."]),
        (word, _) if word.starts_with('@') => panic!("{title}: no such abbreviation: {line}"),
        _ => vec![line.to_owned()],
    }
}
