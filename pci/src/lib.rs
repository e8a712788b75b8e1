//! The PCI model: pure values and routing, with no KVM, no files and no threads.
//!
//! A config cycle's way, and where to read about each step:
//!
//! 1. The guest accesses CF8h/CFCh or ECAM. [`Topology`] cuts the access, whatever its
//!    length and alignment, into dwords with byte enables ([`Register`], [`ConfigWrite`]).
//! 2. It routes each by bus number, from the root bus down through [`Bridge`]s, to the
//!    [`Function`] in that slot. Where there is none, reads are all ones.
//! 3. The function answers from its [`ConfigSpace`]: bytes, masks, base address registers
//!    ([`BarKind`]) and capabilities ([`Capability`], [`ExtendedCapability`]).
//! 4. A write gives [`Changes`], found by comparing the function before and after. The
//!    device follows what is its own (bus mastering, interrupts, reset); the machine gets
//!    them as [`Written`] and follows the rest: it asks [`Topology::decoded`] what every
//!    function decodes *now* through the bridges above it, and maps the difference.
//!
//! Interrupt messages go the other way: [`Msi`] and [`MsixTable`] say which message a
//! vector sends, if it may, and keep what is pending while it may not.
//!
//! Functions that are part of every machine are here too: [`HostBridge`], which says where
//! ECAM is, and [`RootPort`]. [`Hierarchy`] numbers buses and places BARs as firmware does,
//! for guests that are started without any.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use pci::*;
//!
//! struct Device(Mutex<ConfigSpace>);
//!
//! impl Function for Device {
//!     fn read_config(&self, register: Register) -> u32 {
//!         self.0.lock().unwrap().read(register)
//!     }
//!     fn write_config(&self, write: ConfigWrite) -> Changes {
//!         self.0.lock().unwrap().write(write)
//!     }
//!     fn windows(&self) -> Vec<Window> {
//!         self.0.lock().unwrap().windows()
//!     }
//!     fn reset(&self) {
//!         self.0.lock().unwrap().reset();
//!     }
//! }
//!
//! let mut space = ConfigSpace::endpoint(Ids {
//!     vendor: 0x8086,
//!     device: 0x100e,
//!     revision: 3,
//!     class: ClassCode { base: 2, sub: 0, interface: 0 },
//!     subsystem_vendor: 0x8086,
//!     subsystem: 0x001e,
//! });
//! let memory = BarKind::Memory32 { prefetchable: false };
//! space.set_bar(BarIndex(0), memory, 0x2_0000)?;
//! space.set_interrupt_pin(InterruptPin::IntA);
//!
//! let mut topology: Topology<dyn Function> = Topology::new();
//! topology.attach(BusAt::Root, 0, 0, "host bridge", Arc::new(HostBridge::new(None)))?;
//! topology.attach(BusAt::Root, 2, 0, "nic", Arc::new(Device(Mutex::new(space))))?;
//! topology.check()?;
//!
//! // The guest places BAR 0 and enables memory decoding, through ECAM.
//! let nic = u64::from(Bdf::new(0, 2, 0).requester_id()) << 12;
//! topology.ecam_write(nic + 0x10, &0xfeb8_0000_u32.to_le_bytes());
//! let written = topology.ecam_write(nic + 4, &[2]);
//! assert_eq!(written[0].changes, Changes::DECODE);
//! assert_eq!(topology.decoded()[0].window.base, 0xfeb8_0000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod bdf;
mod bridge;
mod capability;
mod enumerate;
#[cfg(any(test, feature = "fuzz"))]
mod fakes;
mod function;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod host_bridge;
mod lock;
mod message;
mod msix_table;
mod registers;
mod space;
mod split;
mod topology;

pub use access::{ConfigWrite, Register};
pub use bdf::{Bdf, HostBdf, ParseBdfError};
pub use bridge::{
    Bridge, Forwarded, PciBridge, PortWires, RootPort, RootPortConfig, RootPortState,
};
pub use capability::{
    Acs, Aer, Ari, Capability, CapabilityError, Express, ExpressKind, ExtendedCapability, InBar,
    Link, Msi, Msix, PowerManagement, PowerState, Slot,
};
pub use enumerate::{ConfigCycles, Hierarchy, NoRoom, Windows};
pub use function::{BarIndex, Changes, Function, Space, Window};
pub use host_bridge::{Ecam, HostBridge, HostBridgeState};
pub use message::MsiMessage;
pub use msix_table::{MsixTable, VectorChange};
pub use registers::*;
pub use space::{BarError, BarKind, ClassCode, ConfigSpace, ConfigSpaceState, Ids, InterruptPin};
pub use split::{read_bytes, write_bytes};
pub use topology::{
    BusAt, Decoded, FunctionId, Located, NotConfig, Topology, TopologyError, Written,
};
