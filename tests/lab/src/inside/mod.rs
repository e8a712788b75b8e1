//! The part of the lab that runs in the emulated host.

mod autopsy;
mod behind_vtd;
mod bench;
mod checks;
mod control;
mod demo;
mod guest;
mod host;
mod kernel_log;
mod linux;
mod measure;
mod media;
mod mediated;
mod moments;
mod rig;
mod start;
mod state;
pub mod suite;
mod sysfs;
mod testpmd;
mod trace;
mod transfer;
mod vmm;
mod wire;

pub use vmm::Vmm;

use crate::command_line::{Inside, Measured};
use crate::error::Result;

/// Runs one task inside.
pub fn main(task: &Inside) -> Result<()> {
    match task {
        Inside::SetUp => host::set_up(),
        Inside::Test { vmm, names } => suite::run(*vmm, names),
        Inside::Demo { vmm } => demo::run(*vmm),
        Inside::Bench(bench) => match bench.what {
            Measured::Running => bench::run(&bench.vmms),
            Measured::Start => start::run(bench),
            Measured::Vtd => behind_vtd::run(&bench.vmms),
        },
    }
}
