//! The services of master.cf, as master(5) defines them.

use crate::error::{ConfigError, Origin};
use crate::lines::{LogicalLine, logical_lines, split_name_value};
use std::path::Path;
use std::time::Duration;

/// Second field of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    Inet,
    Unix,
    Fifo,
    Pass,
    UnixDgram,
}

impl ServiceKind {
    /// As written in master.cf.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceKind::Inet => "inet",
            ServiceKind::Unix => "unix",
            ServiceKind::Fifo => "fifo",
            ServiceKind::Pass => "pass",
            ServiceKind::UnixDgram => "unix-dgram",
        }
    }

    fn parse(text: &str) -> Option<ServiceKind> {
        use ServiceKind::{Fifo, Inet, Pass, Unix, UnixDgram};
        [Inet, Unix, Fifo, Pass, UnixDgram]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// Fifth field: how often the service is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wakeup {
    pub every: Duration,
    /// A `?` follows the number: not before the service was used once.
    pub only_once_used: bool,
}

/// One service, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// For `inet` `host:port` or `port`, otherwise a path below `private/` or `public/`.
    pub name: String,
    pub kind: ServiceKind,
    pub private: bool,
    pub unprivileged: bool,
    pub chroot: bool,
    pub wakeup: Option<Wakeup>,
    /// `None`: `$default_process_limit`. `Some(0)`: no limit.
    pub max_processes: Option<u32>,
    /// The program: `smtpd`, `pipe`, `lmtp`, …
    pub command: String,
    /// Its arguments without `-o`, `-v` and `-D`; a word in `{ }` stands here without its braces.
    pub args: Vec<String>,
    /// `-o name=value`, in order.
    pub overrides: Vec<(String, String)>,
    /// How many `-v` there are.
    pub verbose: u32,
    /// `-D` is given.
    pub debug: bool,
    /// First line of the entry in master.cf.
    pub line: usize,
}

impl Service {
    /// `dovecot/unix`, the name postconf(1) uses.
    pub fn id(&self) -> String {
        format!("{}/{}", self.name, self.kind.as_str())
    }
}

/// An entry as written: the words of the seven fields, then the command and its words, braces kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub fields: Vec<String>,
    pub line: usize,
}

/// Number of fields before the command.
pub(crate) const FIELDS: usize = 7;

/// All services of a master.cf. The last of several with the same name and type counts; `file` serves for messages.
pub fn parse(text: &str, file: &Path) -> Result<Vec<Service>, ConfigError> {
    Ok(effective(&parse_all(text, file)?.0))
}

/// The service of every entry, and warnings in Postfix's words.
pub fn parse_all(text: &str, file: &Path) -> Result<(Vec<Service>, Vec<String>), ConfigError> {
    let (services, warnings, mistakes) = parse_leniently(text, file);
    match mistakes.into_iter().next() {
        Some(mistake) => Err(mistake),
        None => Ok((services, warnings)),
    }
}

/// As Postfix's postconf reads it: only the fields must be right. With warnings in its words.
pub(crate) fn parse_as_written(
    text: &str,
    file: &Path,
) -> Result<(Vec<Service>, Vec<String>), ConfigError> {
    let entries = entries(text, file)?;
    let services: Result<Vec<_>, _> = entries.iter().map(|e| service(e, file, true)).collect();
    let mut warnings = parse_leniently(text, file).1;
    let words = entries.iter().flat_map(|entry| entry.fields.windows(2));
    for pair in words.filter(|pair| pair[0] == "-o" && pair[1].starts_with('{')) {
        let setting = without_braces(&pair[1]);
        if let Err(problem) = split_name_value(setting) {
            warnings.push(format!("master.cf: {problem}: \"{setting}\""));
        }
    }
    Ok((services?, warnings))
}

