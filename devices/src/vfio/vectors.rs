//! From the device's vectors to the guest: one route for each vector that the guest has
//! unmasked, and the event that the kernel signals for it.
//!
//! A vector the guest never unmasks costs nothing. One it unmasks takes a route, which it
//! keeps until interrupts of the kind are disabled. While it is masked again, the kernel
//! signals an event that nobody waits for: what counts up there is pending, and is delivered
//! at the unmask.
//!
//! **Order.** A route is made or changed before the kernel is told to signal its event, so
//! that no interrupt meets a route that says nothing or the wrong thing; and the kernel stops
//! signalling before the route goes. Between, each interrupt goes to the old event or to the
//! new one and none is lost: the kernel keeps the vector masked in the device while it
//! changes the trigger, and the device keeps what it wants to say in its own pending bit.
//! What the old event counted is looked at after the change, not before.
//!
//! **Failure.** A vector that gets no route or no trigger is dead until the guest masks and
//! unmasks it again; the rest goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use pci::{Bdf, MsiMessage};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backend::{IrqKind, TriggerError, VfioBackend};
use crate::guest_error;
use crate::irq::{MsiRoute, MsiRoutes};

/// The vectors of one kind.
pub(super) struct Vectors {
    name: Arc<str>,
    kind: IrqKind,
    backend: Arc<dyn VfioBackend>,
    routes: Arc<dyn MsiRoutes>,
    requester: Bdf,
    /// The guest has the kind enabled.
    on: bool,
    /// How many the kernel has enabled; with kinds that grow, at least so many.
    enabled: u32,
    /// The kernel failed to disable them.
    lingers: bool,
    used: BTreeMap<u16, Vector>,
    failures: u64,
}

/// A vector that has a route.
struct Vector {
    route: Box<dyn MsiRoute>,
    message: MsiMessage,
    /// The kernel signals the route's event; otherwise `held`.
    live: bool,
    /// Counts interrupts while the vector is masked.
    held: Option<EventFd>,
    /// Some were counted.
    pending: bool,
}

impl Vector {
    fn trigger(&self) -> Option<&EventFd> {
        if self.live {
            Some(self.route.event())
        } else {
            self.held.as_ref()
        }
    }

    /// Takes in what was counted.
    fn collect(&mut self) -> bool {
        // It does not block: nothing counted is an error.
        let counted = self.held.as_ref().is_some_and(|held| held.read().is_ok());
        self.pending |= counted;
        self.pending
    }

    /// Sends an interrupt that the device sent earlier, or may have sent.
    fn deliver(&mut self) {
        self.pending = false;
        if let Err(error) = self.route.event().write(1) {
            guest_error!(%error, "a pending interrupt was lost");
        }
    }
}

/// The vectors of one kind, as data.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct VectorsState {
    /// Vectors that the kernel has enabled.
    pub enabled: u32,
    /// Vectors with a route whose interrupts go to the guest.
    pub live: Vec<u16>,
    /// Vectors with a route that the guest has masked again.
    pub masked: Vec<u16>,
    /// Vectors that got no route or no trigger, since the device was opened.
    pub failures: u64,
}

impl Vectors {
    pub fn new(
        name: Arc<str>,
        kind: IrqKind,
        backend: Arc<dyn VfioBackend>,
        routes: Arc<dyn MsiRoutes>,
    ) -> Self {
        Self {
            name,
            kind,
            backend,
            routes,
            requester: Bdf::default(),
            on: false,
            enabled: 0,
            lingers: false,
            used: BTreeMap::new(),
            failures: 0,
        }
    }

    pub fn state(&self) -> VectorsState {
        let of = |live| {
            let used = self.used.iter();
            used.filter(|(_, v)| v.live == live)
                .map(|(&n, _)| n)
                .collect()
        };
        VectorsState {
            enabled: self.enabled,
            live: of(true),
            masked: of(false),
            failures: self.failures,
        }
    }

    /// How many vectors the kernel has enabled.
    pub fn enabled(&self) -> u32 {
        self.enabled
    }

    /// Enables `count` vectors, or as many as the host has, none of them signalling anything.
    pub fn enable(&mut self, count: u32) {
        self.on = true;
        self.stop();
        let count = count.max(self.reach()).clamp(1, 2048);
        let outcome = match self.set_all(count) {
            Err(TriggerError::Only(fewer)) if (1..count).contains(&fewer) => {
                guest_error!(device = &*self.name, kind = ?self.kind, count, fewer,
                    "the host has too few vectors; the others are dead");
                self.set_all(fewer).map(|()| fewer)
            }
            other => other.map(|()| count),
        };
        self.enabled = outcome.unwrap_or_else(|error| {
            self.failed(None, &error);
            0
        });
    }

    /// Disables all of them: the kernel first, then the routes. If the kernel fails to, the
    /// next call tries again.
    pub fn disable(&mut self) {
        self.on = false;
        self.stop();
        self.used.clear();
    }

    fn stop(&mut self) {
        if self.enabled == 0 && !self.lingers {
            return;
        }
        let disabled = self.backend.disable_irqs(self.kind);
        self.lingers = disabled.is_err();
        self.enabled = 0;
        if let Err(error) = disabled {
            guest_error!(device = &*self.name, kind = ?self.kind, %error,
                "interrupts were not disabled");
        }
    }

