//! Which capabilities of a device its guest has, and why: a line for each that PCI Code and
//! ID Assignment 1.15 (§2, §3) defines. What it does not define is hidden: nobody knows what
//! it would promise.

use super::patch::{self, Patch, Source};

/// What becomes of a capability.
#[derive(Clone, Copy)]
pub(super) enum Treatment {
    /// A model of ours takes its place.
    Modelled,
    /// Registers of the device, as this table says; with an empty one it is hidden.
    Registers(fn(&Source<'_>) -> Vec<Patch>),
    /// The guest does not see it, for this reason.
    Hidden(&'static str),
}

/// The rule for a capability ID.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub id: u16,
    /// What `hide=` calls it.
    pub name: &'static str,
    pub treatment: Treatment,
}

const fn modelled(id: u16, name: &'static str) -> Rule {
    Rule {
        id,
        name,
        treatment: Treatment::Modelled,
    }
}

const fn registers(id: u16, name: &'static str, table: fn(&Source<'_>) -> Vec<Patch>) -> Rule {
    Rule {
        id,
        name,
        treatment: Treatment::Registers(table),
    }
}

const fn hidden(id: u16, name: &'static str, why: &'static str) -> Rule {
    Rule {
        id,
        name,
        treatment: Treatment::Hidden(why),
    }
}

const NO_EXPRESS: &str = "of a bus that is not PCI Express";
const BRIDGES: &str = "of bridges and ports";
const ROOT_COMPLEX: &str = "of the host's root complex";
const LINK: &str = "the link is the host's";
const NO_IOMMU: &str = "translation is the host's IOMMU's, which the guest cannot program";
const VIRTUAL: &str = "the virtual functions would be the host's";
const NO_PORT_SUPPORT: &str = "the guest's root port does not have it";
const POWER: &str = "power is the host's to budget";

/// Capabilities of the first 256 bytes.
pub(super) const STANDARD: &[Rule] = &[
    modelled(0x01, "pm"),
    hidden(0x02, "agp", NO_EXPRESS),
    registers(0x03, "vpd", patch::vpd),
    hidden(0x04, "slot-id", BRIDGES),
    modelled(0x05, "msi"),
    hidden(0x06, "hot-swap", NO_EXPRESS),
    hidden(0x07, "pci-x", NO_EXPRESS),
    hidden(0x08, "hypertransport", NO_EXPRESS),
    registers(0x09, "vendor", patch::vendor),
    hidden(0x0a, "debug-port", "VFIO does not let it be read"),
    hidden(0x0b, "compact-pci", NO_EXPRESS),
    hidden(0x0c, "hot-plug", BRIDGES),
    hidden(0x0d, "ssvid", BRIDGES),
    hidden(0x0e, "agp-8x", NO_EXPRESS),
    hidden(0x0f, "secure-device", "it measures the host's platform"),
    registers(0x10, "pcie", patch::express),
    modelled(0x11, "msix"),
    registers(0x12, "sata", patch::sata),
    registers(0x13, "af", patch::advanced_features),
    hidden(
        0x14,
        "ea",
        "its addresses are the host's and cannot be moved",
    ),
    hidden(0x15, "fpb", BRIDGES),
];

/// Capabilities from 100h on.
pub(super) const EXTENDED: &[Rule] = &[
    registers(0x01, "aer", patch::error_reporting),
    hidden(0x02, "vc", NO_PORT_SUPPORT),
    registers(0x03, "dsn", patch::serial_number),
    hidden(0x04, "power-budgeting", POWER),
    hidden(0x05, "rc-link", ROOT_COMPLEX),
    hidden(0x06, "rc-internal-link", ROOT_COMPLEX),
    hidden(0x07, "rc-event-collector", ROOT_COMPLEX),
    hidden(0x08, "mfvc", NO_PORT_SUPPORT),
    hidden(0x09, "vc", NO_PORT_SUPPORT),
    hidden(0x0a, "rcrb", ROOT_COMPLEX),
    registers(0x0b, "vendor", patch::extended_vendor),
    hidden(0x0c, "config-access", ROOT_COMPLEX),
    registers(0x0d, "acs", patch::access_control),
    hidden(
        0x0e,
        "ari",
        "the next function is the host's, not the guest's",
    ),
    registers(0x0f, "ats", patch::translation_services),
    hidden(0x10, "sriov", VIRTUAL),
    hidden(0x11, "mriov", VIRTUAL),
    hidden(0x12, "multicast", "the host's switches route it"),
    hidden(0x13, "pri", NO_IOMMU),
    hidden(0x14, "amd", "undefined"),
    modelled(0x15, "resizable-bar"),
    hidden(0x16, "dpa", POWER),
    hidden(0x17, "tph", "its tags name processors of the host"),
    hidden(0x18, "ltr", NO_PORT_SUPPORT),
    hidden(0x19, "secondary-pcie", LINK),
    hidden(0x1a, "pmux", LINK),
    hidden(0x1b, "pasid", NO_IOMMU),
    hidden(0x1c, "lnr", NO_PORT_SUPPORT),
    hidden(0x1d, "dpc", BRIDGES),
    hidden(0x1e, "l1ss", LINK),
    hidden(0x1f, "ptm", NO_PORT_SUPPORT),
    hidden(0x20, "m-pcie", LINK),
    hidden(0x21, "frs", BRIDGES),
    registers(0x22, "rtr", patch::readiness),
    registers(0x23, "dvsec", patch::designated_vendor),
    hidden(0x24, "vf-resizable-bar", VIRTUAL),
    hidden(0x25, "data-link", LINK),
    hidden(0x26, "physical-16gt", LINK),
    hidden(0x27, "lane-margining", LINK),
    hidden(0x28, "hierarchy-id", ROOT_COMPLEX),
    hidden(0x29, "npem", "the enclosure's lights are the host's"),
    hidden(0x2a, "physical-32gt", LINK),
    hidden(0x2b, "alternate-protocol", LINK),
    hidden(0x2c, "sfi", BRIDGES),
    hidden(0x2d, "shadow-functions", VIRTUAL),
    hidden(0x2e, "doe", "it speaks for the host's link and enclosure"),
    hidden(0x2f, "device-3", NO_PORT_SUPPORT),
    hidden(0x30, "ide", LINK),
    hidden(0x31, "physical-64gt", LINK),
    hidden(0x32, "flit-logging", LINK),
    hidden(0x33, "flit-performance", LINK),
    hidden(0x34, "flit-error-injection", LINK),
];

/// The rule for a capability in one of the two tables.
pub(super) fn rule(table: &'static [Rule], id: u16) -> Rule {
    let known = table.iter().find(|rule| rule.id == id).copied();
    known.unwrap_or_else(|| hidden(id, "unknown", "no specification known here defines it"))
}

/// A kind of capability by name, to be hidden from the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
pub struct CapabilityName(&'static str);

/// There is no such capability.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no capability that could be hidden; a guest may have {list}", list = visible())]
pub struct UnknownCapability(String);

/// The names of all that a guest may see.
fn visible() -> String {
    let mut names: Vec<_> = STANDARD
        .iter()
        .chain(EXTENDED)
        .filter(|rule| !matches!(rule.treatment, Treatment::Hidden(_)))
        .map(|rule| rule.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

impl CapabilityName {
    pub(super) fn names(self, rule: &Rule) -> bool {
        self.0 == rule.name
    }
}

impl std::str::FromStr for CapabilityName {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        let mut rules = STANDARD.iter().chain(EXTENDED);
        rules
            .find(|rule| rule.name.eq_ignore_ascii_case(text))
            .map(|rule| Self(rule.name))
            .ok_or_else(|| UnknownCapability(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_one_rule_in_order() {
        for (table, first, last) in [(STANDARD, 0x01, 0x15), (EXTENDED, 0x01, 0x34)] {
            let ids: Vec<u16> = table.iter().map(|rule| rule.id).collect();
            assert_eq!(ids, (first..=last).collect::<Vec<_>>());
        }
        assert!(matches!(
            rule(EXTENDED, 0xffff).treatment,
            Treatment::Hidden(_)
        ));
    }

    #[test]
    fn names_are_read_and_what_is_none_is_told_the_names() {
        for name in [
            "msix",
            "MSI",
            "pm",
            "aer",
            "sriov",
            "resizable-bar",
            "vpd",
            "pcie",
        ] {
            name.parse::<CapabilityName>().unwrap();
        }
        let error = "msi-x".parse::<CapabilityName>().unwrap_err().to_string();
        assert!(
            error.contains("'msi-x'") && error.contains("msix, pcie, pm"),
            "{error}"
        );
        assert!(!error.contains("sriov"), "hidden anyway");
    }
}