/// The services that can be read, warnings, and what is wrong with the other entries.
pub(crate) fn parse_leniently(
    text: &str,
    file: &Path,
) -> (Vec<Service>, Vec<String>, Vec<ConfigError>) {
    let (mut services, mut mistakes) = (Vec::new(), Vec::new());
    for line in logical_lines(text)
        .iter()
        .filter(|line| !line.is_indented())
    {
        match entry(line, file).and_then(|entry| service(&entry, file, false)) {
            Ok(service) => services.push(service),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    let indented = logical_lines(text)
        .into_iter()
        .filter(LogicalLine::is_indented);
    let warnings = indented.map(|line| {
        format!(
            "{}: logical line must not start with whitespace: \"{}\"",
            file.display(),
            line.text
        )
    });
    (services, warnings.collect(), mistakes)
}

/// The last of several with the same name and type.
pub(crate) fn effective(written: &[Service]) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for service in written {
        let same = |known: &Service| known.name == service.name && known.kind == service.kind;
        match services.iter().position(same) {
            Some(at) => services[at] = service.clone(),
            None => services.push(service.clone()),
        }
    }
    services
}

/// The entries of `dir/master.cf` as written, in order.
pub fn load_entries(dir: &Path) -> Result<Vec<Entry>, ConfigError> {
    let path = dir.join("master.cf");
    let bytes = std::fs::read(&path).map_err(|e| ConfigError::unreadable(&path, &e))?;
    entries(&String::from_utf8_lossy(&bytes), &path)
}

/// The entries as written, in order.
pub fn entries(text: &str, file: &Path) -> Result<Vec<Entry>, ConfigError> {
    logical_lines(text)
        .iter()
        .filter(|line| !line.is_indented())
        .map(|line| entry(line, file))
        .collect()
}

fn entry(line: &LogicalLine, file: &Path) -> Result<Entry, ConfigError> {
    let fields = words(&line.text);
    if fields.len() <= FIELDS {
        return Err(bad_entry(
            file,
            line.first,
            "bad field count",
            "an entry has eight fields: name, type, private, unprivileged, chroot, wakeup, process limit, command; a long one goes on in an indented line",
        ));
    }
    for (at, field) in fields.iter().take(FIELDS).enumerate() {
        check_field(at, field, &line.text)
            .map_err(|error| error.at(Some(Origin::new(file, line.first))))?;
    }
    Ok(Entry {
        fields,
        line: line.first,
    })
}

/// Whether a field of that position may hold `value`; `within` is quoted in the error.
pub(crate) fn check_field(at: usize, value: &str, within: &str) -> Result<(), ConfigError> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (good, remedy) = match at {
        1 => (
            ServiceKind::parse(value).is_some(),
            "write inet, unix, fifo, pass or unix-dgram",
        ),
        2..=4 => (matches!(value, "y" | "n" | "-"), "write y, n or -"),
        5 => (
            value == "-" || number(value.strip_suffix('?').unwrap_or(value)),
            "write seconds, perhaps followed by ?, or -",
        ),
        6 => (
            value == "-" || number(value),
            "write a number, 0 for no limit, or -",
        ),
        _ => (!value.is_empty(), "write a name"),
    };
    if good {
        return Ok(());
    }
    let problem = format!(
        "invalid {} field \"{value}\" in \"{within}\"",
        crate::show::FIELD_NAMES[at]
    );
    Err(ConfigError::new(problem.clone(), remedy).like_postfix(problem))
}

pub(crate) fn bad_entry(
    file: &Path,
    line: usize,
    problem: impl Into<String>,
    remedy: &str,
) -> ConfigError {
    let problem = problem.into();
    let text = format!("file {}: line {line}: {problem}", file.display());
    ConfigError::new(problem, remedy)
        .at(Some(Origin::new(file, line)))
        .like_postfix(text)
}

/// Words separated by white space; one that starts with `{` reaches to its closing brace.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let mut depth = 0usize;
        let end = rest
            .find(|c: char| match c {
                '{' => {
                    depth += 1;
                    false
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    false
                }
                c => c.is_ascii_whitespace() && depth == 0,
            })
            .unwrap_or(rest.len());
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    words
}

/// The text inside the braces of `{ text }`, trimmed; other words unchanged.
pub(crate) fn without_braces(word: &str) -> &str {
    match word
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    {
        Some(inner) => inner.trim(),
        None => word,
    }
}

/// `lenient`: `-o` words that are no setting are left out, as Postfix's postconf does.
fn service(entry: &Entry, file: &Path, lenient: bool) -> Result<Service, ConfigError> {
    let fail = |problem: String, remedy: &str| bad_entry(file, entry.line, problem, remedy);
    let field = |at: usize| entry.fields[at].as_str();
    let flag = |at: usize, label: &str, default: bool| match field(at) {
        "-" => Ok(default),
        "y" => Ok(true),
        "n" => Ok(false),
        other => Err(fail(
            format!("bad value for \"{label}\": {other}"),
            "write y, n or -",
        )),
    };
    let kind = ServiceKind::parse(field(1)).ok_or_else(|| {
        fail(
            format!("bad transport type: {}", field(1)),
            "the type is inet, unix, fifo, pass or unix-dgram",
        )
    })?;
    let mut service = Service {
        name: field(0).to_owned(),
        kind,
        private: flag(2, "private", true)?,
        unprivileged: flag(3, "unprivileged", true)?,
        chroot: flag(4, "chroot", false)?,
        wakeup: wakeup(field(5)).ok_or_else(|| {
            fail(
                format!("bad value for \"wakeup_time\": {}", field(5)),
                "write seconds, perhaps followed by ?, or -",
            )
        })?,
        max_processes: match field(6) {
            "-" => None,
            number => Some(number.parse().map_err(|_| {
                fail(
                    format!("bad value for \"max_procs\": {number}"),
                    "write a number, 0 for no limit, or -",
                )
            })?),
        },
        command: field(FIELDS).to_owned(),
        args: Vec::new(),
        overrides: Vec::new(),
        verbose: 0,
        debug: false,
        line: entry.line,
    };
    let mut bad = options(&entry.fields[FIELDS + 1..], &mut service);
    if !lenient && !bad.is_empty() {
        return Err(fail(
            bad.swap_remove(0),
            "write -o name=value without spaces, or -o { name = value }",
        ));
    }
    Ok(service)
}

