//! A VT-d of the guest's own: its stock driver turns it on, and every device goes on working, behind translation and
//! with its interrupts remapped.

use super::Check;
use super::assignment::{ping_over_vf, use_nvme};
use super::iommu_interfaces::boot_through;
use crate::error::{Result, fail};
use crate::inside::control::Control;
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{copy_through_block_device, ide_up, interrupts, network_up, ping_all};
use crate::inside::media::Disk;
use crate::inside::rig::Rig;
use crate::inside::vmm::{GuestSpec, Network};
use crate::topology::{NVME, TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS, VIRTUAL_FUNCTIONS};
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "vtd-strict-with-x2apic",
        cpus: &[2],
        limit: 300,
        fixture: None,
        run: strict,
    },
    Check {
        name: "vtd-as-it-comes-with-xapic",
        cpus: &[2],
        limit: 300,
        fixture: None,
        run: as_it_comes,
    },
    Check {
        name: "vtd-lazy-with-emulated-devices",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: lazy,
    },
    Check {
        name: "vtd-scalable-with-second-stage",
        cpus: &[2],
        limit: 300,
        fixture: None,
        run: second_stage,
    },
    Check {
        name: "vtd-scalable-with-first-stage",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: first_stage,
    },
    Check {
        name: "vtd-not-turned-on",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: not_turned_on,
    },
    Check {
        name: "vtd-through-a-reboot",
        cpus: &[2],
        limit: 300,
        fixture: None,
        run: reboot,
    },
    Check {
        name: "vf-comes-and-goes-behind-a-vtd",
        cpus: &[2],
        limit: 360,
        fixture: None,
        run: hotplug,
    },
];

const PATIENCE: Duration = Duration::from_secs(60);
const VF: &str = VIRTUAL_FUNCTIONS[0];

/// Boots a guest with `--iommu`.
pub(super) fn boot(rig: &mut Rig, iommu: &'static str, spec: GuestSpec) -> Result<Guest> {
    rig.only_sluice()?;
    rig.boot(&GuestSpec {
        iommu: Some(iommu),
        ..spec
    })
}

/// A guest with a disk, an e1000, a virtual function and NVMe.
fn everything(rig: &Rig, cpus: u32, extra_cmdline: &'static str) -> Result<GuestSpec> {
    Ok(GuestSpec {
        assign: vec![VF, NVME],
        ..emulated(rig, cpus, extra_cmdline)?
    })
}

fn emulated(rig: &Rig, cpus: u32, extra_cmdline: &'static str) -> Result<GuestSpec> {
    Ok(GuestSpec {
        disk: Some(Disk::with_ext4(rig.file("behind-vtd.img"), 24 << 20)?),
        network: Some(Network::Tap(TAP)),
        extra_cmdline,
        ..GuestSpec::new(cpus)
    })
}

fn use_emulated(guest: &mut Guest) -> Result<()> {
    ide_up(guest)?;
    copy_through_block_device(guest, "sda")?;
    let interface = network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    ping_all(guest, 20, 0.05, TAP_ADDRESS)?;
    if interrupts(guest, &["IR-IO-APIC", &interface])? == 0 {
        return fail(format!("{interface}: no remapped interrupt counted"));
    }
    Ok(())
}

fn use_everything(guest: &mut Guest) -> Result<()> {
    use_emulated(guest)?;
    ping_over_vf(guest)?;
    use_nvme(guest)?;
    for device in ["eth", "nvme"] {
        if interrupts(guest, &["IR-PCI-MSIX", device])? == 0 {
            return fail(format!("{device}: no remapped message counted"));
        }
    }
    Ok(())
}

/// The kernel's log has this line.
fn says(guest: &mut Guest, line: &str) -> Result<()> {
    match guest
        .ask(&format!("dmesg | grep -F '{line}'"), PATIENCE)?
        .status
    {
        0 => Ok(()),
        _ => fail(format!(
            "the guest's log does not say '{line}':\n{}",
            guest.sh("dmesg | grep -i -e dmar -e iommu; true")?
        )),
    }
}

/// As many groups as there are functions, each with a domain of this kind.
fn expect_groups(guest: &mut Guest, kind: &str) -> Result<()> {
    let found = guest.sh("cat /sys/kernel/iommu_groups/*/type | sort | uniq -c")?;
    let functions = guest.sh("ls /sys/bus/pci/devices | wc -l")?;
    let words: Vec<_> = found.split_whitespace().collect();
    if words == [functions.trim(), kind] {
        return Ok(());
    }
    fail(format!(
        "{} functions and groups of these types: {found}",
        functions.trim()
    ))
}

/// The guest's unit has stopped nothing; that the host's has not is looked at after every test.
pub(super) fn expect_no_faults(guest: &mut Guest) -> Result<()> {
    let command = "dmesg | grep -e 'DMAR: .*fault' -e 'DMAR: \\[' -e 'DMAR-IR: .*fault' \
                   -e 'VT-d detected' -e 'Invalidation Time-out'; true";
    let said = guest.sh(command)?;
    match said.trim() {
        "" => Ok(()),
        said => fail(format!("in the guest: {said}")),
    }
}

