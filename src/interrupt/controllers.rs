//! The I/O APIC and the 8259 pair, between their devices and the vCPUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::guest_error;
use devices::irq::MsiSink;
use devices::platform::ioapic::{IoApic, IoApicConfig, IoApicOutput};
use devices::platform::pic::{Intr, Pic};
use devices::time::{Alarm, Clock};
use iommu::Remapper;
use pci::{Bdf, MsiMessage};

use super::Routing;
use crate::vcpu::{Interrupts, Kicker};

/// The requester id of the I/O APIC's messages, outside the buses a guest numbers.
pub const IOAPIC_REQUESTER: Bdf = Bdf::new(0xff, 0, 0);
/// MSI data (Intel SDM vol. 3A §11.11.2): trigger mode is level.
const DATA_LEVEL: u32 = 1 << 15;

/// Both controllers of the machine.
pub struct Controllers {
    /// The I/O APIC.
    pub ioapic: Arc<IoApic>,
    /// The 8259 pair.
    pub pic: Arc<Pic>,
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
    pub fn new(surroundings: Surroundings) -> Self {
        let Surroundings {
            routing,
            msi,
            remapper,
            clock,
            alarm,
            boot_processor,
        } = surroundings;
        let output = Arc::new(Output {
            routing,
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
        });
        let pic = Arc::new(Pic::new(intr.clone()));
        Self { ioapic, pic, intr }
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
}

impl Intr for IntrLine {
    fn set(&self, asserted: bool) {
        if !self.asserted.swap(asserted, Ordering::SeqCst) && asserted {
            self.boot_processor.kick();
        }
    }
}

struct Output {
    routing: Arc<Routing>,
    msi: Arc<dyn MsiSink>,
    remapper: Arc<dyn Remapper>,
}

impl IoApicOutput for Output {
    fn deliver(&self, _pin: u8, message: MsiMessage) {
        if let Ok(resolved) = self.remapper.remap(IOAPIC_REQUESTER, message) {
            self.msi.send(resolved);
        }
    }

    fn route(&self, pin: u8, message: Option<MsiMessage>) {
        let resolved =
            message.and_then(|message| self.remapper.remap(IOAPIC_REQUESTER, message).ok());
        if let Err(error) = self.routing.set_pin(pin, watched(resolved)) {
            guest_error!(pin, %error, "the end of interrupts of this pin will not be seen");
        }
    }
}

/// What KVM is to know of a pin: level interrupts only, for their EOIs.
fn watched(message: Option<MsiMessage>) -> Option<MsiMessage> {
    message.filter(|message| message.data & DATA_LEVEL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_boot_processor_sees_the_line_as_it_is() {
        let line = IntrLine {
            asserted: AtomicBool::new(false),
            boot_processor: Kicker::default(),
        };
        line.set(true);
        line.set(true);
        assert!(line.asserted.load(Ordering::SeqCst));
        line.set(false);
        assert!(!line.asserted.load(Ordering::SeqCst));
    }
}
