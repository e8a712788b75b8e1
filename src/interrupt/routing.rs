//! KVM's GSI routing table and what lives in it: the IOAPIC's pins first (KVM watches them
//! to exit at the end of level interrupts), then one GSI for each live message route.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::irq::{MsiSink, RouteError};
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1, kvm_msi,
};
use kvm_ioctls::{Cap, VmFd};
use pci::MsiMessage;
use vmm_sys_util::eventfd::EventFd;

use super::levels::Injector;

/// Pins of the IOAPIC.
pub const IOAPIC_PINS: usize = 24;

/// Delivers the messages of emulated devices.
pub struct KvmMsi(pub Arc<VmFd>);

impl MsiSink for KvmMsi {
    fn send(&self, message: MsiMessage) {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..kvm_msi::default()
        };
        if let Err(error) = self.0.signal_msi(msi) {
            // No such LAPIC, or a message that is none: lost, as on the bus.
            tracing::debug!(%error, ?message, "interrupt message not delivered");
        }
    }
}

/// How many message routes there are. Each live vector of an assigned device takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Now.
    pub used: usize,
    /// At most, at a time, so far.
    pub most: usize,
    /// Vectors that got none, as all were in use.
    pub refused: u64,
    /// How many KVM has.
    pub limit: usize,
}

/// The table. Index is the GSI.
pub struct Routing {
    vm: Arc<VmFd>,
    limit: usize,
    table: Mutex<Vec<Option<MsiMessage>>>,
    most: AtomicUsize,
    refused: AtomicU64,
}

impl Routing {
    /// An empty table for a VM with a split interrupt chip.
    pub fn new(vm: Arc<VmFd>) -> Self {
        let limit = vm.check_extension_int(Cap::IrqRouting);
        let limit = usize::try_from(limit).unwrap_or(0).max(IOAPIC_PINS);
        Self {
            vm,
            limit,
            table: Mutex::new(vec![None; IOAPIC_PINS]),
            most: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, Vec<Option<MsiMessage>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many message routes there are.
    pub fn usage(&self) -> Usage {
        Usage {
            used: messages(&self.table()),
            most: self.most.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            limit: self.limit - IOAPIC_PINS,
        }
    }

    /// Tells KVM what an IOAPIC pin sends, so that it exits when a level interrupt ends, and
    /// for `Injector`.
    pub fn set_pin(&self, pin: u8, message: Option<MsiMessage>) -> Result<(), RouteError> {
        debug_assert!(usize::from(pin) < IOAPIC_PINS);
        self.change(pin.into(), message)
    }

    /// Has KVM send `message` whenever `event` is signalled, also if it was before. It takes a
    /// GSI.
    pub fn claim(&self, event: &EventFd, message: MsiMessage) -> Result<u32, RouteError> {
        // The route first, the irqfd after: an event must never find a GSI without a route.
        let gsi = self.add(message)?;
        if let Err(error) = self.vm.register_irqfd(event, gsi) {
            let _ = self.change(gsi, None);
            return Err(kernel(error));
        }
        Ok(gsi)
    }

    /// Ends what [`Self::claim`] began, in the reverse order. What the event counts from now on
    /// is the caller's.
    pub fn release(&self, event: &EventFd, gsi: u32) {
        // A failure leaves a GSI that nobody signals.
        let _ = self.vm.unregister_irqfd(event, gsi);
        let _ = self.change(gsi, None);
    }

    /// Changes what a claimed GSI sends.
    pub fn set_message(&self, gsi: u32, message: MsiMessage) -> Result<(), RouteError> {
        self.change(gsi, Some(message))
    }

    /// Changes what claimed GSIs send, all at once or none.
    pub fn set_messages(&self, messages: &[(u32, MsiMessage)]) -> Result<(), RouteError> {
        let mut table = self.table();
        let before = table.clone();
        for &(gsi, message) in messages {
            if let Some(slot) = table.get_mut(gsi as usize) {
                *slot = Some(message);
            }
        }
        if *table == before {
            return Ok(());
        }
        let committed = self.commit(&table);
        if committed.is_err() {
            *table = before;
        }
        committed
    }

    fn commit(&self, table: &[Option<MsiMessage>]) -> Result<(), RouteError> {
        let entries: Vec<_> = table
            .iter()
            .enumerate()
            .filter_map(|(gsi, message)| message.map(|message| entry(gsi as u32, message)))
            .collect();
        let routing = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| RouteError::Exhausted(self.limit - IOAPIC_PINS))?;
        self.vm.set_gsi_routing(&routing).map_err(kernel)
    }

    /// Puts `message` at a free GSI.
    fn add(&self, message: MsiMessage) -> Result<u32, RouteError> {
        let mut table = self.table();
        let free = (IOAPIC_PINS..table.len()).find(|&gsi| table[gsi].is_none());
        let gsi = free.unwrap_or(table.len());
        if gsi >= self.limit {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(RouteError::Exhausted(self.limit - IOAPIC_PINS));
        }
        if gsi == table.len() {
            table.push(None);
        }
        table[gsi] = Some(message);
        if let Err(error) = self.commit(&table) {
            table[gsi] = None;
            return Err(error);
        }
        self.most.fetch_max(messages(&table), Ordering::Relaxed);
        Ok(gsi as u32)
    }

    /// Changes or clears what `gsi` sends. A message that KVM refuses leaves the one before:
    /// KVM takes the table as a whole, so it would spoil every later change too.
    fn change(&self, gsi: u32, message: Option<MsiMessage>) -> Result<(), RouteError> {
        let mut table = self.table();
        let Some(slot) = table.get_mut(gsi as usize).filter(|slot| **slot != message) else {
            return Ok(());
        };
        let before = std::mem::replace(slot, message);
        let result = self.commit(&table);
        if result.is_err() && message.is_some() {
            table[gsi as usize] = before;
        }
        result
    }
}

/// A trigger of a level interrupt is an irqfd on its pin's GSI.
impl Injector for Routing {
    fn attach(&self, trigger: &EventFd, pin: u8) -> io::Result<()> {
        Ok(self.vm.register_irqfd(trigger, pin.into())?)
    }

