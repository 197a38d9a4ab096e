//! `cargo fuzz run --features libfuzzer milter_replies`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("milter_replies")(data));
