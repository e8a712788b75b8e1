//! The chipset's devices, at their places and wired to each other; and what firmware
//! programs into the LPC bridge before an operating system starts.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use devices::bus::Region;
use devices::platform::acpi_pm::{self, AcpiPm, AcpiPmConfig, SCI_IRQ};
use devices::platform::i8042::I8042;
use devices::platform::intx::IntxRouter;
use devices::platform::ioapic;
use devices::platform::lpc::{self, LpcBridge};
use devices::platform::misc_ports::{PostPort, SystemControlA};
use devices::platform::pit::{Pit, PitConfig};
use devices::platform::ports::PortRange;
use devices::platform::power::PowerControl;
use devices::platform::reset_control::ResetControl;
use devices::platform::rtc::{HostWallClock, Rtc, RtcConfig};
use devices::platform::serial::{COM1, Serial, Writer};
use devices::time::Alarmed;
use pci::{Bdf, Changes, ConfigWrite, Register, Space};

use super::bus::Overlap;
use super::installer::{Installed, Installer, Placement};
use super::pci_root::Follower;
use super::requests::{Request, Requests};
use super::timers::{AlarmHandle, Alarms, GuestClock};
use crate::acpi::PM_BASE;
use crate::interrupt::Controllers;
use crate::memory::Layout;
use crate::memory::layout::RCBA_BASE;

/// Where the LPC bridge sits.
pub const LPC: Bdf = Bdf::new(0, lpc::DEVICE, 0);

/// IRQs of ISA devices.
const IRQ_TIMER: u8 = 0;
const IRQ_KEYBOARD: u8 = 1;
const IRQ_SERIAL: u8 = 4;
const IRQ_RTC: u8 = 8;

/// PIRQA# to PIRQD# and PIRQE# to PIRQH# on 8259 inputs 10 and 11 in turn, as SeaBIOS
/// routes them; a guest in APIC mode does not care.
const PIRQ_ROUTES: u32 = 0x0b0b_0a0a;
const DECODE: u32 = 1;
/// ACPI_CNTL bit 7: PMBASE is decoded. SCI on IRQ 9 is zero in bits 2:0.
const ACPI_ENABLE: u32 = 1 << 7;

impl PowerControl for Requests {
    fn reset(&self) {
        self.ask(Request::Reset);
    }

    fn power_off(&self) {
        self.ask(Request::PowerOff);
    }
}

/// What the chipset is put together from.
pub struct Parts<'a> {
    /// Interrupt controllers.
    pub controllers: Arc<Controllers>,
    /// Power requests.
    pub requests: Arc<Requests>,
    /// Alarms.
    pub alarms: &'a Arc<Alarms>,
    /// Address map.
    pub layout: &'a Layout,
    /// vCPUs.
    pub cpus: u32,
    /// Serial output.
    pub writer: Arc<Writer>,
    /// Address spaces.
    pub installer: Installer,
}

/// The chipset.
pub struct Chipset {
    controllers: Arc<Controllers>,
    /// Interrupt wires.
    pub wires: Arc<IntxRouter>,
    /// COM1.
    pub serial: Arc<Serial>,
    /// The LPC bridge, a PCI function.
    pub lpc: Arc<LpcBridge>,
    pit: Arc<Pit>,
    rtc: Arc<Rtc>,
    post: Arc<PostPort>,
    system_control: Arc<SystemControlA>,
    i8042: Arc<I8042>,
    reset_control: Arc<ResetControl>,
    pm: Arc<AcpiPm>,
    installer: Installer,
    fixed: OnceLock<Vec<Installed>>,
    movable: Mutex<Movable>,
}

/// Windows that the LPC bridge places.
#[derive(Default)]
struct Movable {
    pm: Option<(u16, Installed)>,
    root_complex: Option<(u64, Installed)>,
}

/// An alarm and, once it is made, its device.
fn attach<D: Alarmed + 'static>(alarm: &AlarmHandle, device: &Arc<D>) {
    let device: Arc<dyn Alarmed> = device.clone();
    alarm.attach(Arc::downgrade(&device));
}

impl Chipset {
    /// Makes the devices and puts those with fixed places there.
    pub fn new(parts: Parts<'_>) -> Result<Arc<Self>, Overlap> {
        let Parts {
            controllers,
            requests,
            alarms,
            layout,
            cpus,
            writer,
            installer,
        } = parts;
        let wires = Arc::new(IntxRouter::new(&controllers.pic, &controllers.ioapic));
        controllers.levels.solder(&wires);
        let clock = Arc::new(GuestClock);

        let rtc_alarm = alarms.create();
        let rtc = Arc::new(Rtc::new(RtcConfig {
            line: wires.isa_line(IRQ_RTC),
            wall: Arc::new(HostWallClock),
            clock: clock.clone(),
            alarm: rtc_alarm.clone(),
            memory_below_4g: layout.low_ram,
            memory_above_4g: layout.high_ram,
            processors: cpus,
        }));
        attach(&rtc_alarm, &rtc);
        let pit_alarm = alarms.create();
        let pit = Arc::new(Pit::new(PitConfig {
            line: wires.isa_line(IRQ_TIMER),
            clock: clock.clone(),
            alarm: pit_alarm.clone(),
        }));
        attach(&pit_alarm, &pit);
        let pm_alarm = alarms.create();
        let pm = Arc::new(AcpiPm::new(AcpiPmConfig {
            sci: wires.isa_line(SCI_IRQ),
            power: requests.clone(),
            clock,
            alarm: pm_alarm.clone(),
        }));
        attach(&pm_alarm, &pm);

        let chipset = Arc::new(Self {
            serial: Arc::new(Serial::new(COM1, wires.isa_line(IRQ_SERIAL), writer)),
            lpc: Arc::new(LpcBridge::new(wires.clone())),
            pit,
            rtc,
            post: Arc::default(),
            system_control: Arc::new(SystemControlA::new(requests.clone())),
            i8042: Arc::new(I8042::new(wires.isa_line(IRQ_KEYBOARD), requests.clone())),
            reset_control: Arc::new(ResetControl::new(requests)),
            pm,
            controllers,
            wires,
            installer,
            fixed: OnceLock::new(),
            movable: Mutex::default(),
        });
        let fixed = chipset.install_fixed()?;
        let _ = chipset.fixed.set(fixed);
        Ok(chipset)
    }

