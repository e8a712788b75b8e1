//! Checks all settings together and makes the [`Machine`] of them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::Hash;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{
    Cdrom, Disk, Given, MAX_CPUS, MAX_DRIVES, MAX_NETS, MAX_PORT, MAX_XAPIC_CPUS, MIN_MEMORY,
    Machine, Memory, MemorySpec, Origin, Settings, SocketPathError, control, iommu, nets, ports,
};
use crate::host::{DescriptorError, Host, HostDevice};
use crate::memory::{HugePages, display_size};

/// A setting that cannot be, and where it was given.
#[derive(Debug, thiserror::Error)]
#[error("{origin}")]
pub struct ConfigError {
    /// Where the setting was given.
    pub origin: Origin,
    /// What is wrong with it.
    #[source]
    pub problem: Box<Problem>,
}

/// What is wrong with a setting.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is nothing to boot.
    #[error("no kernel given; write --kernel PATH (a bzImage, or an ELF file with a PVH entry)")]
    NoKernel,
    /// A file cannot be opened.
    #[error("cannot open {} for {access}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// `reading` or `writing`.
        access: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not the kind of file it must be.
    #[error("{} is {found}; it must be {wanted}", .path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Too few or too many vCPUs.
    #[error("{0} vCPUs are not possible; write a number from 1 to {MAX_CPUS}")]
    Cpus(u32),
    /// More vCPUs than 8-bit APIC ids reach.
    #[error(
        "interrupts of devices do not reach all of {0} vCPUs by 8-bit APIC ids; add --iommu vtd, \
         with neither eim=off nor intremap=off, or write at most {MAX_XAPIC_CPUS}"
    )]
    NarrowIds(u32),
    /// Too little memory.
    #[error("{} is too little; a machine needs at least {}", display_size(*.0), display_size(MIN_MEMORY))]
    MemoryTooSmall(u64),
    /// Memory that is no whole number of pages.
    #[error("{} is no multiple of {}", display_size(*.size), display_size(*.unit))]
    MemoryUnaligned {
        /// Bytes asked for.
        size: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// A command line no kernel can be given.
    #[error("a command line cannot contain a zero byte")]
    CmdlineZero,
    /// More drives than the controller has.
    #[error("{0} disks and CD-ROMs are given; the IDE controller has {MAX_DRIVES} drives")]
    TooManyDrives(usize),
    /// More network cards than there are slots for.
    #[error("{0} network cards are given; a machine has slots for {MAX_NETS}")]
    TooManyNets(usize),
    /// One image twice, and one of them may write.
    #[error("{} is the same disk as the one at {other}; add readonly to both, or give each a copy of its own", .path.display())]
    SameDisk {
        /// The second.
        path: PathBuf,
        /// Where the first was given.
        other: Origin,
    },
    /// Something that can be had once is given twice.
    #[error("{what} is given twice (also at {other}); keep one")]
    Twice {
        /// What.
        what: String,
        /// Where the first was given.
        other: Origin,
    },
    /// Two devices on one slot that are not functions of one device.
    #[error(
        "{second} and {first} are both on port {port} and are not functions of one device; give one another port= (1 to {MAX_PORT}), or none to have one chosen"
    )]
    SamePort {
        /// The first device.
        first: HostDevice,
        /// The second.
        second: HostDevice,
        /// The port.
        port: u8,
    },
    /// All ports are taken.
    #[error("no port is left for {0}; a machine has {MAX_PORT}")]
    NoPort(HostDevice),
    /// More empty ports than are left.
    #[error("{ports} empty ports are not left; a machine has {MAX_PORT}, so write at most {left}")]
    TooManyPorts {
        /// How many are asked for.
        ports: u8,
        /// How many there are.
        left: u8,
    },
    /// No socket can be made there.
    #[error(transparent)]
    Socket(#[from] SocketPathError),
    /// A descriptor that is no device.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// Devices that ask for different interfaces to the IOMMU.
    #[error(
        "{this} is asked for here, and {other} at {origin}; a machine uses one interface for all \
         its devices, so make them the same"
    )]
    Interfaces {
        /// What is asked for, in the option's words.
        this: String,
        /// What the other asks for.
        other: String,
        /// The other.
        origin: Origin,
    },
    /// An open file of iommufd's world, with the other interface.
    #[error("{0} is for iommufd; leave iommu=type1 out")]
    NotForType1(String),
    /// 32-bit APIC ids without what they are for.
    #[error("eim=on needs intremap=on")]
    EimAlone,
    /// A device of the host's would never learn what the guest maps for it.
    #[error(
        "caching-mode=off leaves {0} without what the guest maps for it; leave it out, or assign \
         no device"
    )]
    NoCachingMode(HostDevice),
    /// No interface can have that name.
    #[error(
        "'{0}' cannot be the name of a network device; it must be 1 to 15 characters without '/' or spaces"
    )]
    TapName(String),
}

