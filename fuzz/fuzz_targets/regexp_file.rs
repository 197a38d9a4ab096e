//! `cargo fuzz run --features libfuzzer regexp_file`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("regexp_file")(data));