fn wakeup(text: &str) -> Option<Option<Wakeup>> {
    if text == "-" {
        return Some(None);
    }
    let (number, only_once_used) = match text.strip_suffix('?') {
        Some(number) => (number, true),
        None => (text, false),
    };
    let seconds: u32 = number.parse().ok()?;
    Some((seconds > 0).then(|| Wakeup {
        every: Duration::from_secs(u64::from(seconds)),
        only_once_used,
    }))
}

/// Reads the leading options, then takes the rest as arguments. What is wrong with options.
fn options(words: &[String], service: &mut Service) -> Vec<String> {
    let mut bad = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let setting = match word.strip_prefix("-o") {
            Some("") => match rest.next() {
                Some(setting) => setting,
                None => {
                    bad.push("option -o without name=value".to_owned());
                    break;
                }
            },
            Some(attached) => attached,
            None if is_repeated(word, 'v') => {
                service.verbose += u32::try_from(word.len() - 1).unwrap_or(u32::MAX);
                continue;
            }
            None if word == "-D" => {
                service.debug = true;
                continue;
            }
            None => {
                service.args.push(without_braces(word).to_owned());
                if !word.starts_with('-') {
                    break;
                }
                continue;
            }
        };
        match split_name_value(without_braces(setting)) {
            Ok((name, value)) => service.overrides.push((name.to_owned(), value.to_owned())),
            Err(problem) => bad.push(format!("{problem}: \"-o {setting}\"")),
        }
    }
    service
        .args
        .extend(rest.map(|word| without_braces(word).to_owned()));
    bad
}

fn is_repeated(word: &str, letter: char) -> bool {
    word.strip_prefix('-')
        .is_some_and(|letters| !letters.is_empty() && letters.chars().all(|c| c == letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n\
        smtp inet n - y - - smtpd\n  -o a=b -v\n# in between\n  -o { c = d e } -vv\n\
        dovecot unix - n n 60? 5 pipe\n  flags=DRhu user=vmail:vmail argv=/usr/lib/dovecot/dovecot-lda -f ${sender} -d ${recipient} -o x=y { two words }\n\
        smtp inet n - n 300 0 smtpd\n";

    #[test]
    fn services_and_their_overrides() {
        let services = parse(TEXT, Path::new("m")).unwrap();
        assert_eq!(services.len(), 2);
        let smtp = &services[0];
        assert_eq!(
            (smtp.chroot, smtp.private, smtp.max_processes, smtp.line),
            (false, false, Some(0), 8)
        );
        let pipe = &services[1];
        assert!(pipe.wakeup.unwrap().only_once_used);
        assert_eq!(
            pipe.args[2..6],
            ["argv=/usr/lib/dovecot/dovecot-lda", "-f", "${sender}", "-d"]
        );
        assert_eq!(pipe.args[7..], ["-o", "x=y", "two words"]);
        let first = parse(&TEXT[..TEXT.find("dovecot").unwrap()], Path::new("m")).unwrap();
        let pairs = [("a", "b"), ("c", "d e")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(
            (first[0].overrides.as_slice(), first[0].verbose),
            (&pairs[..], 3)
        );
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, expected) in [
            ("smtp inet n\n", "m:1: bad field count"),
            (
                "\nsmtp tcp n - - - - smtpd",
                "m:2: invalid type field \"tcp\" in \"smtp tcp n - - - - smtpd\"; write inet",
            ),
            (
                "smtp inet maybe - - - - smtpd",
                "m:1: invalid private field \"maybe\"",
            ),
            (
                "smtp inet n - - x - smtpd",
                "m:1: invalid wakeup field \"x\"",
            ),
            (
                "smtp inet n - - - x smtpd",
                "m:1: invalid process_limit field \"x\"",
            ),
            (
                "smtp inet n - - - - smtpd -o foo",
                "m:1: missing '=' after attribute name: \"-o foo\"",
            ),
        ] {
            let error = parse(text, Path::new("m")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