    fn detach(&self, trigger: &EventFd, pin: u8) {
        // It fails only for what is not attached.
        let _ = self.vm.unregister_irqfd(trigger, pin.into());
    }
}

fn messages(table: &[Option<MsiMessage>]) -> usize {
    table.iter().skip(IOAPIC_PINS).flatten().count()
}

fn kernel(error: kvm_ioctls::Error) -> RouteError {
    RouteError::Kernel(error.into())
}

fn entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: message.address as u32,
                address_hi: (message.address >> 32) as u32,
                data: message.data,
                __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { pad: 0 },
            },
        },
        ..Default::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    pub fn message(vector: u32) -> MsiMessage {
        MsiMessage {
            address: 0xfee0_0000,
            data: vector,
        }
    }

    impl Routing {
        /// What a GSI sends.
        pub fn sends(&self, gsi: usize) -> Option<MsiMessage> {
            self.table().get(gsi).copied().flatten()
        }

        /// Takes every GSI there is.
        pub fn fill(&self) {
            *self.table() = vec![Some(message(1)); self.limit];
        }
    }

    /// A VM with a split irqchip, where there is a KVM.
    pub fn routing() -> Option<Arc<Routing>> {
        let kvm = kvm_ioctls::Kvm::new().ok()?;
        let vm = Arc::new(kvm.create_vm().ok()?);
        let mut split = kvm_bindings::kvm_enable_cap {
            cap: kvm_bindings::KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        split.args[0] = IOAPIC_PINS as u64;
        vm.enable_cap(&split).ok()?;
        Some(Arc::new(Routing::new(vm)))
    }

    /// A message that KVM refuses, and the table of a VM that it is refused in.
    pub fn refused() -> Option<(Arc<Routing>, MsiMessage)> {
        let routing = routing()?;
        // With 32-bit APIC ids, bits 39:32 of the address must be zero.
        let mut x2apic = kvm_bindings::kvm_enable_cap {
            cap: kvm_bindings::KVM_CAP_X2APIC_API,
            ..Default::default()
        };
        x2apic.args[0] = kvm_bindings::KVM_X2APIC_API_USE_32BIT_IDS.into();
        let refused = MsiMessage {
            address: 0xff_fee0_0000,
            data: 0x41,
        };
        let refuses =
            routing.vm.enable_cap(&x2apic).is_ok() && routing.set_pin(3, Some(refused)).is_err();
        refuses.then_some((routing, refused))
    }

    #[test]
    fn a_message_that_kvm_refuses_spoils_nothing() {
        let Some((routing, refused)) = refused() else {
            eprintln!("skipped: no KVM, or it takes any message");
            return;
        };
        assert_eq!(routing.sends(3), None);
        routing.set_pin(3, Some(message(0x8043))).unwrap();
        let several = [(3, message(0x8044)), (4, refused)];
        assert!(routing.set_messages(&several).is_err());
        assert_eq!(
            (routing.sends(3), routing.sends(4)),
            (Some(message(0x8043)), None)
        );
        routing.set_messages(&several[..1]).unwrap();
        assert_eq!(routing.sends(3), Some(message(0x8044)));
    }

    #[test]
    fn a_trigger_is_taken_by_kvm_while_it_is_attached() {
        let Some(routing) = routing() else {
            eprintln!("skipped: no /dev/kvm");
            return;
        };
        routing.set_pin(16, Some(message(0x8000 | 0x39))).unwrap();
        let trigger = EventFd::new(EFD_NONBLOCK).unwrap();
        // Once attached it cannot be again, whatever came between.
        for _ in 0..2 {
            routing.attach(&trigger, 16).unwrap();
            assert!(routing.attach(&trigger, 16).is_err());
            trigger.write(1).unwrap();
            routing.detach(&trigger, 16);
            assert!(trigger.read().is_err(), "KVM has taken it");
        }
        trigger.write(1).unwrap();
        assert!(trigger.read().is_ok());
    }
}
