//! `cargo fuzz run --features libfuzzer cidr_file`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("cidr_file")(data));
