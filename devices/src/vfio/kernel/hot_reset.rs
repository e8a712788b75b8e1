//! Resetting a whole bus: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO and VFIO_DEVICE_PCI_HOT_RESET
//! (linux/vfio.h), and what sysfs says of a function's own reset.
//!
//! Who may reset a bus shows that it owns all that is on it. Of devices opened through groups
//! that is every group's file; a device opened by its own file shows nothing, as the kernel
//! knows from its iommufd what is owned, and says so in the flags of the answer.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pci::{Bdf, HostBdf};
use vfio_bindings::bindings::vfio::{VFIO_BASE, VFIO_TYPE};

use crate::vfio::backend::{Affected, ResetMethod};

nix::ioctl_readwrite_bad!(
    vfio_device_get_pci_hot_reset_info,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 12),
    u32
);
nix::ioctl_write_ptr_bad!(
    vfio_device_pci_hot_reset,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 13),
    u32
);

/// Words of `struct vfio_pci_hot_reset_info`: argsz, flags, count.
const HEADER: usize = 3;
/// Words of `struct vfio_pci_dependent_device`: a number, then segment, bus and devfn.
const ENTRY: usize = 2;
/// A bus has no more functions.
const MOST: usize = 256;

/// VFIO_PCI_HOT_RESET_FLAG_DEV_ID: the numbers are an iommufd's, not groups'.
const BY_DEVICE: u32 = 1 << 0;
/// VFIO_PCI_DEVID_NOT_OWNED.
const NOT_OWNED: u32 = u32::MAX;

/// What the kernel says a reset of the bus reaches.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    by_device: bool,
    /// With a group's number, or whatever stands for the device in its iommufd.
    functions: Vec<(u32, HostBdf)>,
}

