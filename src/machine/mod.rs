//! The machine.

pub mod bus;
