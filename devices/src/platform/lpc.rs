//! The LPC bridge of ICH9, function 8086:2918 at 00:1f.0: what tells every firmware and
//! kernel that it runs on this chipset.
//!
//! It decides where the power management block (PMBASE) and the root complex registers
//! (RCBA) are, which is reported as [`Changes::CHIPSET`] for the machine to act upon, and
//! which 8259 inputs the PIRQs go to, which it does itself and reports as
//! [`Changes::ROUTING`]. The rest of its registers remember what they are told. The root
//! complex registers are read-only: interrupt pins of the chipset are wired as DxxIR says
//! at reset ([`super::intx::pirq`]), and GCS says that no watchdog resets this machine.
//!
//! Reset: everything to reset values; nothing is decoded and no PIRQ routed.

mod registers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pci::{
    BarIndex, Changes, ClassCode, Command, ConfigSpace, ConfigSpaceState, ConfigWrite, Function,
    Ids, Register, Window,
};

use self::registers::{AcpiControl, PirqRoute, PmBase, REMEMBERED, ROOT_COMPLEX, RootComplexBase};
use super::intx::{IntxRouter, PIRQS};
use crate::bus::{PciDevice, Region};

pub use self::registers::offset;

/// Device number on bus 0; it is function 0.
pub const DEVICE: u8 = 31;

/// Size of the root complex register block.
pub const ROOT_COMPLEX_SIZE: u64 = 0x4000;

/// The bridge.
pub struct LpcBridge {
    router: Arc<IntxRouter>,
    space: Mutex<ConfigSpace>,
}

/// What a bridge is like now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LpcState {
    /// Where the power management ports are.
    pub pm_base: Option<u16>,
    /// Where the root complex registers are.
    pub rcba: Option<u64>,
    /// The 8259 input of each PIRQ.
    pub pirq_routes: [Option<u8>; PIRQS as usize],
    /// Its configuration space.
    pub config: ConfigSpaceState,
}

/// What the rest of the machine depends on.
#[derive(PartialEq)]
struct View {
    pm_base: Option<u16>,
    rcba: Option<u64>,
    routes: [Option<u8>; PIRQS as usize],
}

impl View {
    fn of(space: &ConfigSpace) -> Self {
        let pm_base = PmBase(space.get_u32(offset::PMBASE));
        let acpi = AcpiControl(space.get_u8(offset::ACPI_CNTL));
        let rcba = RootComplexBase(space.get_u32(offset::RCBA));
        Self {
            pm_base: acpi.enable().then(|| pm_base.base() << 7),
            rcba: rcba.enable().then(|| u64::from(rcba.base()) << 14),
            routes: std::array::from_fn(|n| {
                let n = n as u16;
                let register = match n {
                    0..4 => offset::PIRQ_A_ROUTE + n,
                    _ => offset::PIRQ_E_ROUTE + n - 4,
                };
                PirqRoute(space.get_u8(register)).target()
            }),
        }
    }
}

impl LpcBridge {
    /// A bridge as after power-on, which routes PIRQs of `router`.
    pub fn new(router: Arc<IntxRouter>) -> Self {
        let mut space = ConfigSpace::endpoint(Ids {
            vendor: 0x8086,
            device: 0x2918,
            revision: 2,
            class: ClassCode {
                base: 0x06,
                sub: 0x01,
                interface: 0x00,
            },
            subsystem_vendor: 0,
            subsystem: 0,
        });
        // §13.1.3: ports, memory and bus mastering cannot be turned off; parity and SERR
        // responses are kept.
        space.set_command(Command(0x0007), Command(0x0140));
        space.define(offset::PMBASE, 1, PmBase::WRITABLE, 0);
        space.define(offset::ACPI_CNTL, 0, AcpiControl::WRITABLE, 0);
        for register in [offset::PIRQ_A_ROUTE, offset::PIRQ_E_ROUTE] {
            space.define(register, PirqRoute::RESET, PirqRoute::WRITABLE, 0);
        }
        space.define(offset::RCBA, 0, RootComplexBase::WRITABLE, 0);
        for (register, value, writable) in REMEMBERED {
            space.define(register, value, writable, 0);
        }
        space.define(offset::BIOS_CNTL, 0, 0x3, 0);
        Self {
            router,
            space: Mutex::new(space),
        }
    }

    /// Where [`acpi_pm::LEN`](super::acpi_pm::LEN) ports of power management are decoded.
    pub fn pm_base(&self) -> Option<u16> {
        self.view().pm_base
    }

    /// Where the [`Self::root_complex`] registers are decoded.
    pub fn rcba(&self) -> Option<u64> {
        self.view().rcba
    }

    /// The 8259 input that a PIRQ (0 to 7) is routed to.
    pub fn pirq_route(&self, pirq: u8) -> Option<u8> {
        *self.view().routes.get(usize::from(pirq))?
    }

    /// The root complex registers, [`ROOT_COMPLEX_SIZE`] bytes.
    pub fn root_complex(&self) -> Arc<dyn Region> {
        Arc::new(RootComplex)
    }

    /// Its state.
    pub fn state(&self) -> LpcState {
        let space = self.lock();
        let view = View::of(&space);
        LpcState {
            pm_base: view.pm_base,
            rcba: view.rcba,
            pirq_routes: view.routes,
            config: space.state(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConfigSpace> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> View {
        View::of(&self.lock())
    }

    fn route(&self, view: &View) {
        for (pirq, irq) in (0..).zip(view.routes) {
            self.router.set_route(pirq, irq);
        }
    }
}

impl Function for LpcBridge {
    fn read_config(&self, register: Register) -> u32 {
        self.lock().read(register)
    }

    fn write_config(&self, write: ConfigWrite) -> Changes {
        let mut space = self.lock();
        let before = View::of(&space);
        let mut changes = space.write(write);
        let after = View::of(&space);
        if (before.pm_base, before.rcba) != (after.pm_base, after.rcba) {
            changes |= Changes::CHIPSET;
        }
        if before.routes != after.routes {
            self.route(&after);
            changes |= Changes::ROUTING;
        }
        changes
    }

    fn windows(&self) -> Vec<Window> {
        Vec::new()
    }

    fn reset(&self) {
        let mut space = self.lock();
        space.reset();
        self.route(&View::of(&space));
    }
}

impl PciDevice for LpcBridge {
    fn name(&self) -> &str {
        "lpc"
    }

    fn region(&self, _: BarIndex) -> Option<Arc<dyn Region>> {
        None
    }
}

struct RootComplex;

impl Region for RootComplex {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in (0..).zip(data) {
            let at = offset.wrapping_add(i);
            let dword = ROOT_COMPLEX
                .iter()
                .find(|(register, _)| *register == at & !3)
                .map_or(0, |(_, value)| *value);
            *byte = (dword >> (8 * (at & 3))) as u8;
        }
    }

    fn write(&self, _: u64, _: &[u8]) {}
}
