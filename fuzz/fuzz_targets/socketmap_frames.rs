//! `cargo fuzz run --features libfuzzer socketmap_frames`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postroom_fuzz::target("socketmap_frames")(data));
