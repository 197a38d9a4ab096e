//! `cargo fuzz run --features libfuzzer master_cf`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("master_cf")(data));
