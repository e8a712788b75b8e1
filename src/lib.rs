//! Sluice, a virtual machine monitor for device passthrough.
//!
//! A guest's I/O flows one way, and the source tree is that sentence:
//!
//! **vCPU exit → bus → function → (DMA through the IOMMU, interrupt through the IOMMU) →
//! guest**
//!
//! | where | what |
//! | --- | --- |
//! | [`vcpu`] | the loop that answers a vCPU's exits, and how a vCPU starts |
//! | [`machine`] | the address spaces an exit lands in ([`machine::bus`]), and everything wired to them |
//! | [`pci`] | config space, BARs, capabilities, bridges, the host bridge: pure values |
//! | [`devices`] | what sits on the bus: platform, IDE, e1000, assigned devices |
//! | [`iommu`] | what stands between a device and memory; the host's IOMMU behind it |
//! | [`interrupt`] | IOAPIC pins, the 8259 pair and messages on their way to KVM's LAPICs |
//! | [`memory`] | the address map and the guest's RAM |
//! | [`boot`], [`acpi`] | the kernel in memory, and the tables that describe the machine to it |
//! | [`host`] | what the operator's machine has to give |
//! | [`config`], [`cli`] | what the operator asked for |
//! | [`control`] | what the operator asks of a machine that runs |
//!
//! Dependencies point down only: `sluice → devices → iommu → pci`; a test holds them to it.
//! Nothing below this crate names KVM, and nothing below it knows a command line. A device is
//! a library object: give it guest memory, an interrupt and a clock, and drive it from a test
//! with no VM.
//!
//! The emulated host in which all of it runs without the hardware is the package `lab`, in
//! `tests/lab`.

pub mod acpi;
pub mod boot;
pub mod cli;
pub mod config;
pub mod control;
pub mod host;
pub mod interrupt;
pub mod machine;
pub mod memory;
pub mod vcpu;