pub(super) const STRICT: &str = "intel_iommu=on iommu.strict=1";

fn strict(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = everything(rig, cpus, STRICT)?;
    let guest = boot(rig, "vtd", spec)?;
    use_strictly(guest)
}

/// The host's side of it in IOASes of iommufd.
pub(super) fn strict_through_iommufd(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = GuestSpec {
        assign_options: ",iommu=iommufd",
        iommu: Some("vtd"),
        ..everything(rig, cpus, STRICT)?
    };
    let guest = boot_through(rig, "iommufd", &spec)?;
    use_strictly(guest)
}

fn use_strictly(mut guest: Guest) -> Result<()> {
    says(&mut guest, "DMAR-IR: Enabled IRQ remapping in x2apic mode")?;
    says(&mut guest, "invalidation policy: strict mode")?;
    expect_groups(&mut guest, "DMA")?;
    use_everything(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Linux asks for lazy invalidation, and leaves it at strict where it finds caching mode.
fn as_it_comes(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = everything(rig, cpus, "intel_iommu=on")?;
    let mut guest = boot(rig, "vtd,eim=off,aw=39", spec)?;
    says(&mut guest, "DMAR-IR: Enabled IRQ remapping in xapic mode")?;
    use_everything(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn lazy(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = emulated(rig, cpus, "intel_iommu=on")?;
    let mut guest = boot(rig, "vtd", spec)?;
    expect_groups(&mut guest, "DMA-FQ")?;
    use_emulated(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

pub(super) const SCALABLE: &str = "intel_iommu=on,sm_on";

/// With caching mode, for the host's devices follow second-stage tables.
fn second_stage(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = everything(rig, cpus, SCALABLE)?;
    let mut guest = boot(rig, "vtd,scalable=on", spec)?;
    expect_capability(&mut guest, SCALABLE_MODE | SECOND_STAGE)?;
    use_everything(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Which Linux takes wherever it is offered.
fn first_stage(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = emulated(rig, cpus, SCALABLE)?;
    let mut guest = boot(rig, "vtd,scalable=on", spec)?;
    expect_capability(&mut guest, SCALABLE_MODE | FIRST_STAGE)?;
    use_emulated(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// ECAP.SMTS, SSTS and FSTS.
const SCALABLE_MODE: u64 = 1 << 43;
const SECOND_STAGE: u64 = 1 << 46;
const FIRST_STAGE: u64 = 1 << 47;

/// The guest's driver, which takes what it can get, has found these bits in ECAP.
fn expect_capability(guest: &mut Guest, bits: u64) -> Result<()> {
    says(guest, "DMAR: Enable scalable mode if hardware supports")?;
    match extended_capability(guest)? {
        ecap if ecap & bits == bits => Ok(()),
        ecap => fail(format!("the guest finds ECAP {ecap:x}, and not {bits:x}")),
    }
}

pub(super) fn extended_capability(guest: &mut Guest) -> Result<u64> {
    let ecap = guest.sh("cat /sys/class/iommu/dmar0/intel-iommu/ecap")?;
    u64::from_str_radix(ecap.trim(), 16)
        .or_else(|_| fail(format!("the guest finds no ECAP: {ecap}")))
}

/// The unit is there, and all memory within reach.
fn not_turned_on(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = everything(rig, cpus, "intel_iommu=off")?;
    let mut guest = boot(rig, "vtd", spec)?;
    use_everything(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Until its kernel has turned translation on again, devices reach what they reach without.
fn reboot(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = everything(rig, cpus, STRICT)?;
    let mut guest = boot(rig, "vtd", spec)?;
    ping_over_vf(&mut guest)?;
    guest.type_command("reboot -f")?;
    guest.wait_ready()?;
    expect_groups(&mut guest, "DMA")?;
    use_everything(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn hotplug(rig: &mut Rig, cpus: u32) -> Result<()> {
    let control = Control(rig.file("behind-vtd.socket"));
    let spec = GuestSpec {
        control: Some(control.0.clone()),
        ..emulated(rig, cpus, STRICT)?
    };
    let mut guest = boot(rig, "vtd", spec)?;
    guest.sh("modprobe igbvf")?;
    for _ in 0..2 {
        control.add("--assign", VF)?;
        let there = "ls -d /sys/bus/pci/drivers/igbvf/*:*:*/net/* >/dev/null 2>&1";
        guest.sh(&format!(
            "n=0; until {there}; do n=$((n+1)); [ $n -lt 450 ] || break; sleep 0.1; done; {there}"
        ))?;
        ping_over_vf(&mut guest)?;
        control.remove(VF)?;
    }
    use_emulated(&mut guest)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}
