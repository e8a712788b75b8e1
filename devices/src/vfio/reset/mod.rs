//! How and when an assigned device is reset: when it is taken, when the guest resets it (by
//! itself, by its port's Secondary Bus Reset, or with the machine), and when it is given back.
//! The kernel resets it once more when it is closed, and so also when this process dies.
//!
//! **Which reset.** The kernel's own reset of the one function first (FLR, or what it knows of
//! the device), if it is thorough. A device whose only function reset is by power management
//! keeps much of its state, so there a reset of the whole bus is better (a *hot reset*), and
//! the other one is for when that cannot be: [`set`] says when. A device that has just been
//! reset and that the guest has not touched since is not reset again.

mod set;

use std::fmt;
use std::io;

pub(super) use set::{Company, Scope};
pub use set::{ResetSet, Seat};

use super::backend::{Affected, ResetMethod, VfioBackend};

/// On whose account the device is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Occasion {
    Taken,
    Guest,
    GivenBack,
}

/// Where a device stands with its resets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub enum Standing {
    /// The guest may have used it since it was last reset.
    #[default]
    InUse,
    /// It is silent and is to be reset, but has not been, or not thoroughly.
    Asked,
    /// It has been reset, and nobody has touched it since.
    Reset,
}

/// A reset that was done.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub enum Reset {
    /// Of this function alone, by this method if it is known.
    Function(Option<ResetMethod>),
    /// Of its bus, and with it these other devices.
    Bus(Vec<String>),
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(None) => write!(f, "a reset of the function"),
            Self::Function(Some(method)) => write!(f, "{method}"),
            Self::Bus(others) if others.is_empty() => write!(f, "a reset of its bus"),
            Self::Bus(others) => write!(f, "a reset of its bus, with {}", others.join(" and ")),
        }
    }
}

/// Why a reset was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReset {
    /// None for this function.
    #[error("the kernel has no reset for this function alone")]
    NoFunctionReset,
    /// The kernel knows no way to reset the bus.
    #[error("the kernel cannot reset its bus ({0})")]
    NoBusReset(#[source] io::Error),
    /// Others are on the bus that are not ours.
    #[error("a reset of its bus would also reset {}; assign that too", list(.0))]
    Strangers(Vec<Affected>),
    /// The guest uses another device on the bus.
    #[error("a reset of its bus would also reset {0}, which the guest uses")]
    InUse(String),
    /// It was tried.
    #[error("{0} failed ({1})")]
    Failed(&'static str, #[source] io::Error),
}

fn list(affected: &[Affected]) -> String {
    let shown = affected.iter().map(|other| match &other.driver {
        Some(driver) => format!("{} ({driver})", other.address),
        None => format!("{} (no driver)", other.address),
    });
    shown.collect::<Vec<_>>().join(" and ")
}

/// What came of a reset: which it was, and why it was no better one.
pub(super) struct Outcome {
    pub reset: Option<Reset>,
    pub refusals: Vec<NotReset>,
}

impl Outcome {
    /// It was a reset after which nothing of the last user's is left.
    pub fn is_thorough(&self) -> bool {
        self.reset.as_ref().is_some_and(|reset| !is_weak(reset))
    }

    /// Why there was no better one; `None` if there was nothing to complain of.
    pub fn complaint(&self) -> Option<String> {
        let all: Vec<_> = self.refusals.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

fn is_weak(reset: &Reset) -> bool {
    matches!(reset, Reset::Function(Some(ResetMethod::Pm)))
}

/// Resets a device in the best way there is; `bus` resets its bus, or says why not. Its
/// interrupts must be disabled before: the kernel saves and restores the state of its config
/// space around the reset, and would enable them again.
pub(super) fn reset(
    backend: &dyn VfioBackend,
    bus: impl FnOnce() -> Result<Reset, NotReset>,
) -> Outcome {
    let function = || function_reset(backend);
    let (first, second): (Result<_, _>, Box<dyn FnOnce() -> _>) =
        if backend.can_reset() && backend.reset_method() != Some(ResetMethod::Pm) {
            (function(), Box::new(bus))
        } else {
            (bus(), Box::new(function))
        };
    let mut refusals = Vec::new();
    let mut done = |result: Result<Reset, NotReset>| result.map_err(|e| refusals.push(e)).ok();
    let reset = done(first).or_else(|| done(second()));
    Outcome { reset, refusals }
}

fn function_reset(backend: &dyn VfioBackend) -> Result<Reset, NotReset> {
    if !backend.can_reset() {
        return Err(NotReset::NoFunctionReset);
    }
    let method = backend.reset_method();
    match backend.reset() {
        Ok(()) => Ok(Reset::Function(method)),
        Err(error) => Err(NotReset::Failed("a reset of the function", error)),
    }
}

/// Says in the log what came of it.
pub(super) fn tell(name: &str, occasion: Occasion, outcome: &Outcome) {
    let complaint = outcome.complaint();
    match (&outcome.reset, complaint) {
        (Some(reset), None) => tracing::info!(device = name, ?occasion, "reset: {reset}"),
        (Some(reset), Some(why)) => {
            tracing::info!(device = name, ?occasion, "reset: {reset}, as {why}");
        }
        (None, why) if occasion == Occasion::Taken => tracing::warn!(
            device = name,
            "this device cannot be reset and keeps the state its last user left it in: {}",
            why.unwrap_or_default()
        ),
        (None, why) => {
            let why = why.unwrap_or_default();
            crate::guest_error!(device = name, ?occasion, "the device was not reset: {why}");
        }
    }
}