impl Answer {
    fn ask(device: RawFd) -> io::Result<Self> {
        let mut words = vec![0; HEADER];
        // A function may come between being told how many there are and asking again.
        for _ in 0..8 {
            let size = size_of_val(&words[..]) as u32;
            words.iter_mut().take(1).for_each(|argsz| *argsz = size);
            // SAFETY: the descriptor is a VFIO device's; `words` is at least as long as the
            // ioctl's header and says how long it is, and the kernel writes no more.
            match unsafe { vfio_device_get_pci_hot_reset_info(device, words.as_mut_ptr()) } {
                Ok(_) => return Ok(Self::parse(&words)),
                Err(nix::errno::Errno::ENOSPC) => {
                    let count = (word(&words, 2) as usize).min(MOST);
                    words = vec![0; HEADER + ENTRY * count];
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn parse(words: &[u32]) -> Self {
        let count = word(words, 2) as usize;
        let entries = words.get(HEADER..).unwrap_or_default().chunks_exact(ENTRY);
        let functions = entries.take(count).map(|entry| {
            let place = word(entry, 1);
            let devfn = (place >> 24) as u8;
            let address = HostBdf {
                segment: place as u16,
                bdf: Bdf::new((place >> 16) as u8, devfn >> 3, devfn),
            };
            (word(entry, 0), address)
        });
        Self {
            by_device: word(words, 1) & BY_DEVICE != 0,
            functions: functions.collect(),
        }
    }

    fn groups(&self) -> BTreeSet<u32> {
        self.functions.iter().map(|(group, _)| *group).collect()
    }
}

fn word(words: &[u32], index: usize) -> u32 {
    words.get(index).copied().unwrap_or(0)
}

/// What a reset of the device's bus reaches, and whose it is.
pub(super) fn affected(device: RawFd) -> io::Result<Vec<Affected>> {
    let answer = Answer::ask(device)?;
    let is_ours = |number: u32| match answer.by_device {
        true => number != NOT_OWNED,
        false => group_file(number).is_ok(),
    };
    let affected = answer.functions.iter().map(|&(number, address)| {
        let ours = is_ours(number);
        let driver = if ours { None } else { driver(address) };
        Affected {
            address,
            ours,
            driver,
        }
    });
    Ok(affected.collect())
}

/// Resets the device's bus.
pub(super) fn reset(device: RawFd) -> io::Result<()> {
    let answer = Answer::ask(device)?;
    let groups: Vec<File> = if answer.by_device {
        Vec::new()
    } else {
        let groups = answer.groups().into_iter();
        groups.map(group_file).collect::<io::Result<_>>()?
    };
    // struct vfio_pci_hot_reset: argsz, flags, count, and the groups' files.
    let size = (3 + groups.len()) * size_of::<u32>();
    let mut request = vec![size as u32, 0, groups.len() as u32];
    request.extend(groups.iter().map(|file| file.as_raw_fd() as u32));
    // SAFETY: `request` is laid out as `struct vfio_pci_hot_reset` with as many descriptors,
    // all open, as its count says; the kernel only reads it.
    unsafe { vfio_device_pci_hot_reset(device, request.as_ptr()) }?;
    Ok(())
}

/// The file of an IOMMU group that this process holds. A group's file can be opened once, and
/// is kept by whoever opened the group's devices; it is found by what it is.
fn group_file(group: u32) -> io::Result<File> {
    match fs::metadata(format!("/dev/vfio/{group}"))?.rdev() {
        0 => Err(io::ErrorKind::NotFound.into()),
        wanted => open_file(wanted),
    }
}

/// A device file that this process has open, by its device number.
fn open_file(wanted: u64) -> io::Result<File> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // A descriptor may be closed between the listing and the look at it.
        if fs::metadata(&path).is_ok_and(|found| found.rdev() == wanted)
            && let Ok(file) = duplicate(&path, wanted)
        {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Another descriptor for what `path`, an entry of `/proc/self/fd`, is.
fn duplicate(path: &Path, wanted: u64) -> io::Result<File> {
    let number = path
        .file_name()
        .and_then(|name| name.to_str()?.parse().ok());
    let number: RawFd = number.ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the borrow lives for this statement, in which it is duplicated: of a descriptor
    // that was closed meanwhile that fails, and what it may have become is looked at below.
    let file = File::from(unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?);
    if file.metadata()?.rdev() == wanted {
        Ok(file)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn attribute(address: HostBdf, name: &str) -> PathBuf {
    ["/sys/bus/pci/devices", &address.to_string(), name]
        .iter()
        .collect()
}

fn driver(address: HostBdf) -> Option<String> {
    let link = fs::read_link(attribute(address, "driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// How the kernel would reset the function alone: the first way that sysfs lists.
pub(super) fn method(address: HostBdf) -> Option<ResetMethod> {
    let text = fs::read_to_string(attribute(address, "reset_method")).ok()?;
    parse_method(text.split_whitespace().next()?)
}

fn parse_method(word: &str) -> Option<ResetMethod> {
    match word {
        "device_specific" => Some(ResetMethod::DeviceSpecific),
        "acpi" => Some(ResetMethod::Acpi),
        "flr" => Some(ResetMethod::Flr),
        "af_flr" => Some(ResetMethod::AfFlr),
        "pm" => Some(ResetMethod::Pm),
        "bus" => Some(ResetMethod::Bus),
        "cxl_bus" => Some(ResetMethod::CxlBus),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_functions_with_their_groups() {
        let words = [36, 0, 2, 16, 0x0006_0000, 17, 0x0106_0001, 0, 0];
        let answer = Answer::parse(&words);
        let address = |text: &str| text.parse::<HostBdf>().unwrap();
        assert_eq!(
            answer.functions,
            [(16, address("0000:06:00.0")), (17, address("0001:06:00.1"))]
        );
        assert!(!answer.by_device);
        assert_eq!(answer.groups(), BTreeSet::from([16, 17]));
        assert!(Answer::parse(&[20, 3, 1, NOT_OWNED, 0]).by_device);
    }

    #[test]
    fn a_group_is_found_among_the_files_that_are_open() {
        // Stands for a group: what matters is its device number.
        let null = File::open("/dev/null").unwrap();
        let wanted = null.metadata().unwrap().rdev();
        assert!(open_file(wanted).is_ok());
        assert!(open_file(u64::MAX).is_err());
        assert!(group_file(u32::MAX).is_err());
    }

    #[test]
    fn knows_the_kernels_words() {
        assert_eq!(parse_method("flr"), Some(ResetMethod::Flr));
        assert_eq!(parse_method("something_new"), None);
    }

    #[test]
    fn what_is_no_device_fails_and_does_not_panic() {
        let null = File::open("/dev/null").unwrap();
        assert!(affected(null.as_raw_fd()).is_err());
        assert!(reset(null.as_raw_fd()).is_err());
    }

    proptest! {
        #[test]
        fn whatever_the_answer_it_is_read_to_its_end(words in prop::collection::vec(any::<u32>(), 0..32)) {
            let answer = Answer::parse(&words);
            prop_assert!(answer.functions.len() <= words.len());
        }
    }
}
