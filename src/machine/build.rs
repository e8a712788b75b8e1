//! Putting a machine together, from the inside out: VM, RAM and vCPUs; interrupts and
//! chipset; the PCI bus and what is on it; the tables that describe it all.
//!
//! If a stage fails, those before it are dropped in the reverse order: devices before what
//! they reach.

use std::sync::Arc;

use devices::bus::{FastPathWatcher, PciDevice};
use devices::dma::GuestRam;
use devices::irq::MsiSink;
use devices::platform::intx::pirq;
use devices::time::Alarmed;
use iommu::{Identity, Remapper};
use pci::{BusAt, HostBridge, InterruptPin, Topology, Windows};

use super::assigned::Peers;
use super::bus::Bus;
use super::chipset::{self, Chipset, LPC};
use super::console::Console;
use super::drives::{Drives, Images};
use super::fabric::Fabric;
use super::installer::Installer;
use super::nics::{Nics, Wires};
use super::pci_root::{FastPathChanges, PciRoot};
use super::requests::Requests;
use super::slots::{self, Slots};
use super::stats::Reporter;
use super::timers::{Alarms, GuestClock};
use super::vm::Vm;
use super::vtd::{self, Unit};
use super::{Error, Machine};
use crate::cli::Progress;
use crate::control::Server;
use crate::interrupt::{
    Controllers, IOAPIC_REQUESTER, KvmMsi, KvmRoutes, Routes, Routing, Surroundings,
};
use crate::memory::layout::{ECAM_BASE, VTD_BASE};
use crate::memory::{BarDemand, HugePages, Layout, layout, populate, ram};
use crate::vcpu::{Gate, PowerOn, Shared, Spaces, Vcpu};
use crate::{acpi, boot, config};

/// Ports that BARs may have: above what chipset devices use.
const IO_WINDOW: std::ops::RangeInclusive<u64> = 0x1000..=0xffff;
const IOAPIC_ID: u8 = 0;

impl Machine {
    /// Makes the machine that `config` describes. The guest is not started. What the
    /// operator named is opened first, so that a mistake costs nothing.
    pub fn build(config: &config::Machine) -> Result<Self, Error> {
        let images = boot::Images::open(&config.kernel, config.initrd.as_deref())?;
        let drives = Images::open(&config.disks, &config.cdroms)?;
        let wires = Wires::open(&config.nets)?;

        let core = Core::new(config)?;
        let board = Board::new(config, &core)?;
        let fabric = Arc::new(board.fabric(&core));
        let host_bridge = Arc::new(HostBridge::new(Some(ECAM_BASE)));
        let mut topology = board.topology(&host_bridge)?;
        let drives = Drives::attach(drives, &fabric, &mut topology)?;
        let fast_paths = Arc::new(FastPathChanges::new().map_err(Error::Event)?);
        let watcher: Arc<dyn FastPathWatcher> = fast_paths.clone();
        let nics = Nics::attach(wires, &fabric, &watcher, &mut topology)?;
        let slots = slots::Parts {
            assigns: &config.assigns,
            spare: config.control.as_ref().map_or(0, |control| control.ports),
            vm: &core.vm,
            fabric: &fabric,
            watcher: &watcher,
        };
        let slots = Slots::attach(slots, &mut topology)?;

        topology.check()?;
        let root = PciRoot::new(topology, host_bridge, core.installer.clone());
        let layout = core.final_layout(&root)?;
        let chipset = board.chipset;
        root.open(
            windows(&layout),
            chipset.follower(),
            chipset.reset_control(),
        )?;
        slots.open(&root)?;
        let listen = |control: &config::Control| Server::start(&control.path, slots.clone());
        let control = config.control.as_ref().map(listen).transpose()?;
        let reporter = Reporter {
            file: std::env::var_os("SLUICE_STATS").map(Into::into),
            buses: [core.spaces.io.clone(), core.spaces.mmio.clone()],
            routing: board.routing,
            followers: board.vtd.as_ref().map(|unit| unit.behind().followers),
        };
        let shared = Arc::new(Shared {
            spaces: core.spaces,
            interrupts: board.controllers,
            verdicts: board.requests.clone(),
            gate: board.gate.clone(),
        });
        Ok(Self {
            shared,
            gate: board.gate,
            requests: board.requests,
            alarms: board.alarms,
            fast_paths,
            tables: tables(config.cpus, &layout, root.last_bus(), board.vtd.as_ref()),
            vtd: board.vtd,
            root,
            _nics: nics,
            _drives: drives,
            slots,
            control,
            chipset,
            console: board.console,
            reporter,
            vcpus: core.vcpus,
            images,
            cmdline: config.cmdline.clone(),
            layout,
            no_reboot: config.no_reboot,
            _vm: core.vm,
            ram: core.ram,
        })
    }
}

