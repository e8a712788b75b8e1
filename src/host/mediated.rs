//! Mediated devices: what a driver of the host offers of its hardware, or makes up, as a PCI
//! device of its own (Documentation/driver-api/vfio-mediated-device.rst). They have a UUID in
//! the place of an address.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Host, link_name};

/// A mediated device's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Uuid(u128);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let mut rest = digits.as_str();
        for (index, len) in GROUPS.into_iter().enumerate() {
            let (group, after) = rest.split_at(len);
            let dash = if index == 0 { "" } else { "-" };
            write!(f, "{dash}{group}")?;
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Digits between the dashes.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// Text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a UUID; write it as in 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")]
pub struct ParseUuidError(String);

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, ParseUuidError> {
        let no = || ParseUuidError(text.to_owned());
        let groups: Vec<_> = text.split('-').collect();
        let lengths: Vec<_> = groups.iter().map(|group| group.len()).collect();
        let hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if lengths != GROUPS || !groups.iter().all(hex) {
            return Err(no());
        }
        let digits = groups.concat();
        u128::from_str_radix(&digits, 16)
            .map(Self)
            .map_err(|_| no())
    }
}

/// Why a mediated device cannot be given to a guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediatedError {
    /// There is none of this name.
    #[error(
        "there is no mediated device {0} on this host; make it by writing the UUID to `create` \
         of a type under /sys/class/mdev_bus/*/mdev_supported_types"
    )]
    NoSuchDevice(Uuid),
    /// No driver has it, or not one of VFIO's.
    #[error(
        "mdev {0} cannot be assigned: it is in no IOMMU group, so no driver offers it to VFIO; \
         bind it to the driver that made its type"
    )]
    NoDriver(Uuid),
}

impl Host {
    /// Where sysfs keeps a mediated device that can be assigned.
    pub fn mediated(&self, uuid: Uuid) -> Result<PathBuf, MediatedError> {
        let sysfs = self
            .root
            .join("sys/bus/mdev/devices")
            .join(uuid.to_string());
        if !sysfs.exists() {
            return Err(MediatedError::NoSuchDevice(uuid));
        }
        // Without a group there is a file of its own, where the kernel has no groups.
        if link_name(&sysfs.join("iommu_group")).is_none() && !sysfs.join("vfio-dev").exists() {
            return Err(MediatedError::NoDriver(uuid));
        }
        Ok(sysfs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake_tree::FakeTree;
    use proptest::prelude::*;

    const TEXT: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    #[test]
    fn a_uuid_is_read_and_written() {
        let uuid: Uuid = TEXT.parse().unwrap();
        assert_eq!(uuid.to_string(), TEXT);
        assert_eq!(TEXT.to_uppercase().parse(), Ok(uuid));
        for text in [
            "",
            "83b8f4f2",
            "0000:02:10.0",
            &TEXT[1..],
            &format!("{TEXT}0"),
        ] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
        // What Rust reads as a number, but a UUID does not have.
        assert!(
            "+3b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
                .parse::<Uuid>()
                .is_err()
        );
    }

    #[test]
    fn a_device_is_found_by_its_name() {
        let tree = FakeTree::new();
        let uuid: Uuid = TEXT.parse().unwrap();
        let found = |tree: &FakeTree| tree.host().mediated(uuid);
        assert_eq!(found(&tree), Err(MediatedError::NoSuchDevice(uuid)));
        let at = format!("sys/bus/mdev/devices/{TEXT}");
        tree.write(format!("{at}/uevent"), "");
        assert_eq!(found(&tree), Err(MediatedError::NoDriver(uuid)));
        tree.link(format!("{at}/iommu_group"), "sys/kernel/iommu_groups/40");
        assert_eq!(found(&tree), Ok(tree.path(&at)));
    }

    proptest! {
        #[test]
        fn any_uuid_survives(number in any::<u128>()) {
            let uuid = Uuid(number);
            prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f+é-]{0,40}") {
            let _ = text.parse::<Uuid>();
        }
    }
}
