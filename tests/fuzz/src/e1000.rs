//! Registers, descriptors and frames of an e1000.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| devices::e1000::fuzz::accesses(bytes));
