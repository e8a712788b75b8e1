//! A VT-d of the guest's own: its stock driver turns it on, and every device goes on working, behind translation and
//! with its interrupts remapped.

use super::Check;
use super::assignment::{ping_over_vf, use_nvme};
use super::iommu_interfaces::boot_through;
use crate::error::{Context, Result, fail};
use crate::inside::control::Control;
use crate::inside::guest::{Guest, expect_success};
use crate::inside::host;
use crate::inside::linux::{copy_through_block_device, ide_up, interrupts, network_up, ping_all};
use crate::inside::media::Disk;
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::vmm::{GuestSpec, Network};
use crate::topology::{
    NVME, TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS, VIRTIO_NIC, VIRTIO_NIC_GUEST_ADDRESS,
    VIRTIO_NIC_PEER, VIRTUAL_FUNCTIONS,
};
use std::fs;
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
        name: "vtd-with-device-tlbs",
        cpus: &[2],
        limit: 300,
        fixture: None,
        run: |rig, cpus| device_tlb(rig, cpus, "vtd,device-tlb=on", STRICT),
    },
    Check {
        name: "vtd-scalable-with-device-tlbs",
        cpus: &[1],
        limit: 300,
        fixture: None,
        run: |rig, cpus| device_tlb(rig, cpus, "vtd,scalable=on,device-tlb=on", SCALABLE),
    },
    Check {
        name: "vtd-without-device-tlbs",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: without_device_tlb,
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

const STRICT: &str = "intel_iommu=on iommu.strict=1";

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

const SCALABLE: &str = "intel_iommu=on,sm_on";

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

fn extended_capability(guest: &mut Guest) -> Result<u64> {
    let ecap = guest.sh("cat /sys/class/iommu/dmar0/intel-iommu/ecap")?;
    u64::from_str_radix(ecap.trim(), 16)
        .or_else(|_| fail(format!("the guest finds no ECAP: {ecap}")))
}

/// ECAP.DT.
const DEVICE_TLB: u64 = 1 << 2;

/// The guest's driver turns ATS on in a device that has it, and invalidates its Device-TLB each time that something is
/// unmapped. In the device itself it stays as the host has it.
fn device_tlb(
    rig: &mut Rig,
    cpus: u32,
    iommu: &'static str,
    extra_cmdline: &'static str,
) -> Result<()> {
    rig.only_sluice()?;
    host::with_device(VIRTIO_NIC, || {
        let on_host = translation_services(&extended_on_host()?);
        let mut guest = boot(rig, iommu, owning_virtio_nic(cpus, extra_cmdline))?;
        let ecap = extended_capability(&mut guest)?;
        if ecap & DEVICE_TLB == 0 {
            return fail(format!(
                "the guest finds ECAP {ecap:x}, without Device-TLBs"
            ));
        }
        expect_enabled(&mut guest)?;
        guest.sh(&format!(
            "mount -t tracefs tracefs {TRACING} && echo 1 >{TRACING}/events/intel_iommu/qi_submit/enable"
        ))?;
        use_virtio_nic(&mut guest)?;
        expect_device_tlb_invalidated(&mut guest)?;
        expect_enabled(&mut guest)?;
        let now = translation_services(&extended_on_host()?);
        if now.is_none() || now != on_host {
            return fail(format!(
                "ATS in the device was {on_host:x?}, and is {now:x?} while a guest has it"
            ));
        }
        expect_no_faults(&mut guest)?;
        expect_success(guest.power_off()?)
    })
}

/// The device has ATS all the same, and the guest does not see it.
fn without_device_tlb(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    host::with_device(VIRTIO_NIC, || {
        let mut guest = boot(rig, "vtd", owning_virtio_nic(cpus, STRICT))?;
        let ecap = extended_capability(&mut guest)?;
        let seen = translation_services(&extended_in_guest(&mut guest)?);
        if ecap & DEVICE_TLB != 0 || seen.is_some() {
            return fail(format!("ECAP is {ecap:x}, and ATS {seen:x?}"));
        }
        use_virtio_nic(&mut guest)?;
        expect_no_faults(&mut guest)?;
        expect_success(guest.power_off()?)
    })
}

fn owning_virtio_nic(cpus: u32, extra_cmdline: &'static str) -> GuestSpec {
    GuestSpec {
        extra_cmdline,
        ..GuestSpec::owning(&[VIRTIO_NIC], cpus)
    }
}

/// Its driver binds, and its wire is reached.
fn use_virtio_nic(guest: &mut Guest) -> Result<()> {
    network_up(guest, "virtio_net", VIRTIO_NIC_GUEST_ADDRESS)?;
    ping_all(guest, 50, 0.05, VIRTIO_NIC_PEER)?;
    if interrupts(guest, &["IR-PCI-MSIX", "virtio"])? == 0 {
        return fail(format!(
            "virtio: no remapped message counted:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(())
}

/// Enable, in the ATS control register over the capability register.
const ATS_ENABLE: u32 = 1 << 31;

fn expect_enabled(guest: &mut Guest) -> Result<()> {
    match translation_services(&extended_in_guest(guest)?) {
        Some(registers) if registers & ATS_ENABLE != 0 => Ok(()),
        other => fail(format!(
            "the guest has not turned ATS on: {other:x?}\n{}",
            guest.sh("lspci -vvv -d 1af4:; dmesg | grep -i -e dmar -e iommu; true")?
        )),
    }
}

const TRACING: &str = "/sys/kernel/tracing";

/// What the guest's driver has put in the unit's queue since it is traced has Device-TLBs in it.
fn expect_device_tlb_invalidated(guest: &mut Guest) -> Result<()> {
    let count = guest.sh(&format!("grep -c dev_tlb_inv {TRACING}/trace; true"))?;
    match count.trim().parse::<u32>() {
        Ok(1..) => Ok(()),
        _ => fail(format!(
            "no Device-TLB was invalidated ({count}):\n{}",
            guest.sh(&format!("head -n 40 {TRACING}/trace"))?
        )),
    }
}

/// Where extended capabilities start, and how many bytes of them are looked at: the virtio NIC has few.
const EXTENDED: usize = 0x100;
const EXTENDED_LEN: usize = 0x100;

/// The capability and control register of ATS (PCIe 6.0 §10.5.1), if it is among these extended capabilities.
fn translation_services(extended: &[u8]) -> Option<u32> {
    const ID: u32 = 0x0f;
    let dword = |at: usize| Some(u32::from_le_bytes(*extended.get(at..)?.first_chunk()?));
    let mut at = 0;
    for _ in 0..EXTENDED_LEN / 4 {
        let header = dword(at)?;
        if header & 0xffff == ID {
            return dword(at + 4);
        }
        at = ((header >> 20 & 0xffc) as usize).checked_sub(EXTENDED)?;
    }
    None
}

fn extended_on_host() -> Result<Vec<u8>> {
    let file = sysfs::device(VIRTIO_NIC).join("config");
    let config = fs::read(&file).path(&file)?;
    match config.get(EXTENDED..EXTENDED + EXTENDED_LEN) {
        Some(extended) => Ok(extended.to_vec()),
        None => fail(format!("{}: {} bytes", file.display(), config.len())),
    }
}

/// The extended capabilities of the virtio NIC, as the guest's kernel reads them.
fn extended_in_guest(guest: &mut Guest) -> Result<Vec<u8>> {
    let said = guest.sh(&format!(
        "d=$(dirname $(grep -l 0x1041 /sys/bus/pci/devices/*/device)) && [ -d $d ] && \
         hexdump -v -s {EXTENDED} -n {EXTENDED_LEN} -e '16/1 \"%02x \" \"\\n\"' $d/config"
    ))?;
    let bytes = said
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16));
    match bytes.collect::<std::result::Result<Vec<u8>, _>>() {
        Ok(extended) if extended.len() == EXTENDED_LEN => Ok(extended),
        _ => fail(format!("no config space of 4096 bytes:\n{said}")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ats_is_found_where_it_is() {
        let extended = |dwords: &[(usize, u32)]| {
            let mut bytes = vec![0; EXTENDED_LEN];
            for (at, dword) in dwords {
                bytes[*at..*at + 4].copy_from_slice(&dword.to_le_bytes());
            }
            bytes
        };
        let (aer, ats) = (0x1802_0001, 0x0001_000f);
        for (dwords, found) in [
            (&[(0, ats), (4, 0x8000_0020)][..], Some(0x8000_0020)),
            (&[(0, aer), (0x80, ats), (0x84, 0x20)], Some(0x20)),
            (&[(0, aer), (0x80, 0x0001_0003)], None),
            (&[(0, 0x1000_0000)], None),
            (&[(0, 0xfff0_0001)], None),
            (&[], None),
        ] {
            assert_eq!(
                translation_services(&extended(dwords)),
                found,
                "{dwords:x?}"
            );
        }
    }
}
