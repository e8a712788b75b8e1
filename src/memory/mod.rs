//! Guest-physical memory: where everything lies ([`mod@layout`]) and the RAM itself ([`ram`]),
//! found all at once where it has to be ([`populate()`]).

mod align;
pub mod layout;
mod pieces;
mod populate;
pub mod ram;
mod size;
mod supply;

pub use layout::{BarDemand, Layout, LayoutError, layout};
pub use populate::populate;
pub use ram::{HugePages, RamError};
pub use size::{ParseSizeError, display_size, parse_size};
