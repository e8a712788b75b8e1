//! The I/O APIC and the 8259 pair, between their devices and the vCPUs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::guest_error;
use devices::irq::MsiSink;
use devices::platform::intx::FIRST_PIRQ_PIN;
use devices::platform::ioapic::{IoApic, IoApicConfig, IoApicOutput};
use devices::platform::pic::{Intr, Pic};
use devices::time::{Alarm, Clock};
use iommu::Remapper;
use pci::{Bdf, MsiMessage};

use super::{Levels, Routing};
use crate::vcpu::{Interrupts, Kicker};

/// The requester id of the I/O APIC's messages, outside the buses a guest numbers.
pub const IOAPIC_REQUESTER: Bdf = Bdf::new(0xff, 0, 0);
/// MSI data (Intel SDM vol. 3A §11.11.2): trigger mode is level, and the level asserted.
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
        });
        let ioapic = Arc::new(IoApic::new(IoApicConfig {
            output,
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
        })
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
}

impl Output {
    fn resolve(&self, pin: u8, message: MsiMessage) -> Option<MsiMessage> {
        let resolved = self.remapper.remap(IOAPIC_REQUESTER, message).ok()?;
        Some(with_end(pin, resolved))
    }
}

impl IoApicOutput for Output {
    fn deliver(&self, pin: u8, message: MsiMessage) {
        if let Some(resolved) = self.resolve(pin, message) {
            self.msi.send(resolved);
        }
    }

    fn route(&self, pin: u8, message: Option<MsiMessage>) {
        let resolved = message.and_then(|message| self.resolve(pin, message));
        if let Err(error) = self.routing.set_pin(pin, watched(resolved)) {
            guest_error!(pin, %error, "the end of interrupts of this pin will not be seen");
        }
    }

    fn open(&self, pin: u8, open: bool) {
        self.levels.open(pin, open);
    }

    fn served(&self, pin: u8) {
        self.levels.served(pin);
    }
}

/// What is sent for a pin. KVM shows only the ends of level interrupts, and those of PCI's
/// wires must be seen even if the guest has programmed edges. To a local APIC the trigger
/// mode means nothing else.
fn with_end(pin: u8, message: MsiMessage) -> MsiMessage {
    let ends = message.data & DATA_DELIVERY_MODE <= LOWEST_PRIORITY;
    let level = if pin >= FIRST_PIRQ_PIN && ends {
        DATA_LEVEL | DATA_ASSERTED
    } else {
        0
    };
    MsiMessage {
        data: message.data | level,
        ..message
    }
}

/// What KVM is to know of a pin: level interrupts only, for their EOIs.
fn watched(message: Option<MsiMessage>) -> Option<MsiMessage> {
    message.filter(|message| message.data & DATA_LEVEL != 0)
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::interrupt::levels::Injector;

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
        assert_eq!(watched(message(0x31)), None);
        assert_eq!(watched(message(0x8031)), message(0x8031));
        assert_eq!(watched(None), None);
    }

    #[test]
    fn pci_interrupts_always_have_an_end_to_see() {
        let sent = |pin, data| {
            let message = MsiMessage {
                address: 0xfee0_0000,
                data,
            };
            with_end(pin, message).data
        };
        assert_eq!(sent(15, 0x31), 0x31);
        assert_eq!(sent(16, 0x31), 0xc031);
        assert_eq!(sent(23, 0x0131), 0xc131, "lowest priority");
        assert_eq!(sent(16, 0x0400), 0x0400, "NMI");
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
