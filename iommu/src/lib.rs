//! DMA and interrupt remapping.
//!
//! Two halves. What devices see: a [`Remapper`] that answers *translate* and *remap* for a
//! requester: [`Identity`], or a VT-d unit of the guest's ([`vtd`]). And [`host`]: the IOMMU
//! of the machine Sluice runs on, which assigned devices go through, behind
//! [`host::HostMapper`]. A [`shadow`] keeps the second like the first.

pub mod host;
mod remapper;
pub mod shadow;
pub mod vtd;

pub use remapper::{Access, Fault, INTERRUPT_RANGE, Identity, Remapper, Translation};
