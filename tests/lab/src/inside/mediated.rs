//! mtty, the kernel's sample of a mediated device: a PCI card with two serial ports, each of which leads back to itself.

use super::sysfs;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The card's name.
pub const MTTY: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const CREATE: &str = "/sys/class/mtty/mtty/mdev_supported_types/mtty-2/create";

/// Lets the work have the card.
pub fn with_mtty(work: impl FnOnce() -> Result<()>) -> Result<()> {
    sysfs::write(CREATE, MTTY)?;
    let outcome = work();
    sysfs::write(mtty().join("remove"), "1")?;
    outcome
}

fn mtty() -> PathBuf {
    Path::new("/sys/bus/mdev/devices").join(MTTY)
}

/// The file of its own of a device with this directory.
pub fn own_file(device: &Path) -> Result<PathBuf> {
    let names = fs::read_dir(device.join("vfio-dev")).ok();
    let name = names.and_then(|names| names.flatten().next());
    name.map(|name| Path::new("/dev/vfio/devices").join(name.file_name()))
        .ok_or_else(|| Error::Other(format!("{} has no file of its own", device.display())))
}
