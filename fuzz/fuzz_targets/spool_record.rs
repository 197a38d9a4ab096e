//! `cargo fuzz run --features libfuzzer spool_record`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("spool_record")(data));
