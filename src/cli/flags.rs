//! The flags of every verb. Structured values are taken as text here and read by
//! [`crate::config`], which reads the same text from a file.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use pci::HostBdf;

use super::{CliError, bind, ctl, sriov};
use crate::config::{Given, OptionError, Settings};

/// Sluice runs virtual machines that own real devices.
#[derive(Parser, Debug)]
#[command(name = "sluice", version, max_term_width = 100)]
pub struct Sluice {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Run a machine until it powers off
    #[command(after_help = AFTER_RUN)]
    Run(Box<Run>),
    /// List this host's PCI devices and whether a guest can have them
    Devices(Devices),
    /// Check whether this host can give devices to guests, and say what to do if not
    #[command(after_help = AFTER_CHECK)]
    Check,
    /// Hand devices of the host's to VFIO, for guests to have
    #[command(after_help = bind::AFTER_BIND)]
    Bind(bind::Bind),
    /// Hand devices back to the drivers they had
    #[command(after_help = bind::AFTER_RELEASE)]
    Release(bind::Release),
    /// Make, set up, show or remove the virtual functions of a device
    #[command(after_help = sriov::AFTER_SRIOV)]
    Sriov(sriov::Sriov),
    /// Plug devices into a running machine and out of it, and show what it has
    #[command(after_help = ctl::AFTER_CTL)]
    Ctl(ctl::Ctl),
}

const AFTER_RUN: &str = "\
Every flag can be given in a TOML file under its own name instead; flags win. A comma in a \
value is written twice. Ctrl-A x leaves a stdio console.

Exit status: 0 when the guest powers off, and with --no-reboot also when it resets; 1 \
otherwise, with one line that says why. SLUICE_LOG=debug shows more (levels and targets as \
in env_logger).";

const AFTER_CHECK: &str = "\
The status is 0 if assignment can work, also with warnings, and 1 if something has failed.";

/// What to show of the host's devices.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Devices {
    /// Show all about these devices only, such as 0000:02:10.0
    #[arg(value_name = "BDF")]
    pub only: Vec<HostBdf>,

    /// Write everything as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Run {
    /// Take settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The kernel: a bzImage, or an ELF file with a PVH entry
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The kernel's command line [default: console=ttyS0]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,

    /// Number of CPUs [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,

    /// Memory, such as 4G or 4G,hugepages=2M; hugepages is off, transparent (the default),
    /// 2M or 1G [default: 1G]
    #[arg(long, value_name = "SIZE[,hugepages=…]")]
    memory: Option<String>,

    /// A hard disk: a raw image or a block device; repeatable
    #[arg(long, value_name = "path=…[,readonly]")]
    disk: Vec<String>,

    /// A CD-ROM with this disc in it; repeatable
    #[arg(long, value_name = "path=…")]
    cdrom: Vec<String>,

    /// A network card on a TAP device (tap=tap0) or on user-mode networking (user), where
    /// forward=tcp:2222:22 leads the host's port 2222 to the guest's 22; repeatable
    #[arg(long, value_name = "tap=…|user[,mac=…][,forward=…]")]
    net: Vec<String>,

    /// Give the guest this device of the host's, such as 0000:02:10.0, at root port port; its
    /// option ROM is its own (rom=on, the default), a file (rom=PATH) or none (rom=off). For
    /// debugging, no-mmap traps every access to it and hide=msix+aer takes capabilities away.
    /// NVIDIA GPUs with the same clique=0 to 15 may reach each other's memory. A mediated device
    /// is mdev=UUID, and fd=N a /dev/vfio/devices file that sluice was started with (and
    /// iommufd=M such a /dev/iommu). iommu= is the kernel's interface, one for all devices:
    /// iommufd, type1, or auto, the default, which is iommufd if it can be; repeatable
    #[arg(
        long,
        value_name = "BDF|mdev=UUID|fd=N[,port=…][,iommu=…][,rom=…][,no-mmap][,hide=…][,clique=…]"
    )]
    assign: Vec<String>,

    /// Lend the guest a free virtual function of this device, such as 0000:02:00.0, set up as
    /// with sluice sriov, and take it back afterwards; one is made if there is none. Beside its
    /// settings it takes the options of --assign; repeatable
    #[arg(long, value_name = "PF[,mac=…][,vlan=…][,port=…]")]
    vf: Vec<String>,

    /// Put an Intel VT-d between the guest's devices and its memory, for its kernel to turn on.
    /// aw is the width of I/O virtual addresses [default: 48]; intremap=off leaves interrupts
    /// alone, and eim=off APIC ids at 8 bits; caching-mode=auto is on where a device is
    /// assigned, which needs it, or may come; snoop-control=on lets the guest ask for DMA to be
    /// snooped [default: off]; scalable=on offers scalable mode [default: off]; device-tlb=on
    /// shows the guest that assigned devices keep translations (ATS) [default: off]
    #[arg(
        long,
        value_name = "vtd[,aw=39|48|57][,intremap=on|off][,eim=on|off][,caching-mode=…][,snoop-control=…][,scalable=…][,device-tlb=…]"
    )]
    iommu: Option<String>,

    /// Where the serial port goes [default: stdio]
    #[arg(long, value_name = "stdio|file=…|socket=…")]
    serial: Option<String>,

    /// Let sluice ctl plug devices in and out, through this socket; the machine has as many empty
    /// root ports for them [default of ports: 4]
    #[arg(long, value_name = "path=…[,ports=…]")]
    control: Option<String>,

    /// End when the guest resets
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL")]
    no_reboot: Option<bool>,
}

impl Run {
    /// The settings given by flags.
    pub fn settings(&self) -> Result<Settings, CliError> {
        Ok(Settings {
            kernel: given("--kernel", &self.kernel),
            initrd: given("--initrd", &self.initrd),
            cmdline: given("--cmdline", &self.cmdline),
            cpus: given("--cpus", &self.cpus),
            memory: read("--memory", self.memory.as_slice())?.pop(),
            disk: read("--disk", &self.disk)?,
            cdrom: read("--cdrom", &self.cdrom)?,
            net: read("--net", &self.net)?,
            assign: read("--assign", &self.assign)?,
            vf: read("--vf", &self.vf)?,
            iommu: read("--iommu", self.iommu.as_slice())?.pop(),
            serial: read("--serial", self.serial.as_slice())?.pop(),
            control: read("--control", self.control.as_slice())?.pop(),
            no_reboot: given("--no-reboot", &self.no_reboot),
        })
    }
}

fn given<T: Clone>(flag: &'static str, value: &Option<T>) -> Option<Given<T>> {
    value.clone().map(|value| Given::by_flag(flag, value))
}

pub(super) fn read<T>(flag: &'static str, texts: &[String]) -> Result<Vec<Given<T>>, CliError>
where
    T: FromStr<Err = OptionError>,
{
    let each = |text: &String| match text.parse() {
        Ok(value) => Ok(Given::by_flag(flag, value)),
        Err(source) => Err(CliError::Value {
            flag,
            text: text.clone(),
            source,
        }),
    };
    texts.iter().map(each).collect()
}
