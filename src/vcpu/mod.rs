//! vCPUs: what they are told of themselves, how they start, and the loop that answers their
//! exits.

mod coalesced;
pub mod cpuid;
mod gate;
mod kick;
mod power_on;
mod run;
mod stats;

pub use coalesced::CoalescedRing;
pub use gate::Gate;
pub use kick::{Kicker, install_handler};
pub use power_on::PowerOn;
pub use run::{Interrupts, Shared, Spaces, Vcpu, Verdict, Verdicts};
pub use stats::{ExitCounts, ExitKind};
