//! Files that people write, and the records of the spool.

use std::path::Path;

use config::edit::{self, Change};
use config::table_file::TableFile;
use config::{Config, main_cf, master};
use queue::record;
use tables::{Format, Reading, TextTable};

/// main.cf: whatever it says, values expand or have an error; an edit sets what it sets and nothing else.
pub fn main_cf(data: &[u8]) {
    let set = Change::Set(vec![("myhostname".into(), "new.example".into())]);
    let (edited, _) = edit::apply(data, &set);
    assert_eq!(edit::apply(&edited, &set).0, edited, "editing twice");

    let text = String::from_utf8_lossy(data);
    let Ok(before) = main_cf::parse(&text, Path::new("main.cf")) else {
        return;
    };
    let (edited, _) = edit::apply(text.as_bytes(), &set);
    let edited = String::from_utf8(edited).expect("an edit adds UTF-8 to UTF-8");
    if let Ok(after) = main_cf::parse(&edited, Path::new("main.cf")) {
        let others = |file: main_cf::MainCf| {
            let settings = file.settings.into_iter();
            let settings = settings.filter(|(name, _)| name != "myhostname");
            settings
                .map(|(name, setting)| (name, setting.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            after.settings["myhostname"].value, "new.example",
            "{edited:?}"
        );
        assert_eq!(others(before), others(after), "{edited:?}");
    }
    if let Ok(config) = Config::from_text(&text, "") {
        for name in config.names() {
            let _ = (config.string(name), config.bool(name), config.int(name));
            let _ = (config.time(name), config.list(name));
        }
        let _ = config.check();
    }
}

/// master.cf: services have the identity that `postconf -M` shows.
pub fn master_cf(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(services) = master::parse(&text, Path::new("master.cf")) else {
        return;
    };
    for service in &services {
        assert!(service.id().contains('/'), "{}", service.id());
    }
    if let Ok(config) = Config::from_text("", &text) {
        for service in config.services() {
            let _ = config.for_service(service).string("myhostname");
        }
    }
}

/// A table file: a parameter that is named has a value and a line.
pub fn table_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(file) = TableFile::from_text(&text, Path::new("x.cf")) else {
        return;
    };
    for name in file.names() {
        assert!(file.get(name).is_some(), "{name}");
        assert!(file.origin(name).is_some(), "{name}");
        let _ = (file.bool(name, true), file.int(name, 0), file.list(name));
    }
}

/// The source text of `hash:`: every entry is found by its key, and none is empty.
pub fn text_table(data: &[u8]) {
    for format in [Format::Map, Format::Aliases, Format::Either] {
        for fold in [false, true] {
            let how = Reading {
                fold,
                files: false,
                format,
            };
            let table = TextTable::parse(data, &how);
            for (key, value) in table.iter() {
                // An alias may be written `"": value` or `name: \`: Postfix takes these too.
                let has_both = !key.is_empty() && !value.is_empty();
                assert!(has_both || format != Format::Map, "{key:?} {value:?}");
                assert_eq!(table.get(key), Some(value), "{key:?}");
            }
        }
    }
}

/// The envelope behind a message in the spool: a whole one, or an error; never more than there was.
pub fn spool_record(data: &[u8]) {
    let Ok(tail) = record::parse_tail(data) else {
        return;
    };
    assert!(tail.whole <= data.len());
    // What was read can be written, and reads the same.
    let written = record::envelope(&tail.envelope);
    let again = record::parse_tail(&written).expect("we wrote it just now");
    assert_eq!(again.envelope, tail.envelope);
}

/// A message divided into its headers and bodies: no line of a body is lost, and no piece holds a line end that is none.
pub fn message_parts(data: &[u8]) {
    use mail::mime::{Depth, Divider, Piece, pieces};
    for depth in [Depth::Message, Depth::Parts] {
        let whole = pieces(data, depth);
        let mut divider = Divider::new(depth, usize::MAX);
        let mut found = Vec::new();
        let text = data.strip_suffix(b"\n").unwrap_or(data);
        if !data.is_empty() {
            for line in text.split(|&byte| byte == b'\n') {
                divider.line(line);
                found.append(&mut divider.take());
            }
        }
        found.append(&mut divider.finish());
        assert_eq!(found, whole);
        for piece in &whole {
            match piece {
                Piece::Body(line) => assert!(!line.contains(&b'\n')),
                Piece::Header(_, header) => {
                    let mut lines = header.split(|&byte| byte == b'\n');
                    assert!(lines.next().is_some_and(|first| first.contains(&b':')));
                    assert!(lines.all(|line| matches!(line.first(), Some(b' ' | b'\t'))));
                }
            }
        }
    }
}
