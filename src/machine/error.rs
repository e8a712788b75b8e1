//! Why a machine cannot be made, or ended before its guest did.

use std::io;

/// One line for the operator, with its causes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM.
    #[error(transparent)]
    Vm(#[from] super::vm::VmError),
    /// The address map.
    #[error(transparent)]
    Layout(#[from] crate::memory::LayoutError),
    /// RAM.
    #[error(transparent)]
    Ram(#[from] crate::memory::RamError),
    /// The control socket.
    #[error("--control")]
    Control(#[from] crate::control::ServerError),
    /// The serial port.
    #[error(transparent)]
    Console(#[from] super::console::ConsoleError),
    /// Kernel, initrd or command line.
    #[error(transparent)]
    Boot(#[from] crate::boot::BootError),
    /// ACPI tables.
    #[error(transparent)]
    Tables(#[from] crate::acpi::TablesError),
    /// Two devices in one place.
    #[error(transparent)]
    Topology(#[from] pci::TopologyError),
    /// A chipset function could not be made.
    #[error("cannot make a PCI function")]
    Function(#[from] pci::CapabilityError),
    /// A disk's image.
    #[error("--disk")]
    Disk(#[source] devices::block::OpenError),
    /// A CD-ROM's image.
    #[error("--cdrom")]
    Cdrom(#[source] devices::block::OpenError),
    /// The IDE controller.
    #[error("cannot start the IDE controller")]
    Ide(#[source] io::Error),
    /// A TAP.
    #[error("--net")]
    Tap(#[source] devices::net::TapError),
    /// User-mode networking.
    #[error("--net user")]
    Passt(#[source] devices::net::PasstError),
    /// A network card.
    #[error("cannot start a network card")]
    Nic(#[source] io::Error),
    /// A device of the host's that cannot be assigned.
    #[error("--assign")]
    NotAssignable(#[from] crate::host::AssignError),
    /// A virtual function that cannot be lent.
    #[error("--vf")]
    Lend(#[source] crate::host::SriovError),
    /// VFIO as a whole.
    #[error("--assign")]
    Container(#[from] iommu::host::OpenError),
    /// iommufd as a whole.
    #[error("--assign")]
    Iommufd(#[from] iommu::host::IommufdError),
    /// A mediated device that cannot be assigned.
    #[error("--assign")]
    Mediated(#[from] crate::host::MediatedError),
    /// Devices that want different interfaces.
    #[error("--assign")]
    OtherInterface(#[from] super::assigned::OtherInterface),
    /// A device that VFIO would not open.
    #[error("--assign")]
    OpenDevice(#[from] devices::vfio::OpenError),
    /// Memory that could not be pinned.
    #[error(transparent)]
    Pin(#[from] iommu::host::PinError),
    /// What devices need of the host's IOMMU behind the guest's.
    #[error("--assign")]
    Shadow(#[from] iommu::shadow::ShadowError),
    /// A guest that does not announce what it maps.
    #[error("--assign: with caching-mode=off in --iommu no device can be assigned")]
    NoCachingMode,
    /// A device that opened but cannot be shown to a guest.
    #[error("--assign")]
    Assign(#[from] devices::vfio::AssignError),
    /// BARs larger than their window.
    #[error(transparent)]
    NoRoom(#[from] pci::NoRoom),
    /// Two chipset devices at one address.
    #[error("the chipset does not fit together")]
    Overlap(#[from] super::bus::Overlap),
    /// A vCPU's state.
    #[error("vCPU {id}: KVM refuses its initial state")]
    VcpuReset {
        /// Which.
        id: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// No event descriptor.
    #[error("cannot make an event descriptor")]
    Event(#[source] io::Error),
    /// The main thread's wait.
    #[error("cannot wait for events")]
    EventLoop(#[source] nix::Error),
    /// Signals.
    #[error("cannot take over signals")]
    Signals(#[source] nix::Error),
    /// The operator ended it.
    #[error("{0}")]
    Quit(String),
    /// The guest cannot go on.
    #[error("{0}")]
    Failed(String),
}
