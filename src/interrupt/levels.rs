//! Level interrupts of assigned devices, whose level can only be asked for
//! ([`LevelInput`] has the contract): from their triggers to the wires of the board, and from
//! what the guest does at the I/O APIC and the 8259 pair back to them.
//!
//! A trigger goes one of two ways:
//! - While the I/O APIC's pin is open, it is an irqfd of KVM's on the pin's GSI, and KVM
//!   sends the message that the GSI is routed to. No thread of ours sees it.
//! - Otherwise (the pin is masked, or the guest uses the 8259 pair) a thread waits for it and
//!   asserts the device's end of the wire, which the controllers then treat as any level.
//!
//! Either way is right at any time, also for a trigger that just changes from one to the
//! other; only the costs differ. While the I/O APIC's pin is open, the 8259 pair does not see
//! the line: no guest takes one interrupt from both.
//!
//! **Locks.** An end's lock is held while its wire is driven, and so before those of the
//! I/O APIC and the 8259 pair; a pin's lock is taken with the I/O APIC locked, and nothing
//! is driven under it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use devices::guest_error;
use devices::irq::{IrqLine, LevelInput, LevelRoute, Resample, RouteError};
use devices::platform::intx::{FIRST_PIRQ_PIN, IntxRouter, pirq};
use pci::InterruptPin;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::IOAPIC_PINS;
use super::watch::{Watch, Watched};

/// Has the kernel send a pin's message whenever an event is signalled.
pub trait Injector: Send + Sync {
    /// Begins. An event that was signalled before counts.
    fn attach(&self, trigger: &EventFd, pin: u8) -> io::Result<()>;

    /// Ends. When it returns, the event is the caller's again.
    fn detach(&self, trigger: &EventFd, pin: u8);
}

/// The inputs.
pub struct Levels {
    injector: Arc<dyn Injector>,
    pins: [Mutex<Pin>; IOAPIC_PINS],
    wires: OnceLock<Weak<IntxRouter>>,
    watch: Watch,
}

/// A pin of the I/O APIC.
#[derive(Default)]
struct Pin {
    open: bool,
    ends: Vec<Wired>,
}

struct Wired {
    end: Arc<End>,
    /// KVM has the trigger.
    direct: bool,
}

impl Pin {
    /// Gives triggers to KVM, or takes them back, as the pin is open or not.
    fn settle(&mut self, pin: u8, injector: &dyn Injector) {
        for wired in &mut self.ends {
            if wired.direct == self.open {
                continue;
            }
            wired.direct = self.open;
            if !self.open {
                injector.detach(&wired.end.trigger, pin);
            } else if let Err(error) = injector.attach(&wired.end.trigger, pin) {
                // The thread has it.
                wired.direct = false;
                guest_error!(pin, %error, "an assigned device's INTx goes the long way");
            }
        }
    }
}

