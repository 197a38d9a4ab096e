//! `cargo fuzz run --features libfuzzer text_table`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("text_table")(data));
