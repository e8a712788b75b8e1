//! The IOMMU: whether it translates, whether it remaps interrupts, and whether it can post
//! them to a running guest.

use super::{Finding, is_on};
use crate::host::interrupts::Remapping;
use crate::host::{Host, names_in};

/// An IOMMU's make, told by the name of its directory in `sys/class/iommu`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    /// Intel's, `dmarN`.
    VtD,
    /// AMD's, `ivhdN`.
    AmdVi,
}

impl Make {
    fn name(self) -> &'static str {
        match self {
            Self::VtD => "VT-d",
            Self::AmdVi => "AMD-Vi",
        }
    }
}

/// The IOMMUs that the kernel drives.
fn units(host: &Host) -> Vec<(Option<Make>, String)> {
    let names = names_in(&host.root.join("sys/class/iommu")).unwrap_or_default();
    let with_make = |name: String| match name.as_str() {
        n if n.starts_with("dmar") => (Some(Make::VtD), name),
        n if n.starts_with("ivhd") => (Some(Make::AmdVi), name),
        _ => (None, name),
    };
    names.into_iter().map(with_make).collect()
}

fn make(host: &Host) -> Option<Make> {
    units(host).into_iter().find_map(|(make, _)| make)
}

/// Whether devices have an IOMMU in front of them.
pub fn translation(host: &Host) -> Finding {
    const TOPIC: &str = "IOMMU";
    let groups = names_in(&host.groups()).unwrap_or_default().len();
    if groups > 0 {
        let units = units(host);
        let names: Vec<_> = units.iter().map(|(_, name)| name.as_str()).collect();
        let what = match units.iter().find_map(|(make, _)| *make) {
            Some(make) => format!("{} ({})", make.name(), names.join(", ")),
            None if names.is_empty() => "on".to_owned(),
            None => names.join(", "),
        };
        return Finding::ok(TOPIC, format!("{what}, {groups} groups"));
    }
    // The firmware describes the IOMMU in a table of its maker's.
    let table = |name: &str| host.has(&format!("sys/firmware/acpi/tables/{name}"));
    let said = turned_off(host).map(|word| format!("; it was booted with {word}"));
    let said = said.unwrap_or_default();
    match (table("DMAR"), table("IVRS")) {
        (true, _) => Finding::fail(
            TOPIC,
            format!("VT-d is there, but the kernel leaves it off{said}"),
            "boot the host with intel_iommu=on (in GRUB_CMDLINE_LINUX of /etc/default/grub, then \
             update-grub)",
        ),
        (_, true) => Finding::fail(
            TOPIC,
            format!("AMD-Vi is there, but the kernel leaves it off{said}"),
            "boot the host without amd_iommu=off and iommu=off",
        ),
        _ => Finding::fail(
            TOPIC,
            "the firmware shows none (neither a DMAR nor an IVRS table)",
            "turn VT-d, AMD-Vi or IOMMU on in the firmware; boot an Intel host with \
             intel_iommu=on besides",
        ),
    }
}

/// The word of the kernel's command line that turns the IOMMU off.
fn turned_off(host: &Host) -> Option<String> {
    let cmdline = host.text("proc/cmdline")?;
    let off = |word: &&str| matches!(*word, "iommu=off" | "intel_iommu=off" | "amd_iommu=off");
    cmdline.split_whitespace().find(off).map(str::to_owned)
}

/// Whether interrupts of devices go through the IOMMU too.
pub fn remapping(host: &Host) -> Finding {
    const TOPIC: &str = "interrupt remapping";
    match host.interrupt_remapping() {
        Remapping::On => Finding::ok(TOPIC, "on"),
        Remapping::Off => Finding::fail(
            TOPIC,
            "off: VFIO hands out no device, as a guest could raise any interrupt of the host's",
            "turn on interrupt remapping (or x2APIC) in the firmware and boot without \
             intremap=off; for guests that you trust as the host, `echo 1 > \
             /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`",
        ),
        Remapping::OffButAllowed => Finding::warn(
            TOPIC,
            "off, and allow_unsafe_interrupts is set: a guest with a device can raise any \
             interrupt of the host's",
            "turn on interrupt remapping (or x2APIC) in the firmware and boot without intremap=off",
        ),
        Remapping::Unknown => Finding::warn(
            TOPIC,
            "not known: /proc/interrupts names no interrupt controller that would tell",
            "look for \"remapping\" in the kernel log",
        ),
    }
}

/// Whether interrupts of assigned devices can reach a running guest without the host's
/// kernel. Where the hardware has none there is nothing to be done.
pub fn posting(host: &Host) -> Finding {
    const TOPIC: &str = "posted interrupts";
    match make(host) {
        Some(Make::VtD) => vt_d_posting(host, TOPIC),
        Some(Make::AmdVi) => amd_vi_posting(host, TOPIC),
        None => Finding::ok(TOPIC, "not visible on this host"),
    }
}

fn vt_d_posting(host: &Host, topic: &'static str) -> Finding {
    /// Posted Interrupts Support of the Capability Register (VT-d 4.1 §11.4.2).
    const PI: u64 = 1 << 59;
    let all = units(host);
    let can = |unit: &str| {
        register(host, &format!("sys/class/iommu/{unit}/intel-iommu/cap"))
            .is_some_and(|c| c & PI != 0)
    };
    let offered = !all.is_empty() && all.iter().all(|(_, unit)| can(unit));
    match (offered, is_on(host, "kvm_intel", "enable_apicv")) {
        (false, _) => Finding::ok(topic, NO_POSTING),
        (true, Some(true)) => Finding::ok(topic, "on, by VT-d and KVM's APICv"),
        (true, Some(false)) => Finding::warn(
            topic,
            "VT-d can post interrupts, but KVM's APICv is off",
            "load kvm_intel with enable_apicv=1, if the processor has APICv",
        ),
        (true, None) => Finding::ok(topic, "VT-d can; this KVM does not use it"),
    }
}

fn amd_vi_posting(host: &Host, topic: &'static str) -> Finding {
    /// GASup of the Extended Feature Register (AMD I/O Virtualization 3.10 §3.4.9): guest
    /// virtual APIC mode.
    const GA: u64 = 1 << 7;
    let all = units(host);
    let can = |unit: &str| {
        let file = format!("sys/class/iommu/{unit}/amd-iommu/features");
        register(host, &file).is_some_and(|f| f & GA != 0)
    };
    let offered = !all.is_empty() && all.iter().all(|(_, unit)| can(unit));
    match (offered, is_on(host, "kvm_amd", "avic")) {
        (false, _) => Finding::ok(topic, NO_POSTING),
        (true, Some(true)) => Finding::ok(topic, "on, by AMD-Vi and KVM's AVIC"),
        (true, Some(false)) => Finding::warn(
            topic,
            "AMD-Vi can post interrupts, but KVM's AVIC is off",
            "load kvm_amd with avic=1, if the processor has AVIC",
        ),
        (true, None) => Finding::ok(topic, "AMD-Vi can; this KVM does not use it"),
    }
}

const NO_POSTING: &str =
    "the hardware has none; interrupts of assigned devices reach guests through the host's kernel";

/// A register that sysfs shows in hexadecimal without a prefix; AMD's come with others after a
/// colon.
fn register(host: &Host, file: &str) -> Option<u64> {
    let text = host.text(file)?;
    u64::from_str_radix(text.split(':').next()?, 16).ok()
}
