//! What the host itself does with a device: file systems, swap and routes that go away with
//! it, and processes that have it through VFIO.
//!
//! In sysfs, whatever a driver makes of a function (disks and their partitions, network
//! interfaces) lies below the function's own directory; what is stacked on that (device
//! mapper, RAID, bonds, bridges, VLANs) has links to what is below it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pci::HostBdf;

use super::{Host, PciFunction, link_name, names_in};

/// Something that the host would lose with a device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Use {
    /// A file system on it is mounted.
    Mounted {
        /// Where.
        at: String,
        /// The block device, such as `sda1`.
        block: String,
    },
    /// There is swap space on it.
    Swap(String),
    /// The default route goes through it: the interface.
    DefaultRoute(String),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { at, block } if at == "/" => {
                write!(f, "the root file system is on it ({block})")
            }
            Self::Mounted { at, block } => write!(f, "{block} on it is mounted on {at}"),
            Self::Swap(block) => write!(f, "{block} on it is swap space"),
            Self::DefaultRoute(interface) => {
                write!(f, "the default route goes through it ({interface})")
            }
        }
    }
}

/// A process that has a device open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Processes and the VFIO nodes that each has open.
pub(super) struct Openers(Vec<(Process, Vec<PathBuf>)>);

impl Openers {
    /// The first that has the function or another of its group open.
    pub(super) fn of(&self, host: &Host, function: &PciFunction) -> Option<Process> {
        let mut nodes = host.character_devices(function.address);
        if let Some(group) = function.group {
            nodes.push(Path::new("dev/vfio").join(group.to_string()));
            let members = host.groups().join(group.to_string()).join("devices");
            for member in names_in(&members).unwrap_or_default() {
                let address = member.parse().ok();
                nodes.extend(address.into_iter().flat_map(|a| host.character_devices(a)));
            }
        }
        let has_one = |targets: &[PathBuf]| {
            let mut targets = targets.iter();
            targets.any(|target| nodes.iter().any(|node| target.ends_with(node)))
        };
        let mut all = self.0.iter();
        let found = all.find(|(_, targets)| has_one(targets))?;
        Some(found.0.clone())
    }
}

impl Host {
    /// What the host would lose with the function: mounted file systems and swap on disks
    /// behind it, and default routes through its interfaces.
    pub fn uses(&self, function: &PciFunction) -> io::Result<Vec<Use>> {
        let dir = fs::canonicalize(self.sysfs_path(function.address))?;
        let mut found = BTreeSet::new();
        for mount in self.mounts()? {
            if self.block_lies_below(&mount.block, &dir) {
                let at = mount.at;
                let block = mount.block;
                found.insert(Use::Mounted { at, block });
            }
        }
        for block in self.swaps() {
            if self.block_lies_below(&block, &dir) {
                found.insert(Use::Swap(block));
            }
        }
        for interface in self.default_routes() {
            if self.interface_lies_below(&interface, &dir) {
                found.insert(Use::DefaultRoute(interface));
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The network interfaces that the function's driver made.
    pub fn interfaces(&self, function: &PciFunction) -> io::Result<Vec<String>> {
        names_in(&self.sysfs_path(function.address).join("net"))
    }

    /// A process that has the function or another of its group open through VFIO, other than
    /// this one. Those of other users are seen by root alone.
    pub fn opener(&self, function: &PciFunction) -> Option<Process> {
        self.openers().of(self, function)
    }

    /// Every process, other than this one, that has something open through VFIO.
    pub(super) fn openers(&self) -> Openers {
        let processes = names_in(&self.root.join("proc")).unwrap_or_default();
        let pids = processes.iter().filter_map(|name| name.parse().ok());
        let others = pids.filter(|pid| *pid != std::process::id());
        Openers(others.filter_map(|pid| self.open_by(pid)).collect())
    }

    fn open_by(&self, pid: u32) -> Option<(Process, Vec<PathBuf>)> {
        let dir = self.root.join(format!("proc/{pid}/fd"));
        let descriptors = names_in(&dir).unwrap_or_default();
        let targets = descriptors
            .iter()
            .filter_map(|fd| fs::read_link(dir.join(fd)).ok());
        let is_vfio = |target: &PathBuf| target.to_string_lossy().contains("dev/vfio/");
        let nodes: Vec<_> = targets.filter(is_vfio).collect();
        if nodes.is_empty() {
            return None;
        }
        let name = fs::read_to_string(self.root.join(format!("proc/{pid}/comm")));
        let name = name.unwrap_or_default().trim().to_owned();
        Some((Process { pid, name }, nodes))
    }

    /// The nodes by which a function is opened without its group.
    pub(super) fn character_devices(&self, address: HostBdf) -> Vec<PathBuf> {
        let names = names_in(&self.sysfs_path(address).join("vfio-dev")).unwrap_or_default();
        let devices = Path::new("dev/vfio/devices");
        names.iter().map(|name| devices.join(name)).collect()
    }

    /// Every mounted file system that is on a block device (proc(5), mountinfo).
    fn mounts(&self) -> io::Result<Vec<Mount>> {
        let text = fs::read_to_string(self.root.join("proc/self/mountinfo"))?;
        Ok(text.lines().filter_map(|line| self.mount(line)).collect())
    }

    fn mount(&self, line: &str) -> Option<Mount> {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        let (number, at) = (fields.next()?, fields.nth(1)?);
        let source = after.split(' ').nth(1)?;
        // Some file systems (btrfs) have a device number of their own making.
        let block = link_name(&self.root.join("sys/dev/block").join(number));
        let block = block.or_else(|| self.block_name(source))?;
        Some(Mount {
            block,
            at: unescaped(at),
        })
    }

    fn swaps(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.join("proc/swaps")).unwrap_or_default();
        let lines = text.lines().skip(1);
        lines
            .filter_map(|line| self.block_name(&unescaped(line.split_whitespace().next()?)))
            .collect()
    }

    /// What sysfs calls the block device at this path of `/dev`.
    fn block_name(&self, path: &str) -> Option<String> {
        let path = fs::canonicalize(self.root.join(path.strip_prefix('/')?)).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        self.root
            .join("sys/class/block")
            .join(&name)
            .exists()
            .then_some(name)
    }

    /// Interfaces with a default route (`/proc/net/route`, `/proc/net/ipv6_route`).
    fn default_routes(&self) -> Vec<String> {
        let read = |name: &str| fs::read_to_string(self.root.join(name)).unwrap_or_default();
        let mut found = Vec::new();
        for line in read("proc/net/route").lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [interface, "00000000", _, _, _, _, _, "00000000", ..] = fields[..] {
                found.push(interface.to_owned());
            }
        }
        for line in read("proc/net/ipv6_route").lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let anywhere = "0".repeat(32);
            if let [to, "00", .., interface] = fields[..]
                && to == anywhere
                // The route that says that there is none.
                && interface != "lo"
            {
                found.push(interface.to_owned());
            }
        }
        found
    }

