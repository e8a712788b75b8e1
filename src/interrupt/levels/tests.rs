//! The whole way of a level interrupt: a device as VFIO has it, the wires, both controllers
//! and a guest that programs them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use devices::bus::Region;
use devices::platform::ioapic::{IoApic, IoApicConfig, IoApicOutput};
use devices::platform::pic::{Intr, Pic};
use devices::platform::ports::BytePorts;
use devices::time::{Alarm, Clock, Nanos};
use pci::MsiMessage;

use super::*;

/// Vector and flags of an entry.
const VECTOR: u8 = 0x51;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u64 = 1 << 14;

/// A device behind VFIO: an asserted pin signals the trigger once and is then masked, until
/// an unmask finds it deasserted.
#[derive(Default)]
struct Device {
    pin: Mutex<VfioPin>,
}

#[derive(Default)]
struct VfioPin {
    asserted: bool,
    masked: bool,
    trigger: Option<EventFd>,
}

impl Device {
    fn set(&self, asserted: bool) {
        let mut pin = self.pin.lock().unwrap();
        pin.asserted = asserted;
        pin.raise();
    }

    fn is_masked(&self) -> bool {
        self.pin.lock().unwrap().masked
    }
}

impl VfioPin {
    fn raise(&mut self) {
        if self.asserted && !self.masked {
            self.masked = true;
            if let Some(trigger) = &self.trigger {
                trigger.write(1).unwrap();
            }
        }
    }
}

impl Resample for Device {
    fn resample(&self) {
        let mut pin = self.pin.lock().unwrap();
        pin.masked = false;
        pin.raise();
    }
}

/// KVM: takes the triggers that it has, when it is looked at, and counts interrupts.
#[derive(Default)]
struct Kvm {
    attached: Mutex<Vec<(u8, EventFd)>>,
    refuses: AtomicBool,
    delivered: Mutex<Vec<u8>>,
}

impl Injector for Kvm {
    fn attach(&self, trigger: &EventFd, pin: u8) -> io::Result<()> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut attached = self.attached.lock().unwrap();
        attached.push((pin, trigger.try_clone().unwrap()));
        Ok(())
    }

    fn detach(&self, _: &EventFd, pin: u8) {
        self.run();
        self.attached.lock().unwrap().retain(|(at, _)| *at != pin);
    }
}

impl Kvm {
    fn run(&self) {
        for (pin, trigger) in &*self.attached.lock().unwrap() {
            if trigger.read().is_ok() {
                self.delivered.lock().unwrap().push(*pin);
            }
        }
    }
}

struct Output {
    kvm: Arc<Kvm>,
    levels: Arc<Levels>,
}

impl IoApicOutput for Output {
    fn deliver(&self, pin: u8, _: MsiMessage) {
        self.kvm.delivered.lock().unwrap().push(pin);
    }

    fn route(&self, _: u8, _: Option<MsiMessage>) {}

    fn open(&self, pin: u8, open: bool) {
        self.levels.open(pin, open);
    }

    fn served(&self, pin: u8) {
        self.levels.served(pin);
    }
}

struct IntrPin(Arc<Levels>);

impl Intr for IntrPin {
    fn set(&self, _: bool) {}

    fn served(&self, irq: u8) {
        self.0.pic_served(irq);
    }
}

struct Never;

impl Alarm for Never {
    fn set(&self, _: Option<Nanos>) {}
}

impl Clock for Never {
    fn now(&self) -> Nanos {
        0
    }
}

struct Rig {
    kvm: Arc<Kvm>,
    levels: Arc<Levels>,
    ioapic: Arc<IoApic>,
    pic: Arc<Pic>,
    wires: Arc<IntxRouter>,
}

/// PIRQG#: where INTA# of device 2 leads.
const SLOT: u8 = 2;
const PIN: u8 = 22;

impl Rig {
    fn new() -> Self {
        let kvm = Arc::new(Kvm::default());
        let levels = Levels::new(kvm.clone()).unwrap();
        let ioapic = Arc::new(IoApic::new(IoApicConfig {
            output: Arc::new(Output {
                kvm: kvm.clone(),
                levels: levels.clone(),
            }),
            clock: Arc::new(Never),
            alarm: Arc::new(Never),
        }));
        let pic = Arc::new(Pic::new(Arc::new(IntrPin(levels.clone()))));
        let wires = Arc::new(IntxRouter::new(&pic, &ioapic));
        levels.solder(&wires);
        Self {
            kvm,
            levels,
            ioapic,
            pic,
            wires,
        }
    }

    fn device(&self) -> (Arc<Device>, Box<dyn LevelRoute>) {
        let device = Arc::new(Device::default());
        let input = self.levels.input(SLOT, InterruptPin::IntA);
        let route = input.connect(device.clone()).unwrap();
        device.pin.lock().unwrap().trigger = Some(route.trigger().try_clone().unwrap());
        (device, route)
    }

