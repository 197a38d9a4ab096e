//! What `postroom check` found: severity, place, consequence, remedy; as text and as JSON.

use std::fmt;
use std::path::{Path, PathBuf};

use config::Origin;
use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Mail is refused, lost or misdirected, or strangers can do what they must not.
    Error,
    /// It works, but not as somebody will expect.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// Where it is. What has no meaning for a finding is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub file: Option<PathBuf>,
    /// Counts from 1.
    pub line: Option<usize>,
    /// The parameter of main.cf, of the table file, or the service of master.cf.
    pub parameter: Option<String>,
    /// The table in the database, or the table file that the row comes from.
    pub table: Option<String>,
    /// The key of the row.
    pub row: Option<String>,
}

impl Place {
    pub fn file(path: impl Into<PathBuf>) -> Place {
        Place {
            file: Some(path.into()),
            ..Place::default()
        }
    }

    /// The file and line of a setting; `fallback` where it is not set but by default.
    pub fn origin(origin: Option<Origin>, fallback: &Path) -> Place {
        match origin {
            Some(origin) => Place {
                line: (origin.line > 0).then_some(origin.line),
                ..Place::file(origin.file)
            },
            None => Place::file(fallback),
        }
    }

    pub fn parameter(mut self, name: &str) -> Place {
        self.parameter = Some(name.to_owned());
        self
    }

    pub fn table(mut self, name: &str) -> Place {
        self.table = Some(name.to_owned());
        self
    }

    pub fn row(mut self, key: &str) -> Place {
        self.row = Some(key.to_owned());
        self
    }
}

/// `FILE:LINE: parameter, table T, row R`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(file) = &self.file {
            let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
            parts.push(format!("{}{line}", file.display()));
        }
        parts.extend(self.parameter.clone());
        parts.extend(self.table.iter().map(|name| format!("table {name}")));
        parts.extend(self.row.iter().map(|key| format!("row {}", shown(key))));
        f.write_str(&parts.join(", "))
    }
}

/// Text from a database for a terminal: control characters and odd white space are written out.
pub fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let plain = c == ' ' || !(c.is_control() || c.is_whitespace());
            match plain {
                true => vec![c],
                false => c.escape_unicode().collect(),
            }
        })
        .collect()
}

/// A step of the remedy that can be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fix {
    /// A command for a shell, as root.
    Shell(String),
    /// A statement for the database, as its administrator.
    Sql(String),
}

/// One thing that is wrong, or will surprise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Its name, the same in every version: docs/check.md lists them.
    pub code: &'static str,
    pub place: Place,
    /// What was found.
    pub text: String,
    pub consequence: String,
    pub remedy: String,
    /// The remedy as commands, where it can be given so.
    pub fix: Vec<Fix>,
}

impl Finding {
    pub fn new(severity: Severity, code: &'static str, place: Place, text: String) -> Finding {
        Finding {
            severity,
            code,
            place,
            text,
            consequence: String::new(),
            remedy: String::new(),
            fix: Vec::new(),
        }
    }

    /// What follows from it.
    pub fn so(mut self, consequence: impl Into<String>) -> Finding {
        self.consequence = consequence.into();
        self
    }

    /// What to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = remedy.into();
        self
    }

    pub fn shell(mut self, command: impl Into<String>) -> Finding {
        self.fix.push(Fix::Shell(command.into()));
        self
    }

    pub fn sql(mut self, statement: impl Into<String>) -> Finding {
        self.fix.push(Fix::Sql(statement.into()));
        self
    }
}

impl Finding {
    /// Whether both are told in one go: only the places differ.
    fn goes_with(&self, other: &Finding) -> bool {
        self.severity == other.severity
            && self.code == other.code
            && self.consequence == other.consequence
            && self.remedy == other.remedy
    }
}

/// Findings of one kind with the same consequence and remedy, as text.
fn write_group(f: &mut fmt::Formatter<'_>, group: &[Finding]) -> fmt::Result {
    let line = |f: &mut fmt::Formatter<'_>, label: &str, text: &str| match text {
        "" => Ok(()),
        text => writeln!(f, "  {label:<12} {}", shown(text)),
    };
    let Some(first) = group.first() else {
        return Ok(());
    };
    writeln!(f, "{}: {}", first.severity.name(), first.code)?;
    for finding in group {
        line(f, "place", &finding.place.to_string())?;
        line(f, "found", &finding.text)?;
    }
    line(f, "consequence", &first.consequence)?;
    line(f, "remedy", &first.remedy)?;
    for fix in group.iter().flat_map(|finding| &finding.fix) {
        match fix {
            Fix::Shell(command) => line(f, "", &format!("# {command}"))?,
            Fix::Sql(statement) => line(f, "", &format!("sql> {statement}"))?,
        }
    }
    Ok(())
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Tables named in the configuration.
    pub tables: usize,
    /// Names of domains in lists and tables.
    pub domains: usize,
    /// Rows of `virtual_mailbox_maps`.
    pub mailboxes: usize,
    /// Rows of `virtual_alias_maps`, those that map a mailbox to itself included.
    pub aliases: usize,
}

