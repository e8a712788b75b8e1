//! Tables of a VT-d in scalable mode, with PASIDs and two stages.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| iommu::vtd::fuzz::scalable(bytes));
