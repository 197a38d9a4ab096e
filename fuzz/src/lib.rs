//! What a stranger, a file or a peer can make us read, and what must hold whatever it is. Each target is a function of
//! bytes: `fuzz_targets/` gives it to libFuzzer, `tests/corpora.rs` runs it over the inputs in `corpus/` with every other test.

mod files;
mod patterns;
mod protocols;

/// A target takes any bytes and panics where something does not hold.
pub type Target = fn(&[u8]);

/// All targets, by the name of their folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("addresses", protocols::addresses),
    ("cidr_file", patterns::cidr_file),
    ("main_cf", files::main_cf),
    ("master_cf", files::master_cf),
    ("message_parts", files::message_parts),
    ("milter_replies", protocols::milter_replies),
    ("pcre_file", patterns::pcre_file),
    ("regexp_file", patterns::regexp_file),
    ("smtp_client", protocols::smtp_client),
    ("smtp_server", protocols::smtp_server),
    ("socketmap_frames", protocols::socketmap_frames),
    ("spool_record", files::spool_record),
    ("table_file", files::table_file),
    ("tcp_table_lines", protocols::tcp_table_lines),
    ("text_table", files::text_table),
];

/// The target of that name; the names are those of [`TARGETS`].
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found
        .expect("fuzz_targets/ and TARGETS have the same names")
        .1
}