impl Levels {
    /// Inputs with nothing connected. [`Self::solder`] must follow.
    pub fn new(injector: Arc<dyn Injector>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            injector,
            pins: Default::default(),
            wires: OnceLock::new(),
            watch: Watch::new("levels")?,
        }))
    }

    /// Says which wires lead to the controllers.
    pub fn solder(&self, wires: &Arc<IntxRouter>) {
        let _ = self.wires.set(Arc::downgrade(wires));
    }

    /// The input for a pin of a device on bus 0.
    pub fn input(self: &Arc<Self>, device: u8, pin: InterruptPin) -> Arc<dyn LevelInput> {
        Arc::new(Input {
            levels: self.clone(),
            device,
            pin,
        })
    }

    /// A pin is open or no longer so. Called with the I/O APIC locked.
    pub fn open(&self, pin: u8, open: bool) {
        if let Some(mut state) = self.pin(pin) {
            state.open = open;
            state.settle(pin, &*self.injector);
        }
    }

    /// The guest may have served the devices of a pin. Called with no controller locked.
    pub fn served(&self, pin: u8) {
        let ends = self.pin(pin).map(|state| {
            let ends = state.ends.iter();
            ends.map(|wired| wired.end.clone()).collect::<Vec<_>>()
        });
        ends.iter().flatten().for_each(|end| end.ask());
    }

    /// As [`Self::served`], of an input of the 8259 pair.
    pub fn pic_served(&self, irq: u8) {
        if let Some(wires) = self.wires() {
            for pirq in wires.pirqs_on(irq) {
                self.served(FIRST_PIRQ_PIN + pirq);
            }
        }
    }

    /// The wires lead to other inputs of the 8259 pair now: an interrupt under way may never
    /// be ended where it is looked for.
    pub fn rerouted(&self) {
        (FIRST_PIRQ_PIN..IOAPIC_PINS as u8).for_each(|pin| self.served(pin));
    }

    fn wires(&self) -> Option<Arc<IntxRouter>> {
        self.wires.get()?.upgrade()
    }

    fn pin(&self, pin: u8) -> Option<MutexGuard<'_, Pin>> {
        let state = self.pins.get(usize::from(pin))?;
        Some(state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn connect(&self, pin: u8, end: &Arc<End>) -> io::Result<()> {
        let watched: Arc<dyn Watched> = end.clone();
        self.watch.add(&end.trigger, Arc::downgrade(&watched))?;
        if let Some(mut state) = self.pin(pin) {
            state.ends.push(Wired {
                end: end.clone(),
                direct: false,
            });
            state.settle(pin, &*self.injector);
        }
        Ok(())
    }

    fn disconnect(&self, pin: u8, end: &Arc<End>) {
        if let Some(mut state) = self.pin(pin) {
            state.ends.retain(|wired| {
                let other = !Arc::ptr_eq(&wired.end, end);
                if !other && wired.direct {
                    self.injector.detach(&end.trigger, pin);
                }
                other
            });
        }
        self.watch.remove(&end.trigger);
        end.disconnect();
    }
}

struct Input {
    levels: Arc<Levels>,
    device: u8,
    pin: InterruptPin,
}

impl LevelInput for Input {
    fn connect(&self, device: Arc<dyn Resample>) -> Result<Box<dyn LevelRoute>, RouteError> {
        let unsoldered = || RouteError::Kernel(io::ErrorKind::NotConnected.into());
        let wires = self.levels.wires().ok_or_else(unsoldered)?;
        let flags = EFD_NONBLOCK | EFD_CLOEXEC;
        let end = Arc::new(End {
            trigger: EventFd::new(flags).map_err(RouteError::Kernel)?,
            device,
            line: wires.line(self.device, self.pin),
            connected: Mutex::new(true),
        });
        let pin = FIRST_PIRQ_PIN + pirq(self.device, self.pin);
        let connected = self.levels.connect(pin, &end);
        connected.map_err(RouteError::Kernel)?;
        Ok(Box::new(Route {
            levels: self.levels.clone(),
            pin,
            end,
        }))
    }
}

struct Route {
    levels: Arc<Levels>,
    pin: u8,
    end: Arc<End>,
}

impl LevelRoute for Route {
    fn trigger(&self) -> &EventFd {
        &self.end.trigger
    }

    fn ask(&self) {
        self.end.ask();
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.levels.disconnect(self.pin, &self.end);
    }
}

/// A device's end of a wire.
struct End {
    trigger: EventFd,
    device: Arc<dyn Resample>,
    line: IrqLine,
    /// Once false the line stays deasserted.
    connected: Mutex<bool>,
}

impl End {
    fn drive(&self, asserted: bool) {
        let connected = self.lock();
        if *connected {
            self.line.set(asserted);
        }
    }

    fn ask(&self) {
        self.drive(false);
        self.device.resample();
    }

    fn disconnect(&self) {
        let mut connected = self.lock();
        *connected = false;
        self.line.set(false);
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for End {
    /// KVM takes a trigger that is its own before this is called; an old kernel's may leave it
    /// to us, and the long way is as right.
    fn readable(&self) {
        if self.trigger.read().is_ok() {
            self.drive(true);
        }
    }
}

#[cfg(test)]
mod tests;
