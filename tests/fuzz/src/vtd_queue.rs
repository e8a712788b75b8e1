//! The invalidation queue of a VT-d.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| iommu::vtd::fuzz::queue(bytes));
