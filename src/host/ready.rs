//! Whether a function of the host can be given to a guest, and if not, why and what to do.
//! `sluice run`, `sluice devices` and `sluice check` all have it from here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use pci::HostBdf;

use super::group::{Reserved, is_vfio};
use super::interrupts::Remapping;
use super::uses::{Openers, Process, Use};
use super::{Group, Host, Member, PciFunction};

/// A function that is ready to be assigned.
#[derive(Clone, Debug)]
pub struct Assignable {
    /// The function.
    pub function: PciFunction,
    /// Its group, all of which is free.
    pub group: Group,
    /// Where sysfs keeps it.
    pub sysfs: PathBuf,
}

/// Why a function cannot be given to a guest. Displayed it is one line with the function,
/// the [reason](Self::reason) and the [remedy](Self::remedy).
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// There is no such function.
    NoSuchDevice(HostBdf),
    /// A bridge.
    IsBridge(Box<PciFunction>),
    /// No IOMMU at all.
    IommuOff(Box<PciFunction>),
    /// The IOMMU is on, but not in front of this function.
    NoGroup(Box<PciFunction>),
    /// The host itself uses it.
    OtherDriver {
        /// The function.
        function: Box<PciFunction>,
        /// Its driver.
        driver: String,
        /// What the host would lose with it.
        uses: Vec<Use>,
        /// Others of its group that the host uses.
        in_the_way: Vec<Member>,
    },
    /// No driver has it.
    NotBound {
        /// The function.
        function: Box<PciFunction>,
        /// Others of its group that the host uses.
        in_the_way: Vec<Member>,
    },
    /// It has the right driver, but others of the group are in use by the host.
    NotViable {
        /// The function.
        function: Box<PciFunction>,
        /// Its group.
        group: u32,
        /// What is in the way.
        in_the_way: Vec<Member>,
    },
    /// The firmware has told the kernel of memory that the group's devices must reach.
    Reserved {
        /// The function.
        function: Box<PciFunction>,
        /// The memory.
        memory: Reserved,
    },
    /// Its interrupts would not be remapped.
    UnsafeInterrupts(Box<PciFunction>),
    /// A guest has it, or another device of its group.
    InUse {
        /// The function.
        function: Box<PciFunction>,
        /// Who has it.
        by: Process,
    },
    /// A device node is not there.
    NoVfio {
        /// The function.
        function: Box<PciFunction>,
        /// The node.
        node: PathBuf,
    },
    /// A device node may not be opened.
    Permission {
        /// The function.
        function: Box<PciFunction>,
        /// The node.
        node: PathBuf,
    },
    /// Sysfs could not be read.
    Sysfs(HostBdf, #[source] io::Error),
}

