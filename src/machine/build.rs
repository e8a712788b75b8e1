//! Putting a machine together, from the inside out: VM, RAM and vCPUs; interrupts; chipset;
//! the PCI bus and what is on it; the tables that describe it all.

use std::sync::Arc;

use devices::bus::FastPathWatcher;
use devices::irq::MsiSink;
use devices::platform::intx::pirq;
use devices::time::Alarmed;
use iommu::{Identity, Remapper};
use pci::{BusAt, HostBridge, InterruptPin, Topology, Windows};

use super::assigned::Assigned;
use super::bus::Bus;
use super::chipset::{self, Chipset, LPC};
use super::console::Console;
use super::drives::{Drives, Images};
use super::fabric::Fabric;
use super::installer::Installer;
use super::nics::{Nics, Wires};
use super::pci_root::{FastPathChanges, PciRoot};
use super::requests::Requests;
use super::stats::Reporter;
use super::timers::{Alarms, GuestClock};
use super::vm::Vm;
use super::{Error, Machine};
use crate::interrupt::{Controllers, KvmMsi, KvmRoutes, Routing, Surroundings};
use crate::memory::layout::ECAM_BASE;
use crate::memory::{BarDemand, layout, ram};
use crate::vcpu::{Gate, Shared, Spaces};
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

        let vm = Vm::create()?;
        let (size, phys_bits) = (config.memory.size, vm.phys_bits()?);
        let plan = layout(size, phys_bits, &BarDemand::default())?;
        let ram = Arc::new(ram::allocate(&plan, config.memory.huge_pages)?);
        vm.add_ram(&ram)?;
        let vcpus = vm.create_vcpus(config.cpus)?;
        let spaces = Arc::new(Spaces {
            io: Arc::new(Bus::default()),
            mmio: Arc::new(Bus::default()),
            ring: vm.ring(&vcpus[0].0)?,
        });
        let installer = Installer {
            vm: vm.fd.clone(),
            io: spaces.io.clone(),
            mmio: spaces.mmio.clone(),
            slots: vm.slots.clone(),
        };
        let gate = Arc::new(Gate::default());
        let requests = Arc::new(Requests::new(gate.clone()).map_err(Error::Event)?);
        let alarms = Alarms::new().map_err(Error::EventLoop)?;

        let remapper: Arc<dyn Remapper> = Arc::new(Identity);
        let msi: Arc<dyn MsiSink> = Arc::new(KvmMsi(vm.fd.clone()));
        let routing = Arc::new(Routing::new(vm.fd.clone(), remapper.clone()));
        let ioapic_alarm = alarms.create();
        let controllers = Arc::new(Controllers::new(Surroundings {
            routing: routing.clone(),
            msi: msi.clone(),
            remapper: remapper.clone(),
            clock: Arc::new(GuestClock),
            alarm: ioapic_alarm.clone(),
            boot_processor: vcpus[0].0.kicker.clone(),
        }));
        let ioapic: Arc<dyn Alarmed> = controllers.ioapic.clone();
        ioapic_alarm.attach(Arc::downgrade(&ioapic));

        let console = Console::open(&config.serial)?;
        let chipset = Chipset::new(chipset::Parts {
            controllers: controllers.clone(),
            requests: requests.clone(),
            alarms: &alarms,
            layout: &plan,
            cpus: config.cpus,
            writer: console.writer(),
            installer: installer.clone(),
        })?;
        console
            .start(&chipset.serial, &requests)
            .map_err(Error::Thread)?;

        let fabric = Fabric {
            ram: ram.clone(),
            remapper,
            msi,
            routes: Arc::new(KvmRoutes(routing)),
            wires: chipset.wires.clone(),
            deferred: spaces.clone(),
            installer: installer.clone(),
        };
        let host_bridge = Arc::new(HostBridge::new(Some(ECAM_BASE)));
        let mut topology = Topology::new();
        topology.attach(
            BusAt::Root,
            0,
            0,
            "the host bridge",
            host_bridge.clone() as _,
        )?;
        topology.attach(
            BusAt::Root,
            LPC.device(),
            0,
            "the LPC bridge",
            chipset.lpc.clone() as _,
        )?;
        let drives = Drives::attach(drives, &fabric, &mut topology)?;
        let fast_paths = Arc::new(FastPathChanges::new().map_err(Error::Event)?);
        let watcher: Arc<dyn FastPathWatcher> = fast_paths.clone();
        let nics = Nics::attach(wires, &fabric, &watcher, &mut topology)?;
        let assigned = Assigned::open(&config.assigns, &vm, &fabric)?;
        if let Some(assigned) = &assigned {
            assigned.attach(&config.assigns, &mut topology)?;
        }

        topology.check()?;
        let root = PciRoot::new(topology, host_bridge, installer);
        let (total, largest) = root.demand64();
        let plan = layout(size, phys_bits, &BarDemand { total, largest })?;
        let windows = Windows {
            io: IO_WINDOW,
            memory32: plan.pci32.first..=plan.pci32.last,
            memory64: plan.pci64.first..=plan.pci64.last,
        };
        root.open(windows, chipset.follower(), chipset.reset_control())?;
        let apic_ids: Vec<u32> = (0..config.cpus).collect();
        let tables = acpi::build(&acpi::Platform {
            apic_ids: &apic_ids,
            ioapic_id: IOAPIC_ID,
            layout: &plan,
            pirq: |device, pin| pirq(device, InterruptPin::from_index(pin)),
            native: acpi::Native::default(),
        });
        let reporter = Reporter {
            file: std::env::var_os("SLUICE_STATS").map(Into::into),
            buses: [spaces.io.clone(), spaces.mmio.clone()],
        };
        let shared = Arc::new(Shared {
            spaces,
            interrupts: controllers,
            verdicts: requests.clone(),
            gate: gate.clone(),
        });
        Ok(Self {
            shared,
            gate,
            requests,
            alarms,
            fast_paths,
            root,
            _nics: nics,
            _drives: drives,
            _assigned: assigned,
            chipset,
            console,
            reporter,
            vcpus,
            images,
            cmdline: config.cmdline.clone(),
            tables,
            layout: plan,
            no_reboot: config.no_reboot,
            _vm: vm,
            ram,
        })
    }
}
