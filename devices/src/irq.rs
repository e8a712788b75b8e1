//! Interrupts out of a device. Level lines and messages are different types, because they
//! are different contracts: a line stays asserted until the device lets go, a message is
//! sent once.

use std::sync::Arc;

use pci::{Bdf, MsiMessage};
use vmm_sys_util::eventfd::EventFd;

/// One device's end of a level-triggered wire. The wire itself may be shared: it is
/// asserted while any of its ends is.
pub trait LineSink: Send + Sync {
    /// Drives the wire. Calling it again with the same level changes nothing.
    fn set(&self, asserted: bool);
}

/// A level-triggered interrupt (an ISA IRQ or PCI INTx).
#[derive(Clone)]
pub struct IrqLine(Arc<dyn LineSink>);

impl IrqLine {
    /// A line into `sink`.
    pub fn new(sink: Arc<dyn LineSink>) -> Self {
        Self(sink)
    }

    /// Asserts or deasserts the line.
    pub fn set(&self, asserted: bool) {
        self.0.set(asserted);
    }
}

/// Takes interrupt messages that the IOMMU has resolved.
pub trait MsiSink: Send + Sync {
    /// Delivers one message.
    fn send(&self, message: MsiMessage);
}

/// Interrupts that reach the guest without this process: an event the kernel turns into a
/// message. Each one takes a GSI; they are bounded.
pub trait MsiRoutes: Send + Sync {
    /// Takes a GSI for a vector of `requester` and routes `message` to it.
    fn allocate(
        &self,
        requester: Bdf,
        message: MsiMessage,
    ) -> Result<Box<dyn MsiRoute>, RouteError>;
}

/// A live route: signalling its event delivers its message. Dropping it ends the route and
/// frees the GSI.
pub trait MsiRoute: Send + Sync {
    /// What to signal, from the kernel (an assigned device's trigger) or from here.
    fn event(&self) -> &EventFd;

    /// Changes the message; interrupts in flight go to the old or the new one, none is lost.
    fn update(&self, message: MsiMessage) -> Result<(), RouteError>;
}

/// A route could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Every GSI is in use.
    #[error("all {0} interrupt routes are in use")]
    Exhausted(usize),
    /// The IOMMU blocks the message.
    #[error(transparent)]
    Blocked(#[from] iommu::Fault),
    /// The kernel refused.
    #[error("the kernel refused an interrupt route")]
    Kernel(#[source] std::io::Error),
}