/// All findings, the worst first.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub looked_at: Looked,
}

impl Report {
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether lookups change nothing, as far as is known: otherwise none must be made.
    pub fn may_look_up(&self) -> bool {
        let writes = |finding: &Finding| finding.code == crate::database::QUERY_WRITES;
        !self.findings.iter().any(writes)
    }

    /// Puts the worst first; those of one severity stay in the order in which they were found.
    pub fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.severity);
    }

    pub fn count(&self, severity: Severity) -> usize {
        let wanted = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(wanted).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in self.findings.chunk_by(Finding::goes_with) {
            write_group(f, group)?;
            writeln!(f)?;
        }
        let count = |number: usize, one: &str| {
            let ending = if number == 1 { "" } else { "s" };
            format!("{number} {one}{ending}")
        };
        let Looked {
            tables,
            domains,
            mailboxes,
            aliases,
        } = self.looked_at;
        writeln!(
            f,
            "looked at {}, {}, {mailboxes} mailbox row{}, {aliases} alias row{}",
            count(tables, "table"),
            count(domains, "domain"),
            if mailboxes == 1 { "" } else { "s" },
            if aliases == 1 { "" } else { "s" },
        )?;
        if self.findings.is_empty() {
            return writeln!(f, "found nothing");
        }
        writeln!(
            f,
            "found {}, {}, {}",
            count(self.count(Severity::Error), "error"),
            count(self.count(Severity::Warning), "warning"),
            count(self.count(Severity::Note), "note"),
        )
    }
}

/// The findings of one kind: the first are told one by one, the others counted.
pub(crate) struct Capped {
    limit: usize,
    told: usize,
    more: usize,
    last: Option<Finding>,
}

impl Capped {
    pub fn new(limit: usize) -> Capped {
        Capped {
            limit,
            told: 0,
            more: 0,
            last: None,
        }
    }

    /// Whether the next one would be told: where not, it need not be confirmed.
    pub fn is_full(&self) -> bool {
        self.told >= self.limit
    }

    /// Counts one that is not told.
    pub fn skip(&mut self) {
        self.more += 1;
    }

    pub fn add(&mut self, report: &mut Report, finding: Finding) {
        if self.is_full() {
            return self.skip();
        }
        self.told += 1;
        self.last = Some(finding.clone());
        report.add(finding);
    }

    /// Says how many were left out.
    pub fn finish(self, report: &mut Report) {
        let (Some(last), 1..) = (self.last, self.more) else {
            return;
        };
        let place = Place {
            row: None,
            ..last.place
        };
        let text = format!("about {} more like the {} above", self.more, self.told);
        let finding = Finding::new(last.severity, last.code, place, text)
            .so(last.consequence)
            .remedy("`postroom check --all` lists them");
        report.add(finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_cannot_write_to_the_terminal() {
        let mut report = Report::default();
        let place = Place::default().table("t").row("a\u{1b}[2J\u{a0}b");
        let text = "the alias x leads to \u{1b}]0;title\u{7}".to_owned();
        report.add(Finding::new(Severity::Note, "x", place, text).so("a\rb"));
        let text = report.to_string();
        assert!(text.contains("row a\\u{1b}[2J\\u{a0}b"), "{text}");
        assert!(
            !text.contains(['\u{1b}', '\r', '\u{7}', '\u{a0}']),
            "{text:?}"
        );
    }

    #[test]
    fn the_worst_comes_first_and_like_goes_with_like() {
        let finding = |severity, file: &str| {
            Finding::new(severity, "x", Place::file(file), format!("found {file}")).so("then")
        };
        let mut report = Report::default();
        report.add(finding(Severity::Note, "a"));
        report.add(finding(Severity::Error, "b"));
        report.add(finding(Severity::Error, "c").sql("SELECT 1;"));
        report.sort();
        let expected = "error: x\n  place        b\n  found        found b\n  place        c\n  found        found c\n  \
             consequence  then\n               sql> SELECT 1;\n\n\
             note: x\n  place        a\n  found        found a\n  consequence  then\n\n\
             looked at 0 tables, 0 domains, 0 mailbox rows, 0 alias rows\n\
             found 2 errors, 0 warnings, 1 note\n";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn beyond_the_limit_they_are_counted() {
        let mut report = Report::default();
        let mut capped = Capped::new(2);
        for row in 0..5 {
            let place = Place::default().row(&row.to_string());
            capped.add(
                &mut report,
                Finding::new(Severity::Error, "x", place, "t".into()),
            );
        }
        assert!(capped.is_full());
        capped.finish(&mut report);
        let texts: Vec<&str> = report.findings.iter().map(|f| f.text.as_str()).collect();
        assert_eq!(texts, ["t", "t", "about 3 more like the 2 above"]);
        assert_eq!(report.findings[2].place.row, None);
    }
}
