//! `cargo fuzz run --features libfuzzer message_parts`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("message_parts")(data));
