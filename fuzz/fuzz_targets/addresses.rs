//! `cargo fuzz run --features libfuzzer addresses`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("addresses")(data));