    fn program(&self, entry: u32) {
        self.ioapic.write(0, &[0x10 + 2 * PIN]);
        self.ioapic.write(0x10, &entry.to_le_bytes());
    }

    fn eoi(&self) {
        self.kvm.run();
        self.ioapic.end_of_interrupt(VECTOR);
    }

    fn is_asserted(&self) -> bool {
        self.ioapic.state().levels & 1 << PIN != 0
    }

    fn attached(&self) -> usize {
        self.kvm.attached.lock().unwrap().len()
    }

    /// Interrupts that the guest has got since it was last asked, all of them of our pin.
    fn taken(&self) -> usize {
        self.kvm.run();
        let taken = std::mem::take(&mut *self.kvm.delivered.lock().unwrap());
        assert!(taken.iter().all(|&pin| pin == PIN));
        taken.len()
    }

    /// The 8259 pair as every PC has it, with PIRQG# on IRQ 11, by level.
    fn use_pic(&self) {
        for (command, base, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            self.pic.write_port(command, 0x11);
            for icw in [base, cascade, 1] {
                self.pic.write_port(command + 1, icw);
            }
        }
        self.pic.write_port(0x4d1, 0x08);
        self.wires.set_route(6, Some(11));
    }
}

/// Waits for the thread.
fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn kvm_has_the_trigger_while_the_pin_is_open() {
    let rig = Rig::new();
    let (device, route) = rig.device();
    assert_eq!(rig.attached(), 0);
    rig.program(LEVEL | u32::from(VECTOR));
    assert_eq!(rig.attached(), 1);
    rig.program(MASKED | LEVEL | u32::from(VECTOR));
    assert_eq!(rig.attached(), 0);
    rig.program(LEVEL | u32::from(VECTOR));
    let (_, other) = rig.device();
    assert_eq!(rig.attached(), 2, "one that comes later too");
    drop((route, other));
    assert_eq!(rig.attached(), 0);
    device.set(true);
    assert_eq!(rig.taken(), 0);
}

#[test]
fn the_end_asks_and_a_device_that_still_asserts_interrupts_again() {
    let rig = Rig::new();
    let (device, _route) = rig.device();
    rig.program(LEVEL | u32::from(VECTOR));
    for _ in 0..3 {
        device.set(true);
        assert_eq!(settled(&rig), 1);
        rig.eoi();
        assert_eq!(settled(&rig), 1, "not served yet");
        device.set(false);
        rig.eoi();
        assert_eq!(settled(&rig), 0);
        assert!(!device.is_masked());
    }
}

/// Interrupts until nothing is under way. In the tests the thread may be faster than KVM,
/// which it is not in life; what it takes must come out all the same.
fn settled(rig: &Rig) -> usize {
    let mut taken = 0;
    for _ in 0..20 {
        taken += rig.taken();
        std::thread::sleep(Duration::from_millis(1));
    }
    taken
}

#[test]
fn an_assertion_that_meets_a_masked_pin_comes_with_the_unmask() {
    let rig = Rig::new();
    let (device, _route) = rig.device();
    rig.program(MASKED | LEVEL | u32::from(VECTOR));
    device.set(true);
    soon("the line is asserted", || rig.is_asserted());
    assert_eq!(settled(&rig), 0);
    rig.program(LEVEL | u32::from(VECTOR));
    assert_eq!(settled(&rig), 1);
    device.set(false);
    rig.eoi();
    assert_eq!(settled(&rig), 0);
    assert!(!rig.is_asserted());
    // And one that is gone by then does not.
    rig.program(MASKED | LEVEL | u32::from(VECTOR));
    device.set(true);
    soon("the line is asserted", || rig.is_asserted());
    device.set(false);
    rig.program(LEVEL | u32::from(VECTOR));
    assert_eq!(settled(&rig), 0);
    assert!(!rig.is_asserted());
}

#[test]
fn an_interrupt_that_ends_while_masked_is_asked_for() {
    let rig = Rig::new();
    let (device, _route) = rig.device();
    rig.program(LEVEL | u32::from(VECTOR));
    device.set(true);
    assert_eq!(settled(&rig), 1);
    // As with a threaded handler: mask, end, serve, unmask.
    rig.program(MASKED | LEVEL | u32::from(VECTOR));
    rig.eoi();
    soon("the line is asserted", || rig.is_asserted());
    device.set(false);
    rig.program(LEVEL | u32::from(VECTOR));
    assert_eq!(settled(&rig), 0);
    assert!(!device.is_masked());
}

#[test]
fn a_vector_that_changes_while_an_interrupt_is_in_service_sticks_nothing() {
    let rig = Rig::new();
    let (device, _route) = rig.device();
    rig.program(LEVEL | u32::from(VECTOR));
    device.set(true);
    assert_eq!(settled(&rig), 1);
    rig.program(LEVEL | 0x52);
    assert_eq!(settled(&rig), 1, "to the new vector");
    device.set(false);
    rig.ioapic.end_of_interrupt(0x52);
    rig.ioapic.end_of_interrupt(VECTOR);
    assert!(!device.is_masked());
    device.set(true);
    assert_eq!(settled(&rig), 1);
}