    fn install_fixed(&self) -> Result<Vec<Installed>, Overlap> {
        let ioapic = self.controllers.ioapic.clone();
        let mut installed =
            vec![self.install(Space::Memory, ioapic::BASE, ioapic::SIZE, "ioapic", ioapic)?];
        let devices: [(&str, Vec<PortRange>); 8] = [
            ("pic", self.controllers.pic.ports()),
            ("serial", self.serial.ports()),
            ("pit", self.pit.ports()),
            ("rtc", self.rtc.ports()),
            ("post", self.post.ports()),
            ("port92", self.system_control.ports()),
            ("i8042", self.i8042.ports()),
            ("acpi-pm", self.pm.ports()),
        ];
        for (name, ranges) in devices {
            for range in ranges {
                let (first, len) = (u64::from(range.first), u64::from(range.len));
                installed.push(self.install(Space::Io, first, len, name, range.region)?);
            }
        }
        Ok(installed)
    }

    fn install(
        &self,
        space: Space,
        base: u64,
        size: u64,
        name: &str,
        region: Arc<dyn Region>,
    ) -> Result<Installed, Overlap> {
        let fast_paths = Vec::new();
        self.installer.install(Placement {
            space,
            base,
            size,
            name,
            region,
            fast_paths,
        })
    }

    /// The register at CF9h, among the ports of the config mechanism.
    pub fn reset_control(&self) -> Arc<dyn Region> {
        self.reset_control.region()
    }

    /// Every device but the LPC bridge, which is reset with the other PCI functions, to its
    /// power-on state.
    pub fn reset(&self) {
        self.controllers.pic.reset();
        self.controllers.ioapic.reset();
        self.serial.reset();
        self.pit.reset();
        self.rtc.reset();
        self.post.reset();
        self.system_control.reset();
        self.i8042.reset();
        self.reset_control.reset();
        self.pm.reset();
    }

    /// What firmware programs into the LPC bridge: windows where the ACPI tables say they
    /// are, and the PIRQ routes.
    pub fn firmware_writes() -> [(Bdf, ConfigWrite); 5] {
        let write = |offset: u16, value| {
            (
                LPC,
                ConfigWrite::new(Register::containing(offset), value, 0b1111),
            )
        };
        [
            write(lpc::offset::PMBASE, u32::from(PM_BASE)),
            write(lpc::offset::ACPI_CNTL, ACPI_ENABLE),
            write(lpc::offset::PIRQ_A_ROUTE, PIRQ_ROUTES),
            write(lpc::offset::PIRQ_E_ROUTE, PIRQ_ROUTES),
            write(lpc::offset::RCBA, RCBA_BASE as u32 | DECODE),
        ]
    }

    /// This, as one who follows changes of the PCI functions.
    pub fn follower(self: &Arc<Self>) -> Weak<dyn Follower> {
        let follower: Arc<dyn Follower> = self.clone();
        Arc::downgrade(&follower)
    }
}

impl Follower for Chipset {
    /// Moves the LPC bridge's windows to where it now decodes them, and asks devices again
    /// whose interrupts it routes elsewhere.
    fn follow(&self, changes: Changes) {
        if changes.contains(Changes::ROUTING) {
            self.controllers.levels.rerouted();
        }
        if !changes.contains(Changes::CHIPSET) {
            return;
        }
        let mut movable = self.movable.lock().unwrap_or_else(PoisonError::into_inner);
        let pm_base = self.lpc.pm_base();
        if movable.pm.as_ref().map(|(base, _)| *base) != pm_base {
            movable.pm = None;
            movable.pm = pm_base.and_then(|base| {
                let len = u64::from(acpi_pm::LEN);
                let pm = self.install(Space::Io, base.into(), len, "acpi-pm", self.pm.clone());
                Some((base, placed(pm)?))
            });
        }
        let rcba = self.lpc.rcba();
        if movable.root_complex.as_ref().map(|(base, _)| *base) != rcba {
            movable.root_complex = None;
            movable.root_complex = rcba.and_then(|base| {
                let (size, region) = (lpc::ROOT_COMPLEX_SIZE, self.lpc.root_complex());
                let registers = self.install(Space::Memory, base, size, "rcba", region);
                Some((base, placed(registers)?))
            });
        }
    }
}

/// A window that a guest moved over another answers nowhere.
fn placed(installed: Result<Installed, Overlap>) -> Option<Installed> {
    installed
        .inspect_err(|error| tracing::debug!(%error, "the guest moved a chipset window"))
        .ok()
}