pub(super) fn error(origin: &Origin, problem: Problem) -> ConfigError {
    ConfigError {
        origin: origin.clone(),
        problem: Box::new(problem),
    }
}

impl Settings {
    /// Checks the settings, opens every file once to see that it can be, and fills in what
    /// was not given.
    pub fn validate(self) -> Result<Machine, ConfigError> {
        let no_kernel = || error(&Origin::Unset("--kernel"), Problem::NoKernel);
        let kernel = self.kernel.ok_or_else(no_kernel)?;
        check_image(&kernel)?;
        if let Some(initrd) = &self.initrd {
            check_image(initrd)?;
        }
        drives(&self.disk, &self.cdrom)?;
        let mut assigns = self.assign;
        assigns.extend(self.vf.into_iter().map(|vf| Given {
            value: vf.value.0,
            origin: vf.origin,
        }));
        let mut ids = Once::new();
        let assigns = ports::assigns(assigns, &Host::this_machine(), &mut ids)?;
        let nets = nets::nets(self.net, &nets::host_identity(), &mut ids)?;
        let control = control::control(self.control, &assigns)?;
        let iommu = iommu::iommu(self.iommu, &assigns, control.as_ref())?;
        Ok(Machine {
            kernel: kernel.value,
            initrd: self.initrd.map(|g| g.value),
            cmdline: cmdline(self.cmdline)?,
            cpus: cpus(self.cpus, iommu.is_some_and(|unit| unit.eim))?,
            memory: memory(self.memory)?,
            disks: self.disk.into_iter().map(|g| g.value).collect(),
            cdroms: self.cdrom.into_iter().map(|g| g.value).collect(),
            nets,
            control,
            iommu,
            assigns,
            serial: self.serial.map(|g| g.value).unwrap_or_default(),
            no_reboot: self.no_reboot.is_some_and(|g| g.value),
        })
    }
}

/// A console where `--serial` can show it, so that a kernel given nothing else is heard.
const DEFAULT_CMDLINE: &str = "console=ttyS0";
const DEFAULT_MEMORY: MemorySpec = MemorySpec {
    size: 1 << 30,
    huge_pages: HugePages::Transparent,
};

fn cmdline(given: Option<Given<String>>) -> Result<String, ConfigError> {
    match given {
        None => Ok(DEFAULT_CMDLINE.to_owned()),
        Some(g) if g.value.contains('\0') => Err(error(&g.origin, Problem::CmdlineZero)),
        Some(g) => Ok(g.value),
    }
}

fn cpus(given: Option<Given<u32>>, wide_ids: bool) -> Result<u32, ConfigError> {
    let Some(Given { value, origin }) = given else {
        return Ok(1);
    };
    let problem = if !(1..=MAX_CPUS).contains(&value) {
        Problem::Cpus(value)
    } else if value > MAX_XAPIC_CPUS && !wide_ids {
        Problem::NarrowIds(value)
    } else {
        return Ok(value);
    };
    Err(error(&origin, problem))
}

