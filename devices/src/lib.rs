//! What sits on the bus. Every device is a library object: give it guest memory, an
//! interrupt and a clock, and drive it from a test with no VM.
//!
//! The contracts between a device and the machine are small: [`bus`] (registers, BARs and
//! their fast paths), [`dma`] (guest memory through the IOMMU), [`irq`] (level lines and
//! messages) and [`time`] (now, and wake me then). [`quiet`] keeps what a guest can make
//! them log within bounds.

pub mod block;
pub mod bus;
pub mod dma;
pub mod e1000;
pub mod ide;
pub mod irq;
pub mod net;
pub mod platform;
pub mod quiet;
pub mod time;
pub mod vfio;
