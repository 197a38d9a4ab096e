//! `cargo fuzz run --features libfuzzer smtp_server`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("smtp_server")(data));
