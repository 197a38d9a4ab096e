//! `cargo fuzz run --features libfuzzer pcre_file`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("pcre_file")(data));
