//! The lab: a whole host with VT-d, SR-IOV and KVM, emulated, so that Sluice can be shown and tested anywhere.
//!
//! Three places, one program. *Outside* is the developer's machine: [`prepare`] installs and downloads, [`emulated`]
//! starts QEMU. *Inside* is the emulated host, where the same program runs again ([`inside`]) and starts virtual
//! machine monitors natively. The *guest* is what they run.

mod agent;
mod command_line;
mod cpio;
mod emulated;
mod error;
mod events;
mod initrd;
mod inside;
mod mapped;
mod outside;
mod prepare;
mod process;
mod table;
mod testing;
mod topology;
mod watching;

use clap::Parser;
use command_line::{CommandLine, Task};
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().task {
        Task::Prepare { host_kernel: false } => prepare::prepare_for_tests().map(|_| 0),
        Task::Prepare { host_kernel: true } => prepare::prepare_with_tailored_kernel().map(|_| 0),
        Task::Run(run) => outside::run(&run),
        Task::Shell { host_kernel } => outside::shell(host_kernel),
        Task::Demo { vmm } => watching::demo(vmm),
        Task::Bench(bench) => watching::bench(&bench),
        Task::Agent(agent) => agent::main(&agent).map(|()| 0),
        Task::Test(test) => testing::run(&test),
        Task::Inside(inside) => inside::main(&inside).map(|()| 0),
    };
    match outcome {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}
