//! Register layouts, named after the tables of PCIe 6.0 §7.5 to §7.9. Nothing here
//! behaves; see `space`, `capability` and `port` for what the fields do.

mod aer;
mod express;
mod header;
mod message;

pub use aer::{RootErrorCommand, RootErrorStatus, UncorrectableErrors};
pub use express::{
    DeviceCapabilities, DeviceControl, DeviceControl2, DeviceStatus, ExpressCapabilities,
    LinkCapabilities, LinkStatus, SlotCapabilities, SlotControl, SlotStatus,
};
pub use header::{BridgeControl, Command, PowerControl, Status};
pub use message::{MsiControl, MsixControl, VectorControl};

/// Byte offsets in the configuration header (§7.5.1.1 to §7.5.1.3).
pub(crate) mod offset {
    pub const VENDOR_ID: u16 = 0x00;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const REVISION: u16 = 0x08;
    pub const CACHE_LINE: u16 = 0x0c;
    pub const HEADER_TYPE: u16 = 0x0e;
    pub const BAR0: u16 = 0x10;
    pub const CAPABILITIES: u16 = 0x34;
    pub const INTERRUPT_LINE: u16 = 0x3c;
    pub const INTERRUPT_PIN: u16 = 0x3d;

    // Type 0 only.
    pub const SUBSYSTEM: u16 = 0x2c;
    pub const ROM_ENDPOINT: u16 = 0x30;

    // Type 1 only.
    pub const BUS_NUMBERS: u16 = 0x18;
    pub const SECONDARY: u16 = 0x19;
    pub const SUBORDINATE: u16 = 0x1a;
    pub const IO_WINDOW: u16 = 0x1c;
    pub const MEMORY_WINDOW: u16 = 0x20;
    pub const PREFETCH_WINDOW: u16 = 0x24;
    pub const PREFETCH_BASE_UPPER: u16 = 0x28;
    pub const PREFETCH_LIMIT_UPPER: u16 = 0x2c;
    pub const ROM_BRIDGE: u16 = 0x38;
    pub const BRIDGE_CONTROL: u16 = 0x3e;

    /// The first byte after the header.
    pub const DEVICE_SPECIFIC: u16 = 0x40;
    /// The first byte of extended config space.
    pub const EXTENDED: u16 = 0x100;
    /// The size of a config space.
    pub const END: u16 = 0x1000;
}