fn memory(given: Option<Given<MemorySpec>>) -> Result<Memory, ConfigError> {
    let given = given.unwrap_or(Given {
        value: DEFAULT_MEMORY,
        origin: Origin::Unset("--memory"),
    });
    let MemorySpec { size, huge_pages } = given.value;
    let unit = huge_pages.pool().unwrap_or(1 << 20);
    let problem = if size < MIN_MEMORY {
        Problem::MemoryTooSmall(size)
    } else if size % unit != 0 {
        Problem::MemoryUnaligned { size, unit }
    } else {
        return Ok(Memory { size, huge_pages });
    };
    Err(error(&given.origin, problem))
}

/// A kernel or initrd.
fn check_image(given: &Given<PathBuf>) -> Result<(), ConfigError> {
    check_file(&given.value).map_err(|problem| error(&given.origin, problem))
}

/// A regular file that can be read.
pub(super) fn check_file(path: &Path) -> Result<(), Problem> {
    let kind = stat(path, "reading")?.file_type();
    if !kind.is_file() {
        return Err(wrong_kind(path, kind, "a regular file"));
    }
    open(path, false)
}

/// What tells one image from another, whatever it is called: device and inode, or the
/// number of a block device.
type Identity = (u64, u64);

/// A disk or disc: a regular file or a block device, opened as it will be used.
fn check_drive(path: &Path, write: bool) -> Result<Identity, Problem> {
    let meta = stat(path, access(write))?;
    let kind = meta.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(wrong_kind(path, kind, "an image file or a block device"));
    }
    open(path, write)?;
    Ok(if kind.is_block_device() {
        (u64::MAX, meta.rdev())
    } else {
        (meta.dev(), meta.ino())
    })
}

fn drives(disks: &[Given<Disk>], discs: &[Given<Cdrom>]) -> Result<(), ConfigError> {
    let disks = disks
        .iter()
        .map(|g| (&g.value.path, !g.value.readonly, &g.origin));
    let discs = discs.iter().map(|g| (&g.value.path, false, &g.origin));
    let all: Vec<_> = disks.chain(discs).collect();
    if let (Some((_, _, origin)), true) = (all.get(MAX_DRIVES), all.len() > MAX_DRIVES) {
        return Err(error(origin, Problem::TooManyDrives(all.len())));
    }
    let mut seen: HashMap<Identity, (bool, &Origin)> = HashMap::new();
    for (path, write, origin) in all {
        let identity = check_drive(path, write).map_err(|p| error(origin, p))?;
        match seen.get(&identity) {
            Some((other_writes, other)) if write || *other_writes => {
                let (path, other) = (path.clone(), (*other).clone());
                return Err(error(origin, Problem::SameDisk { path, other }));
            }
            _ => drop(seen.insert(identity, (write, origin))),
        }
    }
    Ok(())
}

fn stat(path: &Path, access: &'static str) -> Result<fs::Metadata, Problem> {
    fs::metadata(path).map_err(|source| Problem::Open {
        path: path.to_owned(),
        access,
        source,
    })
}

fn open(path: &Path, write: bool) -> Result<(), Problem> {
    let result = File::options().read(true).write(write).open(path);
    result.map(drop).map_err(|source| Problem::Open {
        path: path.to_owned(),
        access: access(write),
        source,
    })
}

const fn access(write: bool) -> &'static str {
    if write { "writing" } else { "reading" }
}

fn wrong_kind(path: &Path, kind: fs::FileType, wanted: &'static str) -> Problem {
    let found = if kind.is_dir() {
        "a folder"
    } else if kind.is_file() {
        "a regular file"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "a pipe or socket"
    };
    Problem::Kind {
        path: path.to_owned(),
        found,
        wanted,
    }
}

/// Finds what is given twice.
pub(super) struct Once<K>(HashMap<K, Origin>);

impl<K: Eq + Hash> Once<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    pub(super) fn check(
        &mut self,
        key: K,
        origin: &Origin,
        what: impl FnOnce() -> String,
    ) -> Result<(), ConfigError> {
        match self.0.insert(key, origin.clone()) {
            None => Ok(()),
            Some(other) => Err(error(
                origin,
                Problem::Twice {
                    what: what(),
                    other,
                },
            )),
        }
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
