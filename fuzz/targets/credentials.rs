#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| callbackd_fuzz::run("credentials", bytes));
