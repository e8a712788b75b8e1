//! Config space, through both mechanisms, of a hierarchy with ports.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pci::fuzz::config(bytes));
