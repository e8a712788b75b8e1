//! DMA and interrupt remapping.
//!
//! Two halves. What devices see: a [`Remapper`] that answers *translate* and *remap* for a
//! requester: [`Identity`], or a VT-d unit for the guest ([`vtd`]). And [`host`]: the IOMMU of the machine Sluice runs on, which assigned devices
//! go through, behind [`host::HostMapper`].

pub mod host;
mod remapper;
pub mod vtd;

pub use remapper::{Access, Fault, Identity, Remapper, Translation};
