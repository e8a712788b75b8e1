//! Devices that share a bus, and so the reset of it, are reset once and together.
//!
//! A reset of a bus reaches every device on it, so it is done only when each of them is ours
//! to reset: it is in the hands of this process, and the guest is not using it. A device is
//! not in use from when it is asked to be reset (or has been, with another) until the guest
//! writes to its config space again, without which it can reach neither a BAR nor memory. So
//! of several devices that are reset one after the other, as all of them are with the machine,
//! the last one resets the bus for all; and a guest that resets one of them alone does not
//! reset the other.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use pci::HostBdf;

use super::{NotReset, Reset, Standing};
use crate::vfio::backend::VfioBackend;
use crate::vfio::device::AssignedDevice;

/// The devices of a machine, as far as they are reset together.
#[derive(Clone, Default)]
pub struct ResetSet(Arc<Mutex<Vec<Weak<Seat>>>>);

/// An open device's place in a [`ResetSet`]. Dropped when the device is closed.
pub struct Seat {
    set: ResetSet,
    pub(in crate::vfio) name: Arc<str>,
    address: Option<HostBdf>,
    pub(in crate::vfio) backend: Arc<dyn VfioBackend>,
    device: OnceLock<Weak<AssignedDevice>>,
    /// It was reset with another device before it was itself taken.
    reset_early: Mutex<Option<Reset>>,
}

impl ResetSet {
    /// No devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters an open device, which `name` stands for in messages. All devices that are taken
    /// together are best entered before the first is made an [`AssignedDevice`], so that what
    /// they share is reset once. `address` is where the device is on the host's bus, if it is
    /// on one.
    pub fn enter(
        &self,
        name: &str,
        address: Option<HostBdf>,
        backend: Arc<dyn VfioBackend>,
    ) -> Arc<Seat> {
        let seat = Arc::new(Seat {
            set: self.clone(),
            name: name.into(),
            address,
            backend,
            device: OnceLock::new(),
            reset_early: Mutex::default(),
        });
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|seat| seat.strong_count() > 0);
        seats.push(Arc::downgrade(&seat));
        seat
    }
}

impl Seat {
    /// Begins a reset: while the scope lives, no other device of the set is reset, made or
    /// given back.
    pub(in crate::vfio) fn scope<'a>(&'a self, company: &'a mut Company) -> Scope<'a> {
        let seats = self.set.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = seats.iter().filter_map(Weak::upgrade);
        company.0 = others
            .filter(|other| !std::ptr::eq(&raw const **other, self))
            .map(|seat| {
                let device = seat.device.get().and_then(Weak::upgrade);
                Companion { seat, device }
            })
            .collect();
        Scope {
            seat: self,
            company,
            _order: seats,
        }
    }

    /// The device that was made of what is in this seat.
    pub(in crate::vfio) fn seat(&self, device: &Arc<AssignedDevice>) {
        // A seat is made into a device once.
        let _ = self.device.set(Arc::downgrade(device));
    }

    /// A reset, with another device, since it was opened. Told once.
    pub(in crate::vfio) fn take_early_reset(&self) -> Option<Reset> {
        self.early().take()
    }

    fn early(&self) -> MutexGuard<'_, Option<Reset>> {
        self.reset_early
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other devices of a set. The drop of a device takes the scope, so these outlive it.
#[derive(Default)]
pub(in crate::vfio) struct Company(Vec<Companion>);

struct Companion {
    seat: Arc<Seat>,
    /// `None` if it is open but not yet taken.
    device: Option<Arc<AssignedDevice>>,
}

/// A reset under way.
pub(in crate::vfio) struct Scope<'a> {
    seat: &'a Seat,
    company: &'a Company,
    _order: MutexGuard<'a, Vec<Weak<Seat>>>,
}

impl Scope<'_> {
    /// Resets the bus that the device is on, if all of it is ours to reset.
    pub fn reset_bus(&self) -> Result<Reset, NotReset> {
        let backend = &*self.seat.backend;
        let affected = backend.hot_reset_info().map_err(NotReset::NoBusReset)?;
        let strangers: Vec<_> = affected.iter().filter(|a| !a.ours).cloned().collect();
        if !strangers.is_empty() {
            return Err(NotReset::Strangers(strangers));
        }
        let is_affected = |at| affected.iter().any(|a| a.address == at);
        let sharing = |companion: &&Companion| companion.seat.address.is_some_and(is_affected);
        let sharing: Vec<_> = self.company.0.iter().filter(sharing).collect();
        // Nobody wakes one of them before the reset is over.
        let mut held: Vec<_> = sharing
            .iter()
            .filter_map(|companion| Some(companion.device.as_ref()?.hold()))
            .collect();
        if let Some(busy) = held.iter().find(|held| held.standing() == Standing::InUse) {
            return Err(NotReset::InUse(busy.name().to_owned()));
        }
        let failed = |error| NotReset::Failed("a reset of its bus", error);
        backend.hot_reset().map_err(failed)?;
        let mut names: Vec<_> = sharing.iter().map(|c| c.seat.name.to_string()).collect();
        let others = names.clone();
        names.push(self.seat.name.to_string());
        let reset = |of: &str| Reset::Bus(names.iter().filter(|n| *n != of).cloned().collect());
        for held in &mut held {
            held.was_reset(reset(held.name()));
        }
        for companion in sharing.iter().filter(|c| c.device.is_none()) {
            *companion.seat.early() = Some(reset(&companion.seat.name));
        }
        Ok(Reset::Bus(others))
    }
}
