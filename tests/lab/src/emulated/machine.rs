//! The hardware the lab emulates, as a QEMU command line.
//!
//! Everything that is to be assigned sits behind a root port of its own, hence in an IOMMU group of its own.

use super::{Console, monitor};
use crate::topology;
use std::path::Path;
use std::process::Command;

/// The emulated host's memory.
#[derive(Clone, Copy)]
pub struct Memory {
    /// In MiB.
    pub mib: u32,
    /// All of it is there before the host starts, so that nothing that is measured has to wait for what the developer's
    /// machine finds for it.
    pub populated: bool,
}

/// What differs from one start of the emulated host to the next.
pub struct Options<'a> {
    /// QEMU's program.
    pub qemu: &'a Path,
    /// Memory.
    pub memory: Memory,
    /// The kernel image.
    pub kernel: &'a Path,
    /// The host's initrd.
    pub initrd: &'a Path,
    /// The directory shared with the host for writing.
    pub share: &'a Path,
    /// The raw image behind the NVMe controller.
    pub nvme_image: &'a Path,
    /// The raw image behind the USB disk.
    pub usb_image: &'a Path,
    /// Where the kernel's console goes.
    pub kernel_log: &'a Path,
    /// Where QEMU's monitor listens.
    pub monitor: &'a Path,
    /// What the host's commands read and write.
    pub console: Console,
}

/// The command that starts the emulated host.
pub fn command(options: &Options) -> Command {
    let mut qemu = Command::new(options.qemu);
    // 40 bits and more make firmware put VF BARs above 4 GiB, of which this QEMU maps the low half only. Tables of five
    // levels make each miss of a TLB dearer, in a guest twice; a REP MOVSB, which the other two make kernels prefer,
    // takes a step per byte here.
    qemu.args([
        "-machine",
        "q35,accel=tcg,kernel-irqchip=off,memory-backend=ram",
        "-cpu",
        "max,phys-bits=39,la57=off,erms=off,fsrm=off",
        "-smp",
        "2",
    ]);
    let Memory { mib, populated } = options.memory;
    let populated = if populated { "on" } else { "off" };
    let backend = format!("memory-backend-ram,id=ram,size={mib}M,prealloc={populated}");
    qemu.args(["-m", &mib.to_string(), "-object", &backend]);
    qemu.args(["-nodefaults", "-no-reboot"]);
    qemu.args(["-display", "none"]);
    qemu.args(monitor::option(options.monitor));

    qemu.arg("-kernel")
        .arg(options.kernel)
        .arg("-initrd")
        .arg(options.initrd);
    // On a machine with other work the boot's check of its timer fails now and then, and panics.
    qemu.args([
        "-append",
        "console=ttyS0 intel_iommu=on iommu=pt panic=-1 loglevel=5 mitigations=off no_timer_check",
    ]);
    qemu.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
    // With hot-plug left to ACPI the root ports show no link, and the kernel takes every reset of a bus for failed.
    qemu.args([
        "-global",
        "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    ]);

    qemu.args(["-serial", &format!("file:{}", options.kernel_log.display())]);
    let signal = match options.console {
        Console::Captured => "on",
        Console::Terminal => "off",
    };
    qemu.args(["-chardev", &format!("stdio,id=console,signal={signal}")]);
    qemu.args([
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtconsole,chardev=console",
    ]);

    qemu.args([
        "-virtfs",
        "local,path=/,mount_tag=root,security_model=none,multidevs=remap,readonly=on",
    ]);
    let share = options.share.display();
    qemu.args([
        "-virtfs",
        &format!("local,path={share},mount_tag=lab,security_model=none,multidevs=remap"),
    ]);

    assignable(&mut qemu, options);
    qemu
}

/// What may be given to a guest; the addresses in [`topology`] follow from the order of the ports.
fn assignable(qemu: &mut Command, options: &Options) {
    for port in 1..=7 {
        let place = format!("id=port{port},chassis={port},slot={port},bus=pcie.0,addr=1{port}.0");
        qemu.args(["-device", &format!("pcie-root-port,{place}")]);
    }
    qemu.args(["-netdev", "user,id=uplink1,restrict=on"]);
    qemu.args(["-device", "igb,bus=port1,netdev=uplink1"]);

    qemu.args(["-drive", &image("flash", options.nvme_image)]);
    qemu.args(["-device", "nvme,bus=port2,serial=lab,drive=flash"]);

    qemu.args(["-netdev", "user,id=uplink3,restrict=on"]);
    qemu.args(["-device", "e1000e,bus=port3,netdev=uplink3"]);

    qemu.args(["-drive", &image("stick", options.usb_image)]);
    qemu.args(["-device", "qemu-xhci,id=usb,bus=port4"]);
    qemu.args(["-device", "usb-storage,bus=usb.0,drive=stick"]);

    qemu.args(["-device", "bochs-display,bus=port5"]);

    for function in 0..2 {
        let netdev = format!("uplink6{function}");
        let network = topology::TWIN_NETWORKS[function];
        qemu.args([
            "-netdev",
            &format!("user,id={netdev},restrict=on,net={network}"),
        ]);
        let place = format!("bus=port6,addr=0.{function},multifunction=on");
        qemu.args(["-device", &format!("e1000e,netdev={netdev},{place}")]);
    }

    // Of QEMU's devices only virtio ones have ATS. What assigns them must see to it that they use an IOMMU at all.
    qemu.args(["-netdev", "user,id=uplink7,restrict=on"]);
    let translated = "disable-legacy=on,iommu_platform=on,ats=on";
    qemu.args([
        "-device",
        &format!("virtio-net-pci,bus=port7,netdev=uplink7,{translated}"),
    ]);
}

fn image(id: &str, file: &Path) -> String {
    format!("file={},format=raw,if=none,id={id}", file.display())
}
