//! The I/O APIC and the 8259 pair, between their devices and the vCPUs.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::guest_error;
use devices::irq::MsiSink;
use devices::platform::intx::FIRST_PIRQ_PIN;
use devices::platform::ioapic::{IoApic, IoApicConfig, IoApicOutput};
use devices::platform::pic::{Intr, Pic};
use devices::time::{Alarm, Clock};
use iommu::Remapper;
use pci::{Bdf, MsiMessage};

use super::{IOAPIC_PINS, Levels, Routing};
use crate::vcpu::{Interrupts, Kicker};

/// The requester id of the I/O APIC's messages, outside the buses a guest numbers. The DMAR
/// table tells it.
pub const IOAPIC_REQUESTER: Bdf = Bdf::new(0xff, 0, 0);
/// MSI data (Intel SDM vol. 3A §11.11.2): trigger mode is level, and the level asserted.
const DATA_VECTOR: u32 = 0xff;
const DATA_LEVEL: u32 = 1 << 15;
const DATA_ASSERTED: u32 = 1 << 14;
/// Delivery mode: the first two, fixed and lowest priority, end with an EOI.
const DATA_DELIVERY_MODE: u32 = 7 << 8;
const LOWEST_PRIORITY: u32 = 1 << 8;

/// Both controllers of the machine.
pub struct Controllers {
    /// The I/O APIC.
    pub ioapic: Arc<IoApic>,
    /// The 8259 pair.
    pub pic: Arc<Pic>,
    /// Level interrupts of assigned devices.
    pub levels: Arc<Levels>,
    intr: Arc<IntrLine>,
    output: Arc<Output>,
}

/// What the controllers need of the machine.
pub struct Surroundings {
    /// KVM's routing table.
    pub routing: Arc<Routing>,
    /// Messages to LAPICs.
    pub msi: Arc<dyn MsiSink>,
    /// The IOMMU that messages go through.
    pub remapper: Arc<dyn Remapper>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// The I/O APIC's alarm.
    pub alarm: Arc<dyn Alarm>,
    /// Wakes the boot processor, to which the 8259 pair is wired.
    pub boot_processor: Kicker,
}

impl Controllers {
    /// Both, as after power-on.
    pub fn new(surroundings: Surroundings) -> io::Result<Self> {
        let Surroundings {
            routing,
            msi,
            remapper,
            clock,
            alarm,
            boot_processor,
        } = surroundings;
        let levels = Levels::new(routing.clone())?;
        let output = Arc::new(Output {
            routing,
            levels: levels.clone(),
            msi,
            remapper,
            pins: Mutex::default(),
        });
        let ioapic = Arc::new(IoApic::new(IoApicConfig {
            output: output.clone(),
            clock,
            alarm,
        }));
        let intr = Arc::new(IntrLine {
            asserted: AtomicBool::new(false),
            boot_processor,
            levels: levels.clone(),
        });
        let pic = Arc::new(Pic::new(intr.clone()));
        Ok(Self {
            ioapic,
            pic,
            levels,
            intr,
            output,
        })
    }

    /// The guest has changed interrupt entries. When this returns, no interrupt of the I/O
    /// APIC goes where an old one led.
    pub fn interrupts_changed(&self) {
        self.output.follow();
    }
}

impl Interrupts for Controllers {
    fn end_of_interrupt(&self, vector: u8) {
        self.ioapic.end_of_interrupt(vector);
    }

    fn pic_pending(&self) -> bool {
        self.intr.asserted.load(Ordering::SeqCst)
    }

    fn pic_acknowledge(&self) -> Option<u8> {
        self.pic.acknowledge()
    }
}

/// INTR, as the boot processor sees it each time before it enters the guest.
struct IntrLine {
    asserted: AtomicBool,
    boot_processor: Kicker,
    levels: Arc<Levels>,
}

impl Intr for IntrLine {
    fn set(&self, asserted: bool) {
        if !self.asserted.swap(asserted, Ordering::SeqCst) && asserted {
            self.boot_processor.kick();
        }
    }

    fn served(&self, irq: u8) {
        self.levels.pic_served(irq);
    }
}

