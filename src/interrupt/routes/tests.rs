use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use iommu::{Access, Fault, Identity, Translation};

use super::*;
use crate::interrupt::IOAPIC_PINS;
use crate::interrupt::routing::tests::{message, refused, routing};

/// An IOMMU that makes other messages of messages, by their data, and records the rest.
#[derive(Default)]
struct Table {
    entries: Mutex<BTreeMap<u32, MsiMessage>>,
    faults: Mutex<Vec<u32>>,
}

impl Remapper for Table {
    fn translate(&self, _: Bdf, gpa: u64, len: u64, _: Access) -> Result<Translation, Fault> {
        Ok(Translation { gpa, len })
    }

    fn remap(&self, requester: Bdf, message: MsiMessage) -> Result<MsiMessage, Fault> {
        self.route(requester, message).ok_or_else(|| {
            self.faults.lock().unwrap().push(message.data);
            let address = message.address;
            Fault { requester, address }
        })
    }

    fn route(&self, _: Bdf, message: MsiMessage) -> Option<MsiMessage> {
        self.entries.lock().unwrap().get(&message.data).copied()
    }

    fn illegal(&self, _: Bdf) {}
}

/// Messages that did not go through KVM's routes.
#[derive(Default)]
struct Sent(Mutex<Vec<MsiMessage>>);

impl MsiSink for Sent {
    fn send(&self, message: MsiMessage) {
        self.0.lock().unwrap().push(message);
    }
}

struct Rig {
    routing: Arc<Routing>,
    table: Arc<Table>,
    sent: Arc<Sent>,
    routes: Arc<Routes>,
}

impl Rig {
    fn new() -> Option<Self> {
        let Some(routing) = routing() else {
            eprintln!("skipped: no /dev/kvm");
            return None;
        };
        let (table, sent) = (Arc::<Table>::default(), Arc::<Sent>::default());
        let routes = Routes::new(routing.clone(), table.clone(), sent.clone()).unwrap();
        Some(Self {
            routing,
            table,
            sent,
            routes,
        })
    }

    fn entry(&self, index: u32, resolved: Option<MsiMessage>) {
        let mut entries = self.table.entries.lock().unwrap();
        match resolved {
            Some(message) => entries.insert(index, message),
            None => entries.remove(&index),
        };
    }

    fn allocate(&self, index: u32) -> Box<dyn MsiRoute> {
        let routes = KvmRoutes(self.routes.clone());
        routes.allocate(Bdf::new(1, 0, 0), message(index)).unwrap()
    }

    fn first(&self) -> Option<MsiMessage> {
        self.routing.sends(IOAPIC_PINS)
    }
}

fn eventually(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn gsis_are_taken_reused_and_bounded() {
    let Some(routing) = routing() else {
        eprintln!("skipped: no /dev/kvm");
        return;
    };
    let sent = Arc::<Sent>::default();
    let routes = Routes::new(routing.clone(), Arc::new(Identity), sent).unwrap();
    let routes = KvmRoutes(routes);
    let first = routes.allocate(Bdf::new(0, 1, 0), message(0x31)).unwrap();
    let second = routes.allocate(Bdf::new(0, 1, 0), message(0x32)).unwrap();
    assert_eq!(routing.usage().used, 2);
    second.update(message(0x33)).unwrap();
    assert_eq!(routing.sends(IOAPIC_PINS + 1), Some(message(0x33)));
    drop(first);
    let third = routes.allocate(Bdf::new(0, 1, 0), message(0x34)).unwrap();
    assert_eq!(routing.sends(IOAPIC_PINS), Some(message(0x34)));
    routing.set_pin(9, Some(message(0x8000 | 0x39))).unwrap();
    drop((second, third));
    let usage = routing.usage();
    assert_eq!((usage.used, usage.most, usage.refused), (0, 2, 0));
    assert_eq!(routing.sends(9), Some(message(0x8039)));
    routing.fill();
    let error = routes.allocate(Bdf::default(), message(2)).err().unwrap();
    let limit = routing.usage().limit;
    assert!(matches!(error, RouteError::Exhausted(n) if n == limit));
    assert_eq!(routing.usage().refused, 1);
    assert_eq!(routing.usage().used, limit);
}

#[test]
fn a_message_that_kvm_refuses_leaves_the_one_before() {
    let Some((routing, refused)) = refused() else {
        eprintln!("skipped: no KVM, or it takes any message");
        return;
    };
    let sent = Arc::<Sent>::default();
    let routes = Routes::new(routing.clone(), Arc::new(Identity), sent).unwrap();
    let keys = KvmRoutes(routes.clone());
    assert!(keys.allocate(Bdf::default(), refused).is_err());
    let route = keys.allocate(Bdf::default(), message(0x42)).unwrap();
    assert!(route.update(refused).is_err());
    assert_eq!(routing.sends(IOAPIC_PINS), Some(message(0x42)));
    routes.follow();
    assert_eq!(routing.sends(IOAPIC_PINS), Some(message(0x42)));
}

#[test]
fn routes_follow_the_guests_entries() {
    let Some(rig) = Rig::new() else { return };
    rig.entry(7, Some(message(0x41)));
    rig.entry(8, Some(message(0x51)));
    let (_seven, _eight) = (rig.allocate(7), rig.allocate(8));
    assert_eq!(rig.first(), Some(message(0x41)));
    rig.entry(7, Some(message(0x42)));
    assert_eq!(rig.first(), Some(message(0x41)), "until it is announced");
    rig.routes.follow();
    assert_eq!(rig.first(), Some(message(0x42)));
    assert_eq!(rig.routing.sends(IOAPIC_PINS + 1), Some(message(0x51)));
    assert_eq!(rig.routing.usage().used, 2);
}

#[test]
fn a_blocked_route_asks_the_iommu_each_time() {
    let Some(rig) = Rig::new() else { return };
    let route = rig.allocate(7);
    assert_eq!(rig.routing.usage().used, 0);
    let faults = || rig.table.faults.lock().unwrap().len();
    route.event().write(1).unwrap();
    eventually(|| faults() == 1);
    route.event().write(1).unwrap();
    eventually(|| faults() == 2);
    // The entry is there now, and the guest has not said so yet.
    rig.entry(7, Some(message(0x41)));
    route.event().write(1).unwrap();
    eventually(|| *rig.sent.0.lock().unwrap() == [message(0x41)]);
    rig.routes.follow();
    assert_eq!(rig.first(), Some(message(0x41)));
    route.event().write(1).unwrap();
    eventually(|| route.event().read().is_err());
    assert_eq!((faults(), rig.sent.0.lock().unwrap().len()), (2, 1));
}

#[test]
fn a_route_that_is_blocked_later_leads_nowhere() {
    let Some(rig) = Rig::new() else { return };
    rig.entry(7, Some(message(0x41)));
    let route = rig.allocate(7);
    rig.entry(7, None);
    rig.routes.follow();
    assert_eq!((rig.first(), rig.routing.usage().used), (None, 0));
    route.event().write(1).unwrap();
    eventually(|| *rig.table.faults.lock().unwrap() == [7]);
    // Another entry, which is there.
    rig.entry(9, Some(message(0x61)));
    route.update(message(9)).unwrap();
    assert_eq!(rig.first(), Some(message(0x61)));
    route.update(message(7)).unwrap();
    assert_eq!(rig.first(), None);
    drop(route);
    assert!(rig.routes.live().routes.is_empty());
}
