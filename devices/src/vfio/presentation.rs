//! How a device is shown to its guest: what the operator may say about it, and what is behind it.

use std::path::PathBuf;

use super::quirks::clique::Clique;
use super::rules::{CapabilityName, Rule};

/// How a device is shown: by default, as wholly and directly as can be.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Presentation {
    /// Its option ROM.
    pub rom: RomSource,
    /// No part of it is mapped into the guest: every access is trapped.
    pub no_mmap: bool,
    /// Capabilities that the guest does not see.
    pub hide: Vec<CapabilityName>,
    /// The GPUDirect clique that it is in.
    pub clique: Option<Clique>,
    /// The guest has an IOMMU that knows of Device-TLBs: it sees that the device has one (ATS).
    pub device_tlb: bool,
}

/// Where a device's option ROM comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub enum RomSource {
    /// The device, if it has a valid one.
    #[default]
    Device,
    /// This file.
    File(PathBuf),
    /// There is none.
    Off,
}

impl Presentation {
    pub(super) fn hides(&self, rule: &Rule) -> bool {
        self.hide.iter().any(|name| name.names(rule))
    }
}