/// What KVM gives: the VM with its RAM and vCPUs, and address spaces with nothing in them.
struct Core {
    vcpus: Vec<(Arc<Vcpu>, PowerOn)>,
    spaces: Arc<Spaces>,
    peers: Arc<Peers>,
    installer: Installer,
    memory: u64,
    phys_bits: u8,
    /// The address map but for the window of 64-bit BARs.
    layout: Layout,
    vm: Vm,
    ram: Arc<GuestRam>,
    pages: HugePages,
}

impl Core {
    fn new(config: &config::Machine) -> Result<Self, Error> {
        let vm = Vm::create()?;
        let (memory, phys_bits) = (config.memory.size, vm.phys_bits()?);
        let layout = layout(memory, phys_bits, &BarDemand::default())?;
        let pages = config.memory.huge_pages;
        let ram = Arc::new(ram::allocate(&layout, pages)?);
        if pages.pool().is_some() {
            // They are this guest's alone already; cleared now, none is while it runs.
            let mut bar = Progress::start("populating guest memory", memory);
            populate(&ram, pages, |done| bar.at(done))?;
        }
        vm.add_ram(&ram)?;
        let vcpus = vm.create_vcpus(config.cpus)?;
        let spaces = Arc::new(Spaces {
            io: Arc::new(Bus::default()),
            mmio: Arc::new(Bus::default()),
            ring: vm.ring(&vcpus[0].0)?,
        });
        let peers = Arc::<Peers>::default();
        let installer = Installer {
            vm: vm.fd.clone(),
            memory: vm.fd.clone(),
            io: spaces.io.clone(),
            mmio: spaces.mmio.clone(),
            slots: vm.slots.clone(),
            peers: peers.clone(),
        };
        Ok(Self {
            vcpus,
            spaces,
            peers,
            installer,
            memory,
            phys_bits,
            layout,
            vm,
            ram,
            pages,
        })
    }

    /// The guest's VT-d, if it is to have one.
    fn vtd(&self, config: &config::Machine, msi: &Arc<dyn MsiSink>) -> Result<Option<Unit>, Error> {
        let make = |iommu| {
            Unit::new(vtd::Parts {
                config: iommu,
                phys_bits: self.phys_bits,
                ram: self.ram.clone(),
                msi: msi.clone(),
                installer: &self.installer,
            })
        };
        config.iommu.as_ref().map(make).transpose()
    }

    /// The address map with a window for the BARs that there are.
    fn final_layout(&self, root: &PciRoot) -> Result<Layout, Error> {
        let (total, largest) = root.demand64();
        let demand = BarDemand { total, largest };
        Ok(layout(self.memory, self.phys_bits, &demand)?)
    }
}

/// What every machine has on its board: interrupts, alarms, the chipset and the console.
struct Board {
    gate: Arc<Gate>,
    requests: Arc<Requests>,
    alarms: Arc<Alarms>,
    vtd: Option<Unit>,
    remapper: Arc<dyn Remapper>,
    msi: Arc<dyn MsiSink>,
    routing: Arc<Routing>,
    routes: Arc<Routes>,
    controllers: Arc<Controllers>,
    chipset: Arc<Chipset>,
    console: Console,
}

