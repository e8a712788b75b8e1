//! Messages of assigned devices: each vector that is in use has an event, and what the event
//! makes of it goes one of two ways.
//!
//! - **Direct.** The IOMMU lets the message through. The event is an irqfd of KVM's on a GSI
//!   that is routed to what the IOMMU made of the message. When the guest says that its
//!   interrupt entries changed, every route is resolved anew ([`Routes::follow`]).
//! - **Blocked.** The IOMMU would not let it through. A thread waits for the event and asks the
//!   IOMMU each time, which records the fault; or lets it through after all.
//!
//! Either way is right at any time, so no interrupt is lost on the way from one to the other:
//! what an event has counted is taken by whoever it belongs to next.
//!
//! **Locks.** Which routes there are, and the way of each, is under one lock, held while a
//! message is resolved and its route made: of a change of the guest's meanwhile, either that
//! sees it or [`Routes::follow`], which waits. The IOMMU's own locks may be taken under it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::guest_error;
use devices::irq::{MsiRoute, MsiRoutes, MsiSink, RouteError};
use iommu::Remapper;
use pci::{Bdf, MsiMessage};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::routing::Routing;
use super::watch::{Watch, Watched};

/// All of them.
pub struct Routes {
    routing: Arc<Routing>,
    remapper: Arc<dyn Remapper>,
    msi: Arc<dyn MsiSink>,
    watch: Watch,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    next: u64,
    routes: BTreeMap<u64, Route>,
}

struct Route {
    source: Arc<Source>,
    /// While it is direct.
    gsi: Option<u32>,
}

/// A vector of a device's.
struct Source {
    requester: Bdf,
    /// As the device sends it.
    message: Mutex<MsiMessage>,
    event: EventFd,
    remapper: Arc<dyn Remapper>,
    msi: Arc<dyn MsiSink>,
}

impl Source {
    fn message(&self) -> MutexGuard<'_, MsiMessage> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&self) -> Option<MsiMessage> {
        self.remapper.route(self.requester, *self.message())
    }
}

impl Watched for Source {
    fn readable(&self) {
        if self.event.read().is_err() {
            return;
        }
        let message = *self.message();
        if let Ok(resolved) = self.remapper.remap(self.requester, message) {
            self.msi.send(resolved);
        }
    }
}

impl Routes {
    /// Routes in `routing` of what `remapper` lets through.
    pub fn new(
        routing: Arc<Routing>,
        remapper: Arc<dyn Remapper>,
        msi: Arc<dyn MsiSink>,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            routing,
            remapper,
            msi,
            watch: Watch::new("blocked-msi")?,
            live: Mutex::default(),
        }))
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has changed interrupt entries. When this returns, no interrupt goes where an
    /// old one led.
    pub fn follow(&self) {
        let live = &mut *self.live();
        let mut moved = Vec::new();
        for route in live.routes.values_mut() {
            match (route.gsi, route.source.resolve()) {
                // Those are changed at once.
                (Some(gsi), Some(message)) => moved.push((gsi, message)),
                (_, resolved) => self.settle_or_tell(route, resolved),
            }
        }
        if self.routing.set_messages(&moved).is_ok() {
            return;
        }
        for route in live.routes.values_mut().filter(|route| route.gsi.is_some()) {
            let resolved = route.source.resolve();
            self.settle_or_tell(route, resolved);
        }
    }

    fn settle_or_tell(&self, route: &mut Route, resolved: Option<MsiMessage>) {
        if let Err(error) = self.settle(route, resolved) {
            let requester = route.source.requester;
            guest_error!(%requester, %error, "an interrupt goes the long way, or nowhere");
        }
    }

    /// Brings a route to the way that it is to go.
    fn settle(&self, route: &mut Route, resolved: Option<MsiMessage>) -> Result<(), RouteError> {
        match (route.gsi, resolved) {
            (Some(gsi), Some(message)) => {
                let changed = self.routing.set_message(gsi, message);
                if changed.is_err() {
                    // Where the old entry led it must not go.
                    self.block(route)?;
                }
                changed
            }
            (Some(_), None) => self.block(route),
            (None, Some(message)) => {
                self.watch.remove(&route.source.event);
                let direct = self.direct(route, message);
                if direct.is_err() {
                    self.watch_for(&route.source)?;
                }
                direct
            }
            (None, None) => Ok(()),
        }
    }

    fn block(&self, route: &mut Route) -> Result<(), RouteError> {
        if let Some(gsi) = route.gsi.take() {
            self.routing.release(&route.source.event, gsi);
        }
        self.watch_for(&route.source)
    }

    fn direct(&self, route: &mut Route, message: MsiMessage) -> Result<(), RouteError> {
        route.gsi = Some(self.routing.claim(&route.source.event, message)?);
        Ok(())
    }

    fn watch_for(&self, source: &Arc<Source>) -> Result<(), RouteError> {
        let watched: Arc<dyn Watched> = source.clone();
        let added = self.watch.add(&source.event, Arc::downgrade(&watched));
        added.map_err(RouteError::Kernel)
    }

    fn end(&self, id: u64) {
        let Some(route) = self.live().routes.remove(&id) else {
            return;
        };
        match route.gsi {
            Some(gsi) => self.routing.release(&route.source.event, gsi),
            None => self.watch.remove(&route.source.event),
        }
    }
}

/// [`MsiRoutes`] of [`Routes`].
pub struct KvmRoutes(pub Arc<Routes>);

impl MsiRoutes for KvmRoutes {
    fn allocate(
        &self,
        requester: Bdf,
        message: MsiMessage,
    ) -> Result<Box<dyn MsiRoute>, RouteError> {
        let routes = &self.0;
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(RouteError::Kernel)?;
        let source = Arc::new(Source {
            requester,
            message: Mutex::new(message),
            event,
            remapper: routes.remapper.clone(),
            msi: routes.msi.clone(),
        });
        let live = &mut *routes.live();
        let mut route = Route {
            source: source.clone(),
            gsi: None,
        };
        match source.resolve() {
            Some(resolved) => routes.direct(&mut route, resolved)?,
            None => routes.watch_for(&source)?,
        }
        let id = live.next;
        live.next += 1;
        live.routes.insert(id, route);
        Ok(Box::new(KvmRoute {
            routes: routes.clone(),
            source,
            id,
        }))
    }
}

struct KvmRoute {
    routes: Arc<Routes>,
    source: Arc<Source>,
    id: u64,
}

impl MsiRoute for KvmRoute {
    fn event(&self) -> &EventFd {
        &self.source.event
    }

    fn update(&self, message: MsiMessage) -> Result<(), RouteError> {
        let routes = &self.routes;
        let live = &mut *routes.live();
        let before = std::mem::replace(&mut *self.source.message(), message);
        let Some(route) = live.routes.get_mut(&self.id) else {
            return Ok(());
        };
        let resolved = self.source.resolve();
        match (route.gsi, resolved) {
            (Some(gsi), Some(resolved)) => {
                let changed = routes.routing.set_message(gsi, resolved);
                if changed.is_err() {
                    // The one before stays, and is what is resolved from now on.
                    *self.source.message() = before;
                }
                changed
            }
            _ => routes.settle(route, resolved),
        }
    }
}

impl Drop for KvmRoute {
    fn drop(&mut self) {
        self.routes.end(self.id);
    }
}

#[cfg(test)]
mod tests;
