//! Files of patterns: whatever they say, the table opens or has an error, and a lookup answers or fails.

use std::io::{Seek, SeekFrom, Write};

use config::Config;
use tables::Tables;

/// Keys of the kinds that such tables are asked for: addresses of clients and of mail, header lines, no UTF-8.
const KEYS: &[&[u8]] = &[
    b"192.0.2.1",
    b"2001:db8::1",
    b"john+ext@example.org",
    b"Subject: (a) [b] {c} \\d",
    b"aaaaaaaaaaaaaaaaaaaaaaaaab",
    b"\xff\xfe",
    b"",
];

pub fn cidr_file(data: &[u8]) {
    ask_all("cidr", data);
}

pub fn pcre_file(data: &[u8]) {
    ask_all("pcre", data);
}

pub fn regexp_file(data: &[u8]) {
    ask_all("regexp", data);
}

fn ask_all(kind: &str, data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let written = file
        .write_all(data)
        .and_then(|()| file.seek(SeekFrom::Start(0)));
    written.expect("room for a small file");
    let config = Config::from_text("", "").expect("an empty configuration");
    let spec = format!("{kind}:{}", file.path().display());
    let Ok(table) = Tables::new(&config).open(&spec) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers");
    for key in KEYS {
        let first = runtime.block_on(table.lookup_bytes(key));
        let second = runtime.block_on(table.lookup_bytes(key));
        assert_eq!(first, second, "{key:?}");
    }
}
