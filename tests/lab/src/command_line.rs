//! What can be asked of the lab.

use crate::agent::Agent;
use crate::inside::Vmm;
use crate::prepare::HostKernel;
use clap::{Args, Parser, Subcommand};

/// The emulated host in which Sluice is shown and tested.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// One task.
#[derive(Subcommand)]
pub enum Task {
    /// Install and download what the lab needs, and nothing else
    Prepare {
        /// Also build the tailored host kernel, which the tests of iommufd want: eight minutes, once
        #[arg(long)]
        host_kernel: bool,
    },
    /// Run a shell command in the emulated host, stream its output, end with its status
    ///
    /// The root is this machine's, read-only, under a layer that is thrown away. The environment names what is there:
    /// $VF0 $VF1 $NVME $E1000E (PCI addresses, bound to vfio-pci), $PF $XHCI $BOCHS_DISPLAY (not bound to it),
    /// $GUEST_KERNEL, $GUEST_INITRD, $SLUICE.
    ///
    /// A guest started with $GUEST_INITRD runs what its kernel command line says as \"script=COMMANDS\" and powers off;
    /// with lab.interactive there it is a shell; with neither it reads "ID COMMAND" lines from its serial port.
    Run(Run),
    /// Open a shell in the emulated host on this terminal
    Shell {
        /// The emulated host's kernel
        #[arg(long, value_enum, default_value_t)]
        host_kernel: HostKernel,
    },
    /// Show it all: a guest with a virtual function, an IDE disk, an ISO and an e1000
    Demo {
        /// The monitor to run the guest with
        #[arg(long, value_enum, default_value_t = Vmm::Sluice)]
        vmm: Vmm,
    },
    /// Measure exits, throughput and round trips, and print them as a markdown table
    Bench(Bench),
    /// Run the tests, all of them or the named ones
    Test(Test),
    /// The part that runs in the guest
    #[command(hide = true, subcommand)]
    Agent(Agent),
    /// The part that runs in the emulated host
    #[command(hide = true, subcommand)]
    Inside(Inside),
}

/// How to run a command in the emulated host.
#[derive(Args)]
pub struct Run {
    /// Leave the host as it booted: no modules, no virtual functions, no networks
    #[arg(long)]
    pub bare: bool,
    /// The emulated host's kernel
    #[arg(long, value_enum, default_value_t)]
    pub host_kernel: HostKernel,
    /// Seconds after which the emulated host is killed
    #[arg(long, default_value_t = 300)]
    pub limit: u64,
    /// The command, given to sh
    #[arg(required = true, trailing_var_arg = true)]
    pub command: Vec<String>,
}

/// Which tests to run.
#[derive(Args)]
pub struct Test {
    /// The monitor to run guests with
    #[arg(long, value_enum, default_value_t = Vmm::Sluice)]
    pub vmm: Vmm,
    /// Print the names of the tests and run none
    #[arg(long)]
    pub list: bool,
    /// Try what failed once more, or as often as is said, on a fresh emulated host, and tell how it failed first:
    /// emulated processors stumble now and then, whatever the monitor
    #[arg(
        long,
        value_name = "TIMES",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = 0,
        default_missing_value = "1"
    )]
    pub retry: u32,
    /// Begin no test when so many minutes have gone by: what is left is skipped, and told. What --retry tries again
    /// has a quarter as long each time
    #[arg(long, value_name = "MINUTES")]
    pub within: Option<u64>,
    /// Tests, by name or by a part of it
    pub names: Vec<String>,
}

/// What to measure.
#[derive(Args)]
pub struct Bench {
    /// The figures of a running guest, how long it takes to start one that owns a device, or what its own IOMMU costs
    #[arg(value_enum, default_value_t)]
    pub what: Measured,
    /// Run fewer cases of `start`: guests of so many GiB
    #[arg(long = "gib", value_delimiter = ',', default_values_t = [1, 4, 16])]
    pub sizes: Vec<u32>,
    /// Run fewer cases of `start`: guests of such pages
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Pages::ALL)]
    pub pages: Vec<Pages>,
    /// Run each case of `start` so many times
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub times: u32,
    /// The monitors to measure, in this order
    #[arg(long = "vmm", value_enum, default_values_t = [Vmm::Sluice, Vmm::Qemu])]
    pub vmms: Vec<Vmm>,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Measured {
    /// Exits, throughput and round trips
    #[default]
    Running,
    /// From exec to the guest's first instruction, by memory and pages
    Start,
    /// I/O without a VT-d for the guest and behind one
    Vtd,
}

/// What a guest's memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Pages {
    /// 4 KiB
    Small,
    /// Transparent huge pages
    Transparent,
    /// 2 MiB, from the kernel's pool
    Pool,
}

impl Pages {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Small, Self::Transparent, Self::Pool];
}

/// Tasks of the part inside.
#[derive(Subcommand)]
pub enum Inside {
    /// Load drivers, make virtual functions and networks
    SetUp,
    /// Run tests by their full names
    Test {
        /// The monitor to run guests with
        #[arg(long, value_enum)]
        vmm: Vmm,
        /// Their names
        names: Vec<String>,
    },
    /// Run the demonstration
    Demo {
        /// The monitor to run the guest with
        #[arg(long, value_enum)]
        vmm: Vmm,
    },
    /// Measure
    Bench(Bench),
}
