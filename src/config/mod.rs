//! What machine the operator wants: flags and a TOML file, equal in power, become one
//! checked [`Machine`].
//!
//! The way: flags ([`crate::cli`]) and the file ([`file`]) each become [`Settings`]; flags
//! are laid over the file ([`Settings::over`]); [`Settings::validate`] checks the whole and
//! yields plain values. Every setting remembers where it was given, so an error names the
//! flag, or the file with its line.

mod control;
mod device;
mod file;
mod id;
mod interface;
mod iommu;
mod mac;
mod nets;
mod on_error;
mod option;
mod origin;
mod ports;
mod settings;
mod socket;
mod switch;
mod together;
mod validate;
mod vf;

use std::path::PathBuf;

use devices::net::{Forward, Mac};
use devices::vfio::Presentation;

use crate::host::{HostDevice, Inherited, VfSettings};
use crate::memory::HugePages;

pub use self::iommu::{Iommu, IommuSpec};
pub use control::{Control, ControlSpec};
pub use device::{AssignSpec, DeviceSpec, Interface, MemorySpec, NetSpec};
pub use file::{FileError, load};
pub use id::check_id;
pub use on_error::OnError;
pub use option::OptionError;
pub use origin::{Given, Origin};
pub use settings::Settings;
pub use socket::{Site, SocketPathError, check_socket_path};
pub use together::{NotTogether, Together};
pub use validate::{ConfigError, Problem};
pub use vf::{NumberedVf, VfSpec};

/// The most vCPUs a machine has: as many as KVM makes by default, and whose ACPI tables have
/// room below 1 MiB.
pub const MAX_CPUS: u32 = 1024;
/// The most whose APIC ids, up to 254, interrupts reach without remapping.
pub const MAX_XAPIC_CPUS: u32 = 255;
/// Drives of the IDE controller: two channels of two.
pub const MAX_DRIVES: usize = 4;
/// Network cards: devices 2 to 15 of the root bus.
pub const MAX_NETS: usize = 14;
/// Root port (and slot) numbers go from 1 to this.
pub const MAX_PORT: u8 = 32;
/// The least memory a machine has.
pub const MIN_MEMORY: u64 = 16 << 20;

/// A machine to make. Everything in it has been checked: files can be opened, no two
/// devices collide, numbers are in range.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Machine {
    /// A bzImage, or an ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// RAM.
    pub memory: Memory,
    /// Hard disks, in the order given. Together with `cdroms` at most [`MAX_DRIVES`].
    pub disks: Vec<Disk>,
    /// CD-ROMs, in the order given.
    pub cdroms: Vec<Cdrom>,
    /// Network cards, in the order given, at most [`MAX_NETS`].
    pub nets: Vec<Net>,
    /// Assigned host devices, ordered by port and function; no two in one place.
    pub assigns: Vec<Assign>,
    /// What stands between its devices and its memory.
    pub iommu: Option<Iommu>,
    /// Where the serial port goes.
    pub serial: Serial,
    /// Where it is controlled while it runs, and its room for devices that come later.
    pub control: Option<Control>,
    /// A reset of the guest ends Sluice instead of starting it again.
    pub no_reboot: bool,
}

/// RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Memory {
    /// Bytes: at least [`MIN_MEMORY`], a multiple of the page size and of 1 MiB.
    pub size: u64,
    /// What pages back it.
    pub huge_pages: HugePages,
}

/// A hard disk.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A raw image or a block device.
    pub path: PathBuf,
    /// The guest cannot write it.
    #[serde(default)]
    pub readonly: bool,
}

/// A CD-ROM drive with a disc in it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cdrom {
    /// An ISO image or a block device.
    pub path: PathBuf,
}

/// A network card.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Net {
    /// What the operator calls it: `net0` and so on where nothing is given. No two devices of a
    /// machine are called the same.
    pub id: String,
    /// What it is plugged into.
    pub backend: NetBackend,
    /// Its address. Where none is given it is made from the host, the back end and the
    /// card's place in order, so it is the same at every start.
    pub mac: Mac,
}

/// What a network card is plugged into.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub enum NetBackend {
    /// A TAP device of the host's.
    Tap(String),
    /// User-mode networking, with ports of the host's forwarded to the guest.
    User(Vec<Forward>),
}

/// A host device given to the guest.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Assign {
    /// What the operator calls it: as the host does where nothing is given. No two devices of a
    /// machine are called the same.
    pub id: String,
    /// Which device.
    pub device: HostDevice,
    /// The device's own file, if this process was given it.
    pub file: Option<Inherited>,
    /// Through which of the kernel's interfaces; the same for all of a machine's devices.
    pub interface: Interface,
    /// The `/dev/iommu` that this process was given, if it was; the same for all of them.
    pub iommufd: Option<Inherited>,
    /// Which root port (slot) it is plugged into, 1 to [`MAX_PORT`].
    pub port: u8,
    /// Which function it is of the device in that slot; each has a function 0.
    pub function: u8,
    /// How it is shown to the guest.
    pub presentation: Presentation,
    /// What is done when it fails.
    pub on_error: OnError,
    /// The device is a physical function, in whose place a virtual one with these settings
    /// comes before the machine is made.
    pub lent: Option<VfSettings>,
}

/// Where the serial port goes.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub enum Serial {
    /// The terminal, or standard input and output.
    #[default]
    Stdio,
    /// Output to a file, which is made or emptied; no input.
    File(PathBuf),
    /// A UNIX socket that Sluice listens on.
    Socket(PathBuf),
}
