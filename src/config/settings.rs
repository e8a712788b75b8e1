//! All settings of one source, before they are checked together.

use std::path::PathBuf;

use super::{
    AssignSpec, Cdrom, ControlSpec, Disk, Given, IommuSpec, MemorySpec, NetSpec, Serial, VfSpec,
};

/// Settings as they were given, on the command line or in a file.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // the names are the flags'
pub struct Settings {
    pub kernel: Option<Given<PathBuf>>,
    pub initrd: Option<Given<PathBuf>>,
    pub cmdline: Option<Given<String>>,
    pub cpus: Option<Given<u32>>,
    pub memory: Option<Given<MemorySpec>>,
    pub disk: Vec<Given<Disk>>,
    pub cdrom: Vec<Given<Cdrom>>,
    pub net: Vec<Given<NetSpec>>,
    pub assign: Vec<Given<AssignSpec>>,
    pub vf: Vec<Given<VfSpec>>,
    pub iommu: Option<Given<IommuSpec>>,
    pub serial: Option<Given<Serial>>,
    pub control: Option<Given<ControlSpec>>,
    pub no_reboot: Option<Given<bool>>,
}

impl Settings {
    /// These settings laid over `below`: what is given here wins. A repeatable one
    /// (`--disk` and the like) replaces the whole list below it.
    pub fn over(self, below: Self) -> Self {
        fn list<T>(above: Vec<T>, below: Vec<T>) -> Vec<T> {
            if above.is_empty() { below } else { above }
        }
        Self {
            kernel: self.kernel.or(below.kernel),
            initrd: self.initrd.or(below.initrd),
            cmdline: self.cmdline.or(below.cmdline),
            cpus: self.cpus.or(below.cpus),
            memory: self.memory.or(below.memory),
            disk: list(self.disk, below.disk),
            cdrom: list(self.cdrom, below.cdrom),
            net: list(self.net, below.net),
            assign: list(self.assign, below.assign),
            vf: list(self.vf, below.vf),
            iommu: self.iommu.or(below.iommu),
            serial: self.serial.or(below.serial),
            control: self.control.or(below.control),
            no_reboot: self.no_reboot.or(below.no_reboot),
        }
    }
}
