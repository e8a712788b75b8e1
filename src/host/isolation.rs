//! Whether a port keeps what is behind it apart, by Access Control Services (PCIe 6.0
//! §7.7.11): without them a port may lead a request of one device to another, past the
//! IOMMU, and the kernel puts all that is behind it into one group with it
//! (`pci_device_group` in drivers/iommu/iommu.c).
//!
//! Some chipsets isolate without ACS in ways that the kernel knows by their IDs; it does not
//! put their ports into groups with others, so nobody asks about them here.

use bitflags::bitflags;
use pci::HostBdf;

use super::{Group, Host};

bitflags! {
    /// ACS Capability (offset 4) and ACS Control (offset 6), as far as groups depend on it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Services: u16 {
        const SOURCE_VALIDATION = 1 << 0;
        const REQUEST_REDIRECT = 1 << 2;
        const COMPLETION_REDIRECT = 1 << 3;
        const UPSTREAM_FORWARDING = 1 << 4;
    }
}

/// How a bridge keeps apart what is behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    /// By ACS, or because it has nothing to do for it.
    Isolates,
    /// It has no ACS.
    NoAcs,
    /// It has ACS that is turned off, in part at least.
    AcsOff,
    /// It leads to a conventional PCI bus, on which requests carry no source.
    Conventional,
    /// This user may not read its config space beyond the header.
    Unknown,
}

impl Host {
    /// How the bridge at `address` keeps apart what is behind it.
    pub fn isolation(&self, address: HostBdf) -> Isolation {
        let config = std::fs::read(self.sysfs_path(address).join("config"));
        config.map_or(Isolation::Unknown, |bytes| ConfigSpace(&bytes).isolation())
    }

    /// Why functions share `group`: its bridges that do not isolate, as far as is known.
    /// None if they are functions of one device.
    pub fn gaps(&self, group: &Group) -> Vec<(HostBdf, Isolation)> {
        let bridges = group
            .bridges()
            .map(|b| (b.address, self.isolation(b.address)));
        bridges
            .filter(|(_, how)| *how != Isolation::Isolates)
            .collect()
    }
}

/// What sysfs gives of a function's config space: all, or to an ordinary user the header.
struct ConfigSpace<'a>(&'a [u8]);

impl ConfigSpace<'_> {
    const HEADER: usize = 0x40;
    const EXTENDED: usize = 0x100;

    fn isolation(&self) -> Isolation {
        const EXPRESS: u8 = 0x10;
        if self.0.len() <= Self::HEADER {
            return Isolation::Unknown;
        }
        // Device/Port Type, bits 7:4 of PCI Express Capabilities (§7.5.3.2).
        let port = self
            .capability(EXPRESS)
            .map(|at| self.u16(at + 2) >> 4 & 0xf);
        match port {
            // Root port, downstream port of a switch.
            Some(4 | 6) => self.services(),
            // The upstream port of a switch forwards nothing between devices.
            Some(5) => Isolation::Isolates,
            _ => Isolation::Conventional,
        }
    }

    fn services(&self) -> Isolation {
        const ACS: u16 = 0x000d;
        let Some(at) = self.extended_capability(ACS) else {
            return Isolation::NoAcs;
        };
        let has = Services::from_bits_truncate(self.u16(at + 4));
        let on = Services::from_bits_truncate(self.u16(at + 6));
        // What a port has not, it does not need.
        if on.contains(has) {
            Isolation::Isolates
        } else {
            Isolation::AcsOff
        }
    }

    fn capability(&self, id: u8) -> Option<usize> {
        const STATUS: usize = 0x06;
        const HAS_LIST: u16 = 1 << 4;
        const POINTER: usize = 0x34;
        if self.u16(STATUS) & HAS_LIST == 0 {
            return None;
        }
        let next = |at: usize| usize::from(self.u16(at) & 0xfc);
        let list = std::iter::successors(Some(next(POINTER)), |at| Some(next(at + 1)));
        // No list is longer: a broken one may bite its tail.
        list.take_while(|at| *at >= Self::HEADER)
            .take(48)
            .find(|at| self.u16(*at) as u8 == id)
    }

    fn extended_capability(&self, id: u16) -> Option<usize> {
        let next = |at: usize| usize::from(self.u16(at + 2) >> 4 & 0xffc);
        let list = std::iter::successors(Some(Self::EXTENDED), |at| Some(next(*at)));
        list.take_while(|at| *at >= Self::EXTENDED)
            .take(960)
            .find(|at| self.u16(*at) == id)
    }

    /// A word; zero beyond the end.
    fn u16(&self, at: usize) -> u16 {
        let byte = |at: usize| self.0.get(at).copied().unwrap_or(0);
        u16::from_le_bytes([byte(at), byte(at + 1)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake_tree::port;
    use proptest::prelude::*;

    fn isolation(config: &[u8]) -> Isolation {
        ConfigSpace(config).isolation()
    }

    #[test]
    fn a_port_isolates_if_all_services_that_it_has_are_on() {
        assert_eq!(isolation(&port(4, Some((0x5f, 0x1d)))), Isolation::Isolates);
        assert_eq!(isolation(&port(6, Some((0x5f, 0x1d)))), Isolation::Isolates);
        assert_eq!(isolation(&port(4, Some((0x05, 0x05)))), Isolation::Isolates);
        assert_eq!(isolation(&port(4, Some((0x5f, 0x19)))), Isolation::AcsOff);
        assert_eq!(isolation(&port(4, None)), Isolation::NoAcs);
        assert_eq!(isolation(&port(5, None)), Isolation::Isolates);
    }

    #[test]
    fn a_bridge_to_conventional_pci_never_isolates() {
        assert_eq!(isolation(&port(7, None)), Isolation::Conventional);
        let mut plain = vec![0; 256];
        assert_eq!(isolation(&plain), Isolation::Conventional);
        plain.truncate(64);
        assert_eq!(isolation(&plain), Isolation::Unknown, "not for this user");
    }

    proptest! {
        #[test]
        fn no_config_space_is_too_bent(config in proptest::collection::vec(any::<u8>(), 0..4096)) {
            isolation(&config);
        }
    }
}
