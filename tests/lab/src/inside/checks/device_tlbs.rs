//! Device-TLBs behind a VT-d of the guest's own: its driver turns ATS on in a device that has it, and tells the unit to
//! invalidate what the device keeps.

use super::Check;
use super::guest_iommu::{SCALABLE, STRICT, boot, expect_no_faults, extended_capability};
use crate::error::{Context, Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::host;
use crate::inside::linux::{interrupts, network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::vmm::GuestSpec;
use crate::topology::{VIRTIO_NIC, VIRTIO_NIC_GUEST_ADDRESS, VIRTIO_NIC_PEER};
use std::fs;

pub const CHECKS: &[Check] = &[
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
];

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
