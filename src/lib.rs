//! placeholder

pub mod memory;
