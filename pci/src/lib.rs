//! The PCI model: pure values and routing, with no KVM, no files and no threads.
//!
//! A config cycle enters at the host bridge, is routed by bus number through bridges
//! and lands in a [`Function`], which answers it from its config space and says what
//! the write changed ([`Changes`]). Who owns the machine applies the change.

mod access;
mod bdf;
mod bridge;
mod capability;
mod enumerate;
mod function;
mod message;
mod msix_table;
mod registers;
mod space;
mod split;

pub use access::{ConfigWrite, Register};
pub use bdf::{Bdf, HostBdf, ParseBdfError};
pub use bridge::{Bridge, Forwarded};
pub use capability::{
    Acs, Aer, Ari, Capability, CapabilityError, Express, ExpressKind, ExtendedCapability, InBar,
    Link, Msi, Msix, PowerManagement, PowerState, Slot,
};
pub use enumerate::{ConfigCycles, Hierarchy, NoRoom, Windows};
pub use function::{BarIndex, Changes, Function, Space, Window};
pub use message::MsiMessage;
pub use msix_table::{MsixTable, VectorChange};
pub use registers::*;
pub use space::{BarError, BarKind, ClassCode, ConfigSpace, ConfigSpaceState, Ids, InterruptPin};
pub use split::{read_bytes, write_bytes};