impl AssignError {
    /// Its name for programs; these do not change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchDevice(_) => "no-such-device",
            Self::IsBridge(_) => "bridge",
            Self::IommuOff(_) => "iommu-off",
            Self::NoGroup(_) => "no-iommu-group",
            Self::OtherDriver { .. } => "other-driver",
            Self::NotBound { .. } => "no-driver",
            Self::NotViable { .. } => "group-in-use",
            Self::Reserved { .. } => "reserved-memory",
            Self::UnsafeInterrupts(_) => "no-interrupt-remapping",
            Self::InUse { .. } => "in-use",
            Self::NoVfio { .. } => "no-vfio",
            Self::Permission { .. } => "no-permission",
            Self::Sysfs(..) => "unreadable",
        }
    }

    /// Why, in a word or two for a column of a table.
    pub fn in_short(&self) -> &'static str {
        match self {
            Self::NoSuchDevice(_) => "absent",
            Self::IsBridge(_) => "bridge",
            Self::IommuOff(_) => "IOMMU off",
            Self::NoGroup(_) => "no IOMMU",
            Self::InUse { .. } => "in use",
            Self::OtherDriver { uses, .. } if !uses.is_empty() => "host needs it",
            Self::OtherDriver { in_the_way, .. } | Self::NotBound { in_the_way, .. }
                if in_the_way.is_empty() =>
            {
                "bind first"
            }
            Self::OtherDriver { .. } | Self::NotBound { .. } | Self::NotViable { .. } => {
                "group in use"
            }
            Self::Reserved { .. } => "reserved",
            Self::UnsafeInterrupts(_) => "interrupts",
            Self::NoVfio { .. } => "no VFIO",
            Self::Permission { .. } => "permission",
            Self::Sysfs(..) => "unreadable",
        }
    }

    /// Why, in a clause about "it", the function.
    pub fn reason(&self) -> String {
        match self {
            Self::NoSuchDevice(_) => "there is no such device on this host".to_owned(),
            Self::IsBridge(_) => "it is a PCI bridge".to_owned(),
            Self::IommuOff(_) => {
                "it has no IOMMU group because this host's IOMMU is off".to_owned()
            }
            Self::NoGroup(_) => {
                "it has no IOMMU group: no IOMMU of this host is in front of it".to_owned()
            }
            Self::OtherDriver {
                driver,
                uses,
                in_the_way,
                ..
            } => {
                let uses: String = uses.iter().map(|used| format!(", {used}")).collect();
                let others = also_in_use(in_the_way);
                format!("it is bound to the driver {driver}{uses}{others}")
            }
            Self::NotBound { in_the_way, .. } => {
                format!("it is not bound to vfio-pci{}", also_in_use(in_the_way))
            }
            Self::NotViable {
                group, in_the_way, ..
            } => format!(
                "IOMMU group {group} is not viable, as the host uses {} of the same group",
                list(in_the_way)
            ),
            Self::Reserved { memory, .. } => format!(
                "the firmware keeps memory at {memory} for its group, where the kernel lets no \
                 guest's memory be"
            ),
            Self::UnsafeInterrupts(_) => {
                "this host does not remap interrupts, and without that a guest could raise any \
                 of the host's"
                    .to_owned()
            }
            Self::InUse { by, .. } => format!("{by} has it, or another of its IOMMU group"),
            Self::NoVfio { node, .. } => format!("{} does not exist", node.display()),
            Self::Permission { node, .. } => {
                format!("this user may not open {}", node.display())
            }
            Self::Sysfs(..) => "what sysfs says about it cannot be read".to_owned(),
        }
    }

    /// What to do about it, as a request.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoSuchDevice(_) => "`sluice devices` lists what there is".to_owned(),
            Self::IsBridge(_) => "assign the devices behind it instead".to_owned(),
            Self::IommuOff(_) => "enable VT-d (or AMD-Vi) in the firmware and boot the host with \
                 intel_iommu=on; `sluice check` says more"
                .to_owned(),
            Self::NoGroup(_) => "use a slot behind another root port, and look for a firmware \
                 setting or update that puts the IOMMU in front of all of them"
                .to_owned(),
            Self::OtherDriver {
                function,
                uses,
                in_the_way,
                ..
            } => {
                let bind = bind(function, in_the_way);
                let vfs = function.sriov.as_ref().is_some_and(|s| !s.made.is_empty());
                match (uses.is_empty(), vfs) {
                    (true, false) => bind,
                    (true, true) => format!(
                        "assign its virtual functions; or remove them with `sluice sriov {} \
                         --vfs 0`, and {bind}",
                        function.address
                    ),
                    (false, _) => format!("see that the host does without it, then {bind}"),
                }
            }
            Self::NotBound {
                function,
                in_the_way,
            }
            | Self::NotViable {
                function,
                in_the_way,
                ..
            } => bind(function, in_the_way),
            Self::InUse { .. } => "end that first".to_owned(),
            Self::Reserved { .. } => "turn off in the firmware what wants that memory (often \
                 the remote management), or ask the machine's vendor"
                .to_owned(),
            Self::UnsafeInterrupts(_) => "turn on interrupt remapping (or x2APIC) in the firmware \
                 and boot the host without intremap=off; for a guest that you trust as the host, \
                 `echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`"
                .to_owned(),
            Self::NoVfio { .. } => "load VFIO with `modprobe vfio-pci`".to_owned(),
            Self::Permission { node, .. } => format!(
                "run as root, or give this user the file with `chown USER {}`",
                node.display()
            ),
            Self::Sysfs(..) => "look into the host's kernel log".to_owned(),
        }
    }

    fn function(&self) -> Option<&PciFunction> {
        match self {
            Self::NoSuchDevice(_) | Self::Sysfs(..) => None,
            Self::IsBridge(function)
            | Self::IommuOff(function)
            | Self::NoGroup(function)
            | Self::UnsafeInterrupts(function)
            | Self::OtherDriver { function, .. }
            | Self::NotBound { function, .. }
            | Self::NotViable { function, .. }
            | Self::InUse { function, .. }
            | Self::Reserved { function, .. }
            | Self::NoVfio { function, .. }
            | Self::Permission { function, .. } => Some(function),
        }
    }
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.function()) {
            (Self::NoSuchDevice(address), _) => {
                let remedy = self.remedy();
                return write!(f, "there is no PCI device {address} on this host; {remedy}");
            }
            (Self::Sysfs(address, _), _) => return write!(f, "cannot read about {address}"),
            (_, Some(function)) => write!(f, "{function}")?,
            (_, None) => write!(f, "the device")?,
        }
        let (reason, remedy) = (self.reason(), self.remedy());
        write!(f, " cannot be assigned: {reason}; {remedy}")
    }
}

impl Host {
    /// Finds out whether the function at `address` can be assigned, by whichever of VFIO's
    /// interfaces. What only opening it can tell is told when it is opened.
    pub fn check_assignable(&self, address: HostBdf) -> Result<Assignable, AssignError> {
        self.assess(address, &self.openers())
    }

