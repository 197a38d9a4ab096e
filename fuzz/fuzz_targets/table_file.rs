//! `cargo fuzz run --features libfuzzer table_file`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("table_file")(data));
