//! INTx of an assigned device (PCIe 6.0 §6.1.2; linux/vfio.h, VFIO_PCI_INTX_IRQ_INDEX).
//!
//! The kernel signals the trigger when the device asserts its pin and masks the pin in doing
//! so, with Interrupt Disable in the device or at the host's controller. What happens between
//! the trigger and the guest is the [`LevelInput`]'s; when that asks for the level, the pin
//! is unmasked, by an event that the kernel listens to or, with drivers that do not (mtty),
//! by a call. The guest's accesses to the device say nothing about its pin and are not
//! looked at.
//!
//! INTx is armed while the guest has neither MSI nor MSI-X enabled, from the day the device
//! is wired on. The guest's Interrupt Disable does not disarm it: the kernel follows that bit
//! by itself (`config` forwards it), keeps the pin masked and looks at it anew afterwards.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::backend::{IrqKind, TriggerError, VfioBackend};
use crate::guest_error;
use crate::irq::{LevelInput, LevelRoute, Resample, RouteError};

/// INTx could not be armed.
#[derive(Debug, thiserror::Error)]
enum IntxError {
    #[error("no event could be made")]
    Event(#[source] io::Error),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Trigger(#[from] TriggerError),
}

/// The interrupt pin.
pub(super) struct Intx {
    name: Arc<str>,
    backend: Arc<dyn VfioBackend>,
    /// Where it leads; nowhere until the device is on a bus.
    input: Option<Arc<dyn LevelInput>>,
    route: Option<Box<dyn LevelRoute>>,
    /// The kernel failed to disable it.
    lingers: bool,
    /// The guest has set Interrupt Disable.
    muted: bool,
    failures: u64,
}

/// INTx as data.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct IntxState {
    /// The pin's interrupts go to the guest, if it has not disabled them.
    pub armed: bool,
    /// How often it could not be armed.
    pub failures: u64,
}

impl Intx {
    pub fn new(name: Arc<str>, backend: Arc<dyn VfioBackend>) -> Self {
        Self {
            name,
            backend,
            input: None,
            route: None,
            lingers: false,
            muted: false,
            failures: 0,
        }
    }

    pub fn state(&self) -> IntxState {
        IntxState {
            armed: self.route.is_some(),
            failures: self.failures,
        }
    }

    /// Solders the pin to an input.
    pub fn wire(&mut self, input: Arc<dyn LevelInput>) {
        self.input = Some(input);
    }

    /// Arms it; `muted` is the guest's Interrupt Disable, which the kernel knows by now. True
    /// if it is armed.
    pub fn arm(&mut self, muted: bool) -> bool {
        let changed = std::mem::replace(&mut self.muted, muted) != muted;
        if let Some(route) = &self.route {
            if changed {
                // A muted device drives nothing; one that no longer is drives what it wants.
                route.ask();
            }
            return true;
        }
        let Some(input) = self.input.clone() else {
            return false;
        };
        match self.connect(&*input) {
            Ok(route) => self.route = Some(route),
            Err(error) => {
                self.failures += 1;
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                guest_error!(device = &*self.name, %error, cause, "INTx is dead");
            }
        }
        self.route.is_some()
    }

    /// Disarms it: the kernel first, then the line. One that the kernel failed to disable is
    /// tried again.
    pub fn disarm(&mut self) {
        if self.route.is_none() && !self.lingers {
            return;
        }
        let disabled = self.backend.disable_irqs(IrqKind::Intx);
        self.lingers = disabled.is_err();
        if let Err(error) = disabled {
            guest_error!(device = &*self.name, %error, "INTx was not disabled");
        }
        self.route = None;
    }

    fn connect(&mut self, input: &dyn LevelInput) -> Result<Box<dyn LevelRoute>, IntxError> {
        let flags = EFD_NONBLOCK | EFD_CLOEXEC;
        let unmask = Arc::new(Unmask {
            event: EventFd::new(flags).map_err(IntxError::Event)?,
            heard: AtomicBool::new(false),
            backend: Arc::clone(&self.backend),
        });
        let route = input.connect(Arc::clone(&unmask) as Arc<dyn Resample>)?;
        self.backend
            .set_triggers(IrqKind::Intx, 0, &[Some(route.trigger())])?;
        self.lingers = false;
        // Until here, and if the kernel will not listen, by calls.
        match self.backend.set_unmask_event(&unmask.event) {
            Ok(()) => unmask.heard.store(true, Ordering::SeqCst),
            Err(error) => tracing::debug!(device = &*self.name, %error, "INTx unmasked by calls"),
        }
        // What was asked before the device was armed went nowhere.
        route.ask();
        Ok(route)
    }
}

/// Unmasks the pin.
struct Unmask {
    event: EventFd,
    /// The kernel listens to `event`.
    heard: AtomicBool,
    backend: Arc<dyn VfioBackend>,
}

impl Resample for Unmask {
    fn resample(&self) {
        let asked = if self.heard.load(Ordering::SeqCst) {
            self.event.write(1)
        } else {
            self.backend.unmask_intx()
        };
        if let Err(error) = asked {
            // Nothing is lost where INTx is not armed, or no longer.
            tracing::debug!(%error, "INTx was not unmasked");
        }
    }
}
