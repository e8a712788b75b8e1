//! The virtual machine monitors the lab can start: Sluice, and QEMU to measure it against.

use super::media::Disk;
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which monitor runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vmm {
    /// The workspace's own.
    Sluice,
    /// QEMU's i440FX machine, whose IDE controller and NIC are the ones Sluice emulates.
    Qemu,
}

/// A NIC's back end.
#[derive(Clone)]
pub enum Network {
    /// A TAP device of the host, by name.
    Tap(&'static str),
    /// No privileges: TCP port of the host, forwarded to a port of the guest.
    User {
        /// The host's port.
        host_port: u16,
        /// The guest's port.
        guest_port: u16,
    },
}

/// A guest to be started.
#[derive(Clone)]
pub struct GuestSpec {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, with `hugepages=` where wanted.
    pub memory: String,
    /// What the kernel command line says besides the console.
    pub extra_cmdline: &'static str,
    /// Another initrd than the lab's own.
    pub initrd: Option<PathBuf>,
    /// IDE disk.
    pub disk: Option<Disk>,
    /// ISO image.
    pub cdrom: Option<PathBuf>,
    /// Emulated NIC.
    pub network: Option<Network>,
    /// PCI addresses of the host devices it owns.
    pub assign: Vec<&'static str>,
    /// What Sluice's `--assign` says after each address, from the comma on.
    pub assign_options: &'static str,
    /// What Sluice's `--assign` says of more devices, in full.
    pub more_assigns: Vec<String>,
    /// Virtual functions it is lent: physical functions with settings. Sluice only.
    pub vf: Vec<String>,
    /// End when the guest resets.
    pub no_reboot: bool,
    /// Another serial port than the lab's own pipes.
    pub serial: Option<String>,
    /// Where Sluice is to be controlled.
    pub control: Option<PathBuf>,
    /// The value of an `--iommu`. QEMU's is then as Sluice's is by itself, and its machine a Q35.
    pub iommu: Option<&'static str>,
}

/// The emulated NIC's address.
pub const EMULATED_NIC_MAC: &str = "02:00:00:5c:00:20";

impl GuestSpec {
    /// A guest with processors and memory and nothing else.
    pub fn new(cpus: u32) -> Self {
        Self {
            cpus,
            memory: "512M".into(),
            extra_cmdline: "",
            initrd: None,
            disk: None,
            cdrom: None,
            network: None,
            assign: Vec::new(),
            assign_options: "",
            more_assigns: Vec::new(),
            vf: Vec::new(),
            no_reboot: false,
            serial: None,
            control: None,
            iommu: None,
        }
    }

    /// A guest that owns some of the host's devices.
    pub fn owning(assign: &[&'static str], cpus: u32) -> Self {
        Self {
            assign: assign.to_vec(),
            ..Self::new(cpus)
        }
    }
}

impl Vmm {
    /// The command that starts the guest, with its serial console on standard input and output.
    pub fn command(self, guest: &GuestSpec) -> Command {
        let cmdline = format!("console=ttyS0 loglevel=5 panic=-1 {}", guest.extra_cmdline);
        let mut command = match self {
            Self::Sluice => sluice(guest),
            Self::Qemu => qemu(guest),
        };
        let (kernel, initrd, append) = match self {
            Self::Sluice => ("--kernel", "--initrd", "--cmdline"),
            Self::Qemu => ("-kernel", "-initrd", "-append"),
        };
        command.arg(kernel).arg(self::kernel());
        let image = guest.initrd.clone().unwrap_or_else(own_initrd);
        command.arg(initrd).arg(image);
        command.args([append, cmdline.trim()]);
        command
    }

    /// The name people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sluice => "Sluice",
            Self::Qemu => "QEMU",
        }
    }
}

/// The workspace's own program.
pub fn sluice_program() -> PathBuf {
    from_environment("SLUICE")
}

/// The kernel all guests run.
pub fn kernel() -> PathBuf {
    from_environment("GUEST_KERNEL")
}

/// The lab's own initrd.
pub fn own_initrd() -> PathBuf {
    from_environment("GUEST_INITRD")
}

/// The directory with DPDK's program.
pub fn dpdk() -> PathBuf {
    from_environment("DPDK")
}

fn from_environment(name: &str) -> PathBuf {
    std::env::var_os(name).map_or_else(|| Path::new("/nonexistent").join(name), PathBuf::from)
}

