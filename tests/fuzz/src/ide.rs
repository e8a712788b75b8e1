//! Ports, commands and descriptor tables of an IDE controller.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| devices::ide::fuzz::accesses(bytes));
