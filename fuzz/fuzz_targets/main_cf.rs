//! `cargo fuzz run --features libfuzzer main_cf`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("main_cf")(data));
