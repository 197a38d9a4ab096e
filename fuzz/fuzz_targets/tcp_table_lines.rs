//! `cargo fuzz run --features libfuzzer tcp_table_lines`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("tcp_table_lines")(data));