fn sluice(guest: &GuestSpec) -> Command {
    let mut command = Command::new(sluice_program());
    // Tests read in it how devices were opened and reset.
    command.env(
        "SLUICE_LOG",
        "warn,devices::vfio=info,sluice::machine::assigned::interface=info",
    );
    command.args([
        "run",
        "--cpus",
        &guest.cpus.to_string(),
        "--memory",
        &guest.memory,
    ]);
    command.args(["--serial", guest.serial.as_deref().unwrap_or("stdio")]);
    if let Some(disk) = &guest.disk {
        let read_only = if disk.read_only { ",readonly" } else { "" };
        command.args([
            "--disk",
            &format!("path={}{read_only}", disk.path.display()),
        ]);
    }
    if let Some(cdrom) = &guest.cdrom {
        command.args(["--cdrom", &format!("path={}", cdrom.display())]);
    }
    match guest.network {
        Some(Network::Tap(tap)) => {
            command.args(["--net", &format!("tap={tap},mac={EMULATED_NIC_MAC}")])
        }
        Some(Network::User {
            host_port,
            guest_port,
        }) => command.args([
            "--net",
            &format!("user,mac={EMULATED_NIC_MAC},forward=tcp:{host_port}:{guest_port}"),
        ]),
        None => &mut command,
    };
    for address in &guest.assign {
        command.args(["--assign", &format!("{address}{}", guest.assign_options)]);
    }
    for device in &guest.more_assigns {
        command.args(["--assign", device]);
    }
    for vf in &guest.vf {
        command.args(["--vf", vf]);
    }
    if guest.no_reboot {
        command.arg("--no-reboot");
    }
    if let Some(control) = &guest.control {
        command.args(["--control", &format!("path={}", control.display())]);
    }
    if let Some(iommu) = guest.iommu {
        command.args(["--iommu", iommu]);
    }
    command
}

fn qemu(guest: &GuestSpec) -> Command {
    let mut command = Command::new(from_environment("QEMU"));
    // A Q35 has AHCI of its own.
    let (machine, ide) = match guest.iommu {
        None => ("pc,accel=kvm", "ide"),
        Some(_) => ("q35,accel=kvm,kernel-irqchip=split", "piix"),
    };
    command.args([
        "-machine",
        machine,
        "-cpu",
        "host",
        "-nodefaults",
        "-display",
        "none",
    ]);
    if guest.iommu.is_some() {
        let caching = if guest.assign.is_empty() { "off" } else { "on" };
        command.args([
            "-device",
            &format!("intel-iommu,intremap=on,caching-mode={caching}"),
        ]);
        command.args(["-device", "piix3-ide,id=piix"]);
    }
    let (size, pages) = guest
        .memory
        .split_once(",hugepages=")
        .unwrap_or((&guest.memory, ""));
    command.args(["-smp", &guest.cpus.to_string(), "-m", size]);
    // Else it is as the host's settings for transparent huge pages have it.
    if let "2M" | "1G" = pages {
        let pool = format!("hugetlb=on,hugetlbsize={pages}");
        command.args([
            "-object",
            &format!("memory-backend-memfd,id=ram,size={size},{pool}"),
            "-machine",
            "memory-backend=ram",
        ]);
    }
    command.args(["-serial", "stdio"]);
    if let Some(disk) = &guest.disk {
        let read_only = if disk.read_only { ",readonly=on" } else { "" };
        command.args([
            "-drive",
            &format!(
                "file={},format=raw,if=none,id=disk{read_only}",
                disk.path.display()
            ),
        ]);
        command.args(["-device", &format!("ide-hd,bus={ide}.0,drive=disk")]);
    }
    if let Some(cdrom) = &guest.cdrom {
        command.args([
            "-drive",
            &format!(
                "file={},format=raw,if=none,id=cdrom,readonly=on",
                cdrom.display()
            ),
        ]);
        command.args(["-device", &format!("ide-cd,bus={ide}.1,drive=cdrom")]);
    }
    match guest.network {
        Some(Network::Tap(tap)) => {
            command.args([
                "-netdev",
                &format!("tap,id=net,ifname={tap},script=no,downscript=no"),
            ]);
        }
        Some(Network::User {
            host_port,
            guest_port,
        }) => {
            command.args([
                "-netdev",
                &format!("user,id=net,hostfwd=tcp::{host_port}-:{guest_port}"),
            ]);
        }
        None => {}
    }
    if guest.network.is_some() {
        command.args([
            "-device",
            &format!("e1000,netdev=net,mac={EMULATED_NIC_MAC},rombar=0"),
        ]);
    }
    for address in &guest.assign {
        command.args(["-device", &format!("vfio-pci,host={address}")]);
    }
    if guest.no_reboot {
        command.arg("-no-reboot");
    }
    command
}
