//! The machine.

pub mod bus;
pub mod event_loop;
pub mod installer;
pub mod requests;
pub mod timers;