impl Board {
    fn new(config: &config::Machine, core: &Core) -> Result<Self, Error> {
        let gate = Arc::new(Gate::default());
        let requests = Arc::new(Requests::new(gate.clone()).map_err(Error::Event)?);
        let alarms = Alarms::new().map_err(Error::EventLoop)?;

        let msi: Arc<dyn MsiSink> = Arc::new(KvmMsi(core.vm.fd.clone()));
        let vtd = core.vtd(config, &msi)?;
        let remapper: Arc<dyn Remapper> = match &vtd {
            Some(unit) => unit.vtd.clone(),
            None => Arc::new(Identity),
        };
        let routing = Arc::new(Routing::new(core.vm.fd.clone()));
        let routes = Routes::new(routing.clone(), remapper.clone(), msi.clone());
        let routes = routes.map_err(Error::Event)?;
        let ioapic_alarm = alarms.create();
        let controllers = Controllers::new(Surroundings {
            routing: routing.clone(),
            msi: msi.clone(),
            remapper: remapper.clone(),
            clock: Arc::new(GuestClock),
            alarm: ioapic_alarm.clone(),
            boot_processor: core.vcpus[0].0.kicker.clone(),
        });
        let controllers = Arc::new(controllers.map_err(Error::Event)?);
        if let Some(unit) = &vtd {
            unit.wire(&controllers, &routes);
        }
        let ioapic: Arc<dyn Alarmed> = controllers.ioapic.clone();
        ioapic_alarm.attach(Arc::downgrade(&ioapic));

        let console = Console::open(&config.serial)?;
        let chipset = Chipset::new(chipset::Parts {
            controllers: controllers.clone(),
            requests: requests.clone(),
            alarms: &alarms,
            layout: &core.layout,
            cpus: config.cpus,
            writer: console.writer(),
            installer: core.installer.clone(),
        })?;
        console
            .start(&chipset.serial, &requests)
            .map_err(Error::Thread)?;
        Ok(Self {
            gate,
            requests,
            alarms,
            vtd,
            remapper,
            msi,
            routing,
            routes,
            controllers,
            chipset,
            console,
        })
    }

    fn fabric(&self, core: &Core) -> Fabric {
        Fabric {
            ram: core.ram.clone(),
            pages: core.pages,
            remapper: self.remapper.clone(),
            behind: self.vtd.as_ref().map(Unit::behind),
            msi: self.msi.clone(),
            routes: Arc::new(KvmRoutes(self.routes.clone())),
            wires: self.chipset.wires.clone(),
            levels: self.controllers.levels.clone(),
            deferred: core.spaces.clone(),
            peers: core.peers.clone(),
            installer: core.installer.clone(),
        }
    }

    /// The root bus with the chipset's own functions.
    fn topology(&self, host_bridge: &Arc<HostBridge>) -> Result<Topology<dyn PciDevice>, Error> {
        let mut topology: Topology<dyn PciDevice> = Topology::new();
        let host_bridge = host_bridge.clone() as _;
        topology.attach(BusAt::Root, 0, 0, "the host bridge", host_bridge)?;
        let lpc = self.chipset.lpc.clone() as _;
        topology.attach(BusAt::Root, LPC.device(), 0, "the LPC bridge", lpc)?;
        Ok(topology)
    }
}

/// Where BARs may be.
fn windows(layout: &Layout) -> Windows {
    Windows {
        io: IO_WINDOW,
        memory32: layout.pci32.first..=layout.pci32.last,
        memory64: layout.pci64.first..=layout.pci64.last,
    }
}

fn tables(cpus: u32, layout: &Layout, last_bus: u8, vtd: Option<&Unit>) -> acpi::Tables {
    let apic_ids: Vec<u32> = (0..cpus).collect();
    acpi::build(&acpi::Platform {
        apic_ids: &apic_ids,
        ioapic_id: IOAPIC_ID,
        layout,
        pirq: |device, pin| pirq(device, InterruptPin::from_index(pin)),
        last_bus,
        dmar: vtd.map(|unit| acpi::Dmar {
            registers: VTD_BASE,
            address_bits: unit.vtd.config().address_bits(),
            interrupt_remapping: unit.vtd.config().interrupt_remapping,
            device_tlb: unit.vtd.config().device_tlb,
            ioapic: IOAPIC_REQUESTER,
        }),
        native: acpi::Native {
            hotplug: true,
            aer: true,
            pme: false,
        },
    })
}
