//! The part of the lab that runs in the emulated host.

mod host;
mod sysfs;

use crate::command_line::Inside;
use crate::error::Result;

/// Runs one task inside.
pub fn main(task: &Inside) -> Result<()> {
    match task {
        Inside::SetUp => host::set_up(),
    }
}