struct Output {
    routing: Arc<Routing>,
    levels: Arc<Levels>,
    msi: Arc<dyn MsiSink>,
    remapper: Arc<dyn Remapper>,
    pins: Mutex<[Pin; IOAPIC_PINS]>,
}

/// What an entry of the I/O APIC sends, and whether the IOMMU blocks it.
#[derive(Clone, Copy, Default)]
struct Pin {
    message: Option<MsiMessage>,
    blocked: bool,
}

impl Output {
    fn pins(&self) -> MutexGuard<'_, [Pin; IOAPIC_PINS]> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells KVM where a pin leads. True if it led nowhere before.
    fn tell(&self, number: u8, pin: &mut Pin) -> bool {
        let resolved = pin.message.and_then(|message| {
            let resolved = self.remapper.route(IOAPIC_REQUESTER, message)?;
            Some(with_end(number, message, resolved))
        });
        if let Err(error) = self.routing.set_pin(number, routed(number, resolved)) {
            guest_error!(pin = number, %error, "the end of interrupts of this pin will not be seen");
        }
        let blocked = pin.message.is_some() && resolved.is_none();
        std::mem::replace(&mut pin.blocked, blocked) && !blocked
    }

    /// Resolves every pin anew. What a device sent while its pin was blocked is lost, and a
    /// device whose level can only be asked for does not say it again by itself.
    fn follow(&self) {
        let mut pins = self.pins();
        let opened: Vec<u8> = (0..)
            .zip(pins.iter_mut())
            .filter_map(|(number, pin)| self.tell(number, pin).then_some(number))
            .collect();
        drop(pins);
        opened.into_iter().for_each(|pin| self.levels.served(pin));
    }
}

impl IoApicOutput for Output {
    fn deliver(&self, pin: u8, message: MsiMessage) {
        if let Ok(resolved) = self.remapper.remap(IOAPIC_REQUESTER, message) {
            self.msi.send(with_end(pin, message, resolved));
        }
    }

    fn route(&self, pin: u8, message: Option<MsiMessage>) {
        if let Some(state) = self.pins().get_mut(usize::from(pin)) {
            state.message = message;
            self.tell(pin, state);
        }
    }

    fn open(&self, pin: u8, open: bool) {
        self.levels.open(pin, open);
    }

    fn served(&self, pin: u8) {
        self.levels.served(pin);
    }
}

/// What is sent for a pin, of what the IOMMU made of the I/O APIC's message. KVM shows only the
/// ends of level interrupts, and those of PCI's wires must be seen even if the guest has
/// programmed edges. To a local APIC the trigger mode means nothing else.
///
/// An end names the vector that was sent, and the I/O APIC looks for it among its own. Where
/// they differ, software must end the interrupt at the I/O APIC's EOI register (VT-d 4.1
/// §5.1.5.1), and does.
fn with_end(pin: u8, message: MsiMessage, resolved: MsiMessage) -> MsiMessage {
    let ends = resolved.data & DATA_DELIVERY_MODE <= LOWEST_PRIORITY;
    let found = (message.data ^ resolved.data) & DATA_VECTOR == 0;
    let level = if pin >= FIRST_PIRQ_PIN && ends && found {
        DATA_LEVEL | DATA_ASSERTED
    } else {
        0
    };
    MsiMessage {
        data: resolved.data | level,
        ..resolved
    }
}

/// What KVM is to know of a pin: level interrupts, for their EOIs, and whatever comes from PCI's
/// wires, for the triggers of assigned devices.
fn routed(pin: u8, message: Option<MsiMessage>) -> Option<MsiMessage> {
    message.filter(|message| pin >= FIRST_PIRQ_PIN || message.data & DATA_LEVEL != 0)
}

#[cfg(test)]
mod tests {
    use iommu::{Access, Fault, Translation};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::interrupt::levels::Injector;
    use crate::interrupt::routing::tests::{message, routing};

    struct Nothing;

    impl Injector for Nothing {
        fn attach(&self, _: &EventFd, _: u8) -> io::Result<()> {
            Ok(())
        }