    /// Has the vector's interrupts go to the guest as `message`, and delivers what was held
    /// back. On a live vector, changes its message.
    pub fn unmask(&mut self, vector: u16, message: MsiMessage) {
        if !self.on {
            return;
        }
        match self.used.get_mut(&vector) {
            Some(v) => {
                if v.message != message
                    && let Err(error) = v.route.update(message)
                {
                    return self.kill(vector, &error);
                }
                v.message = message;
                if v.live {
                    return;
                }
            }
            None => match self.routes.allocate(self.requester, message) {
                Ok(route) => {
                    let new = Vector {
                        route,
                        message,
                        live: false,
                        held: None,
                        pending: false,
                    };
                    self.used.insert(vector, new);
                }
                Err(error) => return self.failed(Some(vector), &error),
            },
        }
        self.set_live(vector, true);
        if let Some(v) = self.used.get_mut(&vector)
            && v.collect()
        {
            v.deliver();
        }
    }

    /// Holds back the vector's interrupts.
    pub fn mask(&mut self, vector: u16) {
        let Some(v) = self.used.get_mut(&vector).filter(|v| v.live) else {
            return;
        };
        if v.held.is_none() {
            match EventFd::new(EFD_NONBLOCK) {
                Ok(event) => v.held = Some(event),
                Err(error) => return self.kill(vector, &error),
            }
        }
        self.set_live(vector, false);
    }

    /// The vectors below `end` from `start` on that were masked with an interrupt to deliver.
    pub fn pending(&mut self, start: u16, end: u16) -> Vec<u16> {
        if start >= end {
            return Vec::new();
        }
        let held = self.used.range_mut(start..end).filter(|(_, v)| !v.live);
        held.filter_map(|(&n, v)| v.collect().then_some(n))
            .collect()
    }

    /// Follows the function to a new requester id: its routes are made anew.
    pub fn set_requester(&mut self, requester: Bdf) {
        if self.requester == requester {
            return;
        }
        self.requester = requester;
        let used: Vec<_> = self.used.iter().map(|(&n, v)| (n, v.message)).collect();
        for (vector, message) in used {
            match self.routes.allocate(requester, message) {
                Ok(route) => {
                    let Some(v) = self.used.get_mut(&vector) else {
                        continue;
                    };
                    // The old route lives until the kernel signals the new one.
                    let old = std::mem::replace(&mut v.route, route);
                    let live = v.live;
                    self.set_live(vector, live);
                    drop(old);
                }
                Err(error) => self.kill(vector, &error),
            }
        }
    }

    /// Has the kernel signal the route's event, or the one that counts.
    fn set_live(&mut self, vector: u16, live: bool) {
        let Some(v) = self.used.get_mut(&vector) else {
            return;
        };
        v.live = live;
        let index = u32::from(vector);
        let grows = self.backend.irq(self.kind).growable;
        let result = if self.enabled == 0 {
            // None was to be had when the guest enabled the kind; perhaps now.
            self.stop();
            let reach = self.reach();
            self.set_all(reach).inspect(|()| self.enabled = reach)
        } else if grows || index < self.enabled {
            let set = self.backend.set_triggers(self.kind, index, &[v.trigger()]);
            if set.is_ok() {
                self.enabled = self.enabled.max(index + 1);
            }
            set
        } else {
            self.grow(index + 1)
        };
        if let Err(error) = result {
            self.kill(vector, &error);
        }
    }

    /// Enables more vectors where the kernel cannot add one: all are disabled and enabled
    /// again, with some to spare, as this takes its time.
    fn grow(&mut self, count: u32) -> Result<(), TriggerError> {
        let before = self.enabled;
        let most = self.backend.irq(self.kind).count;
        let ample = count.next_power_of_two().min(most).max(count);
        self.backend
            .disable_irqs(self.kind)
            .map_err(TriggerError::Refused)?;
        self.enabled = 0;
        let mut result = Err(TriggerError::Only(0));
        for (attempt, wanted) in [ample, count, before].into_iter().enumerate() {
            match self.set_all(wanted) {
                Ok(()) => {
                    self.enabled = wanted;
                    // The last attempt only restores what there was.
                    if attempt < 2 {
                        result = Ok(());
                    }
                    break;
                }
                Err(error) => result = Err(error),
            }
        }
        // An interrupt sent while they were disabled is lost, and one too many does no harm.
        let restored = self.enabled;
        for (_, v) in self
            .used
            .iter_mut()
            .filter(|(n, _)| u32::from(**n) < before)
        {
            if v.live {
                v.deliver();
            } else {
                v.pending = true;
            }
        }
        if restored == 0 {
            guest_error!(device = &*self.name, kind = ?self.kind, "all interrupts are dead");
        }
        result
    }

    /// How many vectors must be enabled for those that have a route.
    fn reach(&self) -> u32 {
        let last = self.used.last_key_value();
        last.map_or(0, |(&vector, _)| u32::from(vector) + 1)
    }

    /// Sets the triggers of the first `count` vectors at once.
    fn set_all(&self, count: u32) -> Result<(), TriggerError> {
        let trigger = |n: u32| self.used.get(&(n as u16)).and_then(Vector::trigger);
        let triggers: Vec<_> = (0..count).map(trigger).collect();
        self.backend.set_triggers(self.kind, 0, &triggers)
    }

    /// Ends the vector: the kernel stops signalling it, as far as it still does, and the route
    /// goes.
    fn kill(&mut self, vector: u16, error: &dyn std::error::Error) {
        self.failed(Some(vector), error);
        if self.used.contains_key(&vector) && u32::from(vector) < self.enabled {
            let _ = self.backend.set_triggers(self.kind, vector.into(), &[None]);
        }
        self.used.remove(&vector);
    }

    fn failed(&mut self, vector: Option<u16>, error: &dyn std::error::Error) {
        self.failures += 1;
        let cause = error.source().map(ToString::to_string);
        guest_error!(device = &*self.name, kind = ?self.kind, vector, %error, cause,
            "an interrupt vector is dead");
    }
}