#[test]
fn a_pin_programmed_for_edges_loses_none() {
    let rig = Rig::new();
    let (device, _route) = rig.device();
    rig.program(VECTOR.into());
    device.set(true);
    assert_eq!(settled(&rig), 1);
    // Linux ends an edge before it serves the device.
    rig.eoi();
    assert_eq!(settled(&rig), 1);
    device.set(false);
    rig.eoi();
    assert_eq!(settled(&rig), 0);
    device.set(true);
    assert_eq!(settled(&rig), 1);
}

#[test]
fn two_assigned_devices_share_a_pin() {
    let rig = Rig::new();
    let (first, _first) = rig.device();
    let (second, _second) = rig.device();
    rig.program(LEVEL | u32::from(VECTOR));
    first.set(true);
    second.set(true);
    assert!(settled(&rig) >= 1);
    first.set(false);
    rig.eoi();
    assert!(settled(&rig) >= 1, "the second is not served yet");
    second.set(false);
    rig.eoi();
    assert_eq!(settled(&rig), 0);
    assert!(!first.is_masked() && !second.is_masked());
    second.set(true);
    assert_eq!(settled(&rig), 1);
}

#[test]
fn an_assigned_and_an_emulated_device_share_a_pin() {
    let rig = Rig::new();
    let (device, _route) = rig.device();
    let emulated = rig.wires.line(SLOT, InterruptPin::IntA);
    rig.program(LEVEL | u32::from(VECTOR));
    device.set(true);
    assert_eq!(settled(&rig), 1);
    emulated.set(true);
    assert!(settled(&rig) >= 1);
    // The handler serves the assigned one only.
    device.set(false);
    rig.eoi();
    assert!(settled(&rig) >= 1, "the emulated one still asserts");
    emulated.set(false);
    rig.eoi();
    rig.eoi();
    assert_eq!(settled(&rig), 0);
    assert_eq!(
        rig.ioapic.state().redirection[usize::from(PIN)] & REMOTE_IRR,
        0
    );
    device.set(true);
    assert_eq!(settled(&rig), 1);
}

#[test]
fn without_kvms_help_it_takes_the_long_way() {
    let rig = Rig::new();
    rig.kvm.refuses.store(true, Ordering::SeqCst);
    let (device, _route) = rig.device();
    rig.program(LEVEL | u32::from(VECTOR));
    for _ in 0..3 {
        device.set(true);
        soon("it is delivered", || rig.taken() == 1);
        device.set(false);
        rig.eoi();
        assert!(!rig.is_asserted() && !device.is_masked());
    }
}

#[test]
fn a_guest_that_uses_the_8259_pair() {
    let rig = Rig::new();
    rig.use_pic();
    let (device, _route) = rig.device();
    for _ in 0..3 {
        device.set(true);
        soon("INTR", || rig.pic.is_asserted());
        assert_eq!(rig.pic.acknowledge(), Some(0x2b));
        // Linux masks and ends first, then serves, then unmasks.
        rig.pic.write_port(0xa1, 0x08);
        rig.pic.write_port(0xa0, 0x63);
        rig.pic.write_port(0x20, 0x62);
        soon("the line is asserted again", || rig.is_asserted());
        device.set(false);
        rig.pic.write_port(0xa1, 0x00);
        assert!(!rig.pic.is_asserted());
        assert!(!device.is_masked());
    }
    device.set(true);
    soon("INTR", || rig.pic.is_asserted());
    rig.pic.acknowledge();
    rig.wires.set_route(6, Some(10));
    rig.levels.rerouted();
    device.set(false);
    rig.pic.write_port(0xa0, 0x63);
    rig.pic.write_port(0x20, 0x62);
    rig.levels.rerouted();
    assert!(!rig.is_asserted() && !device.is_masked());
}

#[test]
fn a_route_that_ends_lets_go_for_good() {
    let rig = Rig::new();
    for _ in 0..200 {
        let (device, route) = rig.device();
        device.set(true);
        drop(route);
        assert!(!rig.is_asserted());
        device.set(true);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert!(!rig.is_asserted());
}

#[test]
fn load_while_the_guest_masks_moves_and_ends_loses_none_and_sticks_none() {
    let rig = Rig::new();
    let (device, _route) = rig.device();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..400u32 {
                rig.program(MASKED | LEVEL | u32::from(VECTOR));
                rig.program(LEVEL | u32::from(VECTOR) | (n & 1) << 8);
                std::thread::sleep(Duration::from_micros(50));
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut served = 0;
        while !done.load(Ordering::SeqCst) || served < 1000 {
            device.set(true);
            soon("an interrupt comes", || {
                let came = rig.taken() > 0;
                came || !device.is_masked()
            });
            device.set(false);
            rig.eoi();
            served += 1;
        }
    });
    soon("all is served", || {
        rig.eoi();
        rig.taken();
        !rig.is_asserted() && !device.is_masked()
    });
}
