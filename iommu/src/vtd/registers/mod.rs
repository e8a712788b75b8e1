//! VT-d 4.1 §11.4: the registers, as the manual draws them, and nothing that behaves.

mod capability;
mod command;
mod event;
mod fault;
mod interrupt;
mod invalidate;
mod protected;
mod queue;

pub use capability::{Capability, ExtendedCapability, SCALABLE_VERSION, VERSION};
pub use command::{Global, RootTable, TableMode};
pub use event::EventControl;
pub use fault::{FaultRecord, FaultStatus};
pub use interrupt::InterruptTable;
pub use invalidate::{ContextCommand, InvalidateAddress, IotlbInvalidate};
pub use protected::ProtectedEnable;
pub use queue::{QueueAddress, QueueError, QueueErrorRecord, QueuePointer};

/// Offsets in the register page (VT-d 4.1 §11.4, table of registers).
pub mod offset {
    /// VER, 32 bits.
    pub const VER: u64 = 0x00;
    /// CAP, 64 bits.
    pub const CAP: u64 = 0x08;
    /// ECAP, 64 bits.
    pub const ECAP: u64 = 0x10;
    /// GCMD, 32 bits.
    pub const GCMD: u64 = 0x18;
    /// GSTS, 32 bits.
    pub const GSTS: u64 = 0x1c;
    /// RTADDR, 64 bits.
    pub const RTADDR: u64 = 0x20;
    /// CCMD, 64 bits.
    pub const CCMD: u64 = 0x28;
    /// FSTS, 32 bits.
    pub const FSTS: u64 = 0x34;
    /// FECTL, 32 bits; data, address and upper address follow it.
    pub const FECTL: u64 = 0x38;
    /// FEDATA, 32 bits.
    pub const FEDATA: u64 = 0x3c;
    /// FEADDR, 32 bits.
    pub const FEADDR: u64 = 0x40;
    /// FEUADDR, 32 bits.
    pub const FEUADDR: u64 = 0x44;
    /// PMEN, 32 bits.
    pub const PMEN: u64 = 0x64;
    /// PLMBASE, 32 bits.
    pub const PLMBASE: u64 = 0x68;
    /// PLMLIMIT, 32 bits.
    pub const PLMLIMIT: u64 = 0x6c;
    /// PHMBASE, 64 bits.
    pub const PHMBASE: u64 = 0x70;
    /// PHMLIMIT, 64 bits.
    pub const PHMLIMIT: u64 = 0x78;
    /// IQH, 64 bits.
    pub const IQH: u64 = 0x80;
    /// IQT, 64 bits.
    pub const IQT: u64 = 0x88;
    /// IQA, 64 bits.
    pub const IQA: u64 = 0x90;
    /// ICS, 32 bits.
    pub const ICS: u64 = 0x9c;
    /// IECTL, 32 bits; data, address and upper address follow it.
    pub const IECTL: u64 = 0xa0;
    /// IEDATA, 32 bits.
    pub const IEDATA: u64 = 0xa4;
    /// IEADDR, 32 bits.
    pub const IEADDR: u64 = 0xa8;
    /// IEUADDR, 32 bits.
    pub const IEUADDR: u64 = 0xac;
    /// IQERCD, 64 bits.
    pub const IQERCD: u64 = 0xb0;
    /// IRTA, 64 bits.
    pub const IRTA: u64 = 0xb8;
    /// IVA, 64 bits: ours to place, ECAP.IRO says where.
    pub const IVA: u64 = 0xf0;
    /// IOTLB, 64 bits, after IVA.
    pub const IOTLB: u64 = 0xf8;
    /// The first FRCD, 128 bits each: ours to place, CAP.FRO says where.
    pub const FRCD: u64 = 0x220;
}
