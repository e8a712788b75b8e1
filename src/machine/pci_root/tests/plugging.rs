//! What is plugged in and out while the guest runs.

use super::*;
use crate::machine::installer::Installer;

const PORT: Bdf = Bdf::new(0, 3, 0);
const DEVICE: Bdf = Bdf::new(1, 0, 0);

struct Slot {
    root: Arc<PciRoot>,
    mmio: Arc<Bus>,
    io: Arc<Bus>,
    port: Arc<RootPort>,
    id: FunctionId,
}

/// A machine with an empty hot-plug slot.
fn slot() -> Option<Slot> {
    let vm = Arc::new(kvm_ioctls::Kvm::new().ok()?.create_vm().ok()?);
    let (io, mmio) = (Arc::<Bus>::default(), Arc::<Bus>::default());
    let installer = Installer {
        memory: vm.clone(),
        vm,
        io: io.clone(),
        mmio: mmio.clone(),
        slots: Arc::default(),
        peers: Arc::<Peers>::default(),
    };
    let host_bridge = Arc::new(HostBridge::new(Some(ECAM_BASE)));
    let port = Arc::new(RootPort::new(RootPortConfig::empty(1).hot_plug()).unwrap());
    let mut topology: Topology<dyn PciDevice> = Topology::new();
    topology
        .attach(BusAt::Root, 0, 0, "host bridge", host_bridge.clone() as _)
        .unwrap();
    let id = topology
        .attach(BusAt::Root, 3, 0, "port", port.clone() as _)
        .unwrap();
    let root = PciRoot::new(topology, host_bridge, installer);
    let windows = Windows {
        io: 0x1000..=0xffff,
        memory32: 0xc000_0000..=0xfebf_ffff,
        memory64: 0x1_0000_0000..=0xff_ffff_ffff,
    };
    let follower: Weak<dyn Follower> = Weak::<Nobody>::new();
    root.open(windows, follower, Arc::new(Constant(0))).unwrap();
    root.start([]).unwrap();
    Some(Slot {
        root,
        mmio,
        io,
        port,
        id,
    })
}

impl Slot {
    fn write(&self, bdf: Bdf, offset: u16, value: u32) {
        let address = 1 << 31 | u32::from(bdf.requester_id()) << 8 | u32::from(offset);
        self.io.write(0xcf8, &address.to_le_bytes());
        self.io.write(0xcfc, &value.to_le_bytes());
    }

    fn read(&self, bdf: Bdf, offset: u16) -> u32 {
        let register = Register::containing(offset);
        self.root.topology().config_read(bdf, register)
    }

    /// Slot Control's Power Controller Control, and nothing else of it.
    fn set_power(&self, on: bool) {
        let mut at = self.read(PORT, 0x34) as u16 & 0xff;
        while self.read(PORT, at) as u8 != 0x10 {
            at = (self.read(PORT, at) >> 8) as u16 & 0xff;
        }
        self.write(PORT, at + 0x18, if on { 0 } else { 1 << 10 });
    }

    fn byte_at(&self, address: u64) -> u8 {
        let mut byte = [0];
        self.mmio.read(address, &mut byte);
        byte[0]
    }

    /// Where the port's memory window begins.
    fn window(&self) -> u64 {
        u64::from(self.read(PORT, 0x20) & 0xfff0) << 16
    }
}

#[test]
fn a_device_that_comes_has_its_bar_and_its_address_and_both_are_gone_with_it() {
    let Some(slot) = slot() else {
        return eprintln!("skipped: no /dev/kvm");
    };
    for tag in [0x77, 0x78] {
        let device = Tagged::new(tag);
        let ids = slot.root.plug(slot.id, &[(0, device.clone())]).unwrap();
        assert_eq!(slot.root.topology().bdf(ids[0]), Some(DEVICE));
        let told = device.requester.load(Ordering::SeqCst);
        assert_eq!(told, DEVICE.requester_id());
        slot.port.insert();
        assert_eq!(slot.read(DEVICE, 0) as u16, 0xffff, "no power yet");
        slot.set_power(true);
        assert_eq!(slot.read(DEVICE, 0) >> 16, u32::from(tag));
        let place = slot.window();
        slot.write(DEVICE, BAR0, place as u32);
        slot.write(DEVICE, COMMAND, MEMORY_SPACE);
        assert_eq!(slot.byte_at(place), tag);

        slot.set_power(false);
        assert_eq!(slot.byte_at(place), 0xff, "no power any more");
        slot.set_power(true);
        assert_eq!(slot.byte_at(place), 0xff, "it was reset");
        slot.write(DEVICE, BAR0, place as u32);
        slot.write(DEVICE, COMMAND, MEMORY_SPACE);
        slot.port.take_out();
        slot.root.unplug(slot.id);
        slot.set_power(false);
        assert_eq!(slot.byte_at(place), 0xff);
        assert_eq!(slot.read(DEVICE, 0), u32::MAX);
        assert_eq!(Arc::strong_count(&device), 1, "nobody has it any more");
    }
}

#[test]
fn what_cannot_be_together_leaves_all_as_it_was() {
    let Some(slot) = slot() else {
        return eprintln!("skipped: no /dev/kvm");
    };
    let (first, second) = (Tagged::new(1), Tagged::new(2));
    let both: [(u8, Arc<dyn PciDevice>); 2] = [(0, first.clone()), (0, second)];
    assert!(slot.root.plug(slot.id, &both).is_err());
    drop(both);
    assert_eq!(Arc::strong_count(&first), 1);
    let alone: [(u8, Arc<dyn PciDevice>); 1] = [(1, first)];
    assert!(slot.root.plug(slot.id, &alone).is_err(), "no function 0");
}