        fn detach(&self, _: &EventFd, _: u8) {}
    }

    #[test]
    fn the_ends_of_level_interrupts_only_are_watched() {
        let message = |data| {
            Some(MsiMessage {
                address: 0xfee0_0000,
                data,
            })
        };
        assert_eq!(routed(15, message(0x31)), None);
        assert_eq!(routed(15, message(0x8031)), message(0x8031));
        assert_eq!(routed(15, None), None);
        assert_eq!(routed(16, message(0x31)), message(0x31), "for triggers");
    }

    #[test]
    fn pci_interrupts_always_have_an_end_to_see() {
        let sent = |pin, data| {
            let message = MsiMessage {
                address: 0xfee0_0000,
                data,
            };
            with_end(pin, message, message).data
        };
        assert_eq!(sent(15, 0x31), 0x31);
        assert_eq!(sent(16, 0x31), 0xc031);
        assert_eq!(sent(23, 0x0131), 0xc131, "lowest priority");
        assert_eq!(sent(16, 0x0400), 0x0400, "NMI");
        let message = |data| MsiMessage {
            address: 0xfee0_0000,
            data,
        };
        let other = with_end(16, message(0x10), message(0x31));
        assert_eq!(other.data, 0x31, "its end would not be found");
    }

    /// Lets the messages of some pins through, each as another one.
    #[derive(Default)]
    struct Few(Mutex<Vec<(u32, u32)>>);

    impl Remapper for Few {
        fn translate(&self, _: Bdf, gpa: u64, len: u64, _: Access) -> Result<Translation, Fault> {
            Ok(Translation { gpa, len })
        }

        fn remap(&self, requester: Bdf, message: MsiMessage) -> Result<MsiMessage, Fault> {
            let address = message.address;
            let resolved = self.route(requester, message);
            resolved.ok_or(Fault { requester, address })
        }

        fn route(&self, requester: Bdf, message: MsiMessage) -> Option<MsiMessage> {
            assert_eq!(requester, IOAPIC_REQUESTER);
            let entries = self.0.lock().unwrap();
            let (_, data) = *entries.iter().find(|(from, _)| *from == message.data)?;
            Some(MsiMessage { data, ..message })
        }

        fn illegal(&self, _: Bdf) {}
    }

    impl MsiSink for Nothing {
        fn send(&self, _: MsiMessage) {}
    }

    #[test]
    fn pins_follow_the_guests_entries() {
        let Some(routing) = routing() else {
            eprintln!("skipped: no /dev/kvm");
            return;
        };
        let few = Arc::<Few>::default();
        let output = Output {
            routing: routing.clone(),
            levels: Levels::new(Arc::new(Nothing)).unwrap(),
            msi: Arc::new(Nothing),
            remapper: few.clone(),
            pins: Mutex::default(),
        };
        let entries = |entries: &[(u32, u32)]| *few.0.lock().unwrap() = entries.to_vec();
        output.route(16, Some(message(0x8010)));
        output.route(17, Some(message(0x8011)));
        assert_eq!(routing.sends(16), None, "blocked");
        entries(&[(0x8010, 0x31), (0x8011, 0xc032)]);
        assert_eq!(routing.sends(16), None, "until it is announced");
        output.follow();
        assert_eq!(routing.sends(16), Some(message(0x31)));
        assert_eq!(routing.sends(17), Some(message(0xc032)));
        entries(&[(0x8010, 0x33)]);
        output.follow();
        assert_eq!(routing.sends(16), Some(message(0x33)));
        assert_eq!(routing.sends(17), None);
        output.route(16, None);
        output.follow();
        assert_eq!(routing.sends(16), None);
    }

    #[test]
    fn the_boot_processor_sees_the_line_as_it_is() {
        let line = IntrLine {
            asserted: AtomicBool::new(false),
            boot_processor: Kicker::default(),
            levels: Levels::new(Arc::new(Nothing)).unwrap(),
        };
        line.set(true);
        line.set(true);
        assert!(line.asserted.load(Ordering::SeqCst));
        line.set(false);
        assert!(!line.asserted.load(Ordering::SeqCst));
    }
}