    /// As [`Self::check_assignable`], where who has what open is known already.
    pub(super) fn assess(
        &self,
        address: HostBdf,
        openers: &Openers,
    ) -> Result<Assignable, AssignError> {
        let assignable = self.free(address, openers)?;
        if !self.has_own_node(&assignable.function) {
            self.check_group_nodes(&assignable)?;
        }
        Ok(assignable)
    }

    /// As [`Self::check_assignable`], without a look at device nodes: for a caller that has
    /// not chosen one of VFIO's interfaces yet.
    pub fn check_free(&self, address: HostBdf) -> Result<Assignable, AssignError> {
        self.free(address, &self.openers())
    }

    fn free(&self, address: HostBdf, openers: &Openers) -> Result<Assignable, AssignError> {
        let (function, number) = self.grouped(address)?;
        let group = self.group(number);
        let group = group.map_err(|e| AssignError::Sysfs(address, e))?;
        let function = self.check_group(function, &group)?;
        if self.interrupt_remapping() == Remapping::Off {
            return Err(AssignError::UnsafeInterrupts(function));
        }
        if let Some(by) = openers.of(self, &function) {
            return Err(AssignError::InUse { function, by });
        }
        Ok(Assignable {
            sysfs: self.sysfs_path(address),
            function: *function,
            group,
        })
    }

    /// This user may have the function by itself, through iommufd.
    fn has_own_node(&self, function: &PciFunction) -> bool {
        let nodes = self.character_devices(function.address);
        let nodes: Vec<_> = nodes.iter().map(|node| self.root.join(node)).collect();
        may_open(&self.root.join("dev/iommu")) && nodes.iter().any(|node| may_open(node))
    }

    /// This user may have the function's group, through type1.
    pub fn check_group_nodes(&self, assignable: &Assignable) -> Result<(), AssignError> {
        for name in ["vfio", &assignable.group.number.to_string()] {
            let function = Box::new(assignable.function.clone());
            let (file, node) = (self.vfio(name), Path::new("/dev/vfio").join(name));
            if !file.exists() {
                return Err(AssignError::NoVfio { function, node });
            }
            if !may_open(&file) {
                return Err(AssignError::Permission { function, node });
            }
        }
        Ok(())
    }

    /// The function at `address` and its IOMMU group, if it is of the kind that can be
    /// assigned at all.
    pub(super) fn grouped(&self, address: HostBdf) -> Result<(Box<PciFunction>, u32), AssignError> {
        let function = self.function(address);
        let function = function.map_err(|e| AssignError::Sysfs(address, e))?;
        let function = Box::new(function.ok_or(AssignError::NoSuchDevice(address))?);
        if function.is_bridge() {
            return Err(AssignError::IsBridge(function));
        }
        match function.group {
            Some(group) => Ok((function, group)),
            None if self.has_iommu() => Err(AssignError::NoGroup(function)),
            None => Err(AssignError::IommuOff(function)),
        }
    }

    /// The function and its companions have drivers that let go of them, and the kernel has
    /// no plans of its own for the group.
    fn check_group(
        &self,
        function: Box<PciFunction>,
        group: &Group,
    ) -> Result<Box<PciFunction>, AssignError> {
        let others = group.others(function.address);
        let in_the_way: Vec<_> = others.filter(|m| m.is_in_the_way()).cloned().collect();
        if let Some(memory) = self.reserved(group.number).into_iter().next() {
            return Err(AssignError::Reserved { function, memory });
        }
        match function.driver.clone() {
            None => Err(AssignError::NotBound {
                function,
                in_the_way,
            }),
            Some(driver) if !is_vfio(&driver) => Err(AssignError::OtherDriver {
                uses: self.uses(&function).unwrap_or_default(),
                function,
                driver,
                in_the_way,
            }),
            Some(_) if !in_the_way.is_empty() => Err(AssignError::NotViable {
                function,
                group: group.number,
                in_the_way,
            }),
            Some(_) => Ok(function),
        }
    }
}

/// How to hand a function to VFIO with those of its group that are in the way.
fn bind(function: &PciFunction, in_the_way: &[Member]) -> String {
    let mut command = format!("bind it with `sluice bind {}", function.address);
    let mut others = Vec::new();
    for member in in_the_way {
        match member {
            Member::Pci(other) => command += &format!(" {}", other.address),
            Member::Other { name, .. } => others.push(name.as_str()),
        }
    }
    match &others[..] {
        [] => command + "`",
        others => format!(
            "unbind {} from its driver, then {command}`",
            others.join(" and ")
        ),
    }
}

fn may_open(node: &Path) -> bool {
    access(node, AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
}

fn also_in_use(others: &[Member]) -> String {
    match others {
        [] => String::new(),
        others => format!(", and the host uses {} of the same group", list(others)),
    }
}

fn list(members: &[Member]) -> String {
    let names: Vec<_> = members.iter().map(ToString::to_string).collect();
    names.join(" and ")
}
