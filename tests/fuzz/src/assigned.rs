//! An assigned device of arbitrary registers, and a guest that writes any.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| devices::vfio::fuzz::device(bytes));
