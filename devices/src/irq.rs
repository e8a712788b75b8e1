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

/// A device whose level cannot be seen, only asked for: one of the host's, behind VFIO.
pub trait Resample: Send + Sync {
    /// Asks whether the device still asserts its interrupt. If so, its trigger is signalled
    /// again, now or soon. May be called at any time, from any thread.
    fn resample(&self);
}

/// An input of the interrupt controllers for devices that can only be asked for their level.
///
/// **Contract.** Such a device signals its *trigger* once when it asserts its interrupt, and
/// is then held back from doing so again (VFIO masks it in the device or at the host's
/// controller); nobody is told when it lets go. So from the signal on its line counts as
/// asserted, until the guest *may have served* the device: it has ended an interrupt of the
/// input at a controller (EOI), or unmasked the input, or changed what the input makes of an
/// interrupt. Then the line counts as deasserted, and the device is asked
/// ([`Resample::resample`], in this order, so that its answer is not wiped out).
///
/// From this follows, whoever else shares the wire:
/// - **None is lost.** A device that asserts has either signalled, and its line is asserted,
///   or is asked when the guest next ends, unmasks or reprograms. A signal that meets a
///   masked input waits there as a level does.
/// - **None sticks.** A line that counts as asserted makes an interrupt, whose end asks.
/// - One too many is possible: of a device that was asked while the guest was about to serve
///   it. Handlers of level interrupts expect that.
///
/// While an input is open (unmasked, and ending with an EOI), an implementation may hand the
/// trigger to the kernel, which then sends the input's message with no thread of ours in
/// between. What it sent is neither in the level nor in the Remote IRR that a guest reads of
/// the I/O APIC: its EOI counts for all devices of the input.
pub trait LevelInput: Send + Sync {
    /// Connects a device.
    fn connect(&self, device: Arc<dyn Resample>) -> Result<Box<dyn LevelRoute>, RouteError>;
}

/// A device's connection to a [`LevelInput`]. Dropping it lets go of the line.
pub trait LevelRoute: Send + Sync {
    /// What to signal when the device asserts its interrupt.
    fn trigger(&self) -> &EventFd;

    /// Lets go of the line and asks the device.
    fn ask(&self);
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
