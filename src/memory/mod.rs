//! Guest-physical memory: where everything lies ([`mod@layout`]) and the RAM itself ([`ram`]).

pub mod layout;
pub mod ram;
mod size;
mod supply;

pub use layout::{BarDemand, Layout, LayoutError, layout};
pub use ram::{HugePages, RamError};
pub use size::{ParseSizeError, display_size, parse_size};