    fn block_lies_below(&self, block: &str, dir: &Path) -> bool {
        let at = self.root.join("sys/class/block").join(block);
        lies_below(&at, dir, &|at| {
            // Of a partition, what its disk is stacked on.
            let disk = at.parent().filter(|_| at.join("partition").exists());
            let stack = disk.unwrap_or(at);
            let mut below = links_in(&stack.join("slaves"), "");
            // A namespace that several NVMe controllers may reach is below their subsystem.
            if let Some(subsystem) = stack.parent()
                && stack.starts_with(self.root.join("sys/devices/virtual/nvme-subsystem"))
            {
                below.extend(links_in(subsystem, "nvme"));
            }
            below
        })
    }

    fn interface_lies_below(&self, interface: &str, dir: &Path) -> bool {
        let at = self.root.join("sys/class/net").join(interface);
        lies_below(&at, dir, &|at| {
            let mut below = links_in(at, "lower_");
            // The ports of a bridge, where the kernel makes no links to them.
            below.extend(links_in(&at.join("brif"), ""));
            below
        })
    }
}

struct Mount {
    block: String,
    at: String,
}

/// Whether a device or what it is stacked on is in the directory.
fn lies_below(device: &Path, dir: &Path, below: &dyn Fn(&Path) -> Vec<PathBuf>) -> bool {
    fn search(
        device: &Path,
        dir: &Path,
        below: &dyn Fn(&Path) -> Vec<PathBuf>,
        seen: &mut BTreeSet<PathBuf>,
    ) -> bool {
        let Ok(device) = fs::canonicalize(device) else {
            return false;
        };
        if device.starts_with(dir) {
            return true;
        }
        let next = below(&device);
        seen.insert(device) && next.iter().any(|device| search(device, dir, below, seen))
    }
    search(device, dir, below, &mut BTreeSet::new())
}

/// The symbolic links in a directory whose names begin with `prefix`.
fn links_in(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let names = names_in(dir).unwrap_or_default();
    names
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .map(|name| dir.join(name))
        .filter(|path| path.is_symlink())
        .collect()
}

/// The kernel writes white space and backslashes in a path as three octal digits.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[path = "uses_tests.rs"]
mod tests;
