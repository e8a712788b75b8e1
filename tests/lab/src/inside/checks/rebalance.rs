//! Guests that put BARs elsewhere, while the device decodes them and after it was away.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{PF_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS};
use std::collections::BTreeSet;

pub const CHECKS: &[Check] = &[
    Check {
        name: "bars-are-placed-anew-at-boot",
        cpus: &[2],
        limit: 180,
        fixture: None,
        run: at_boot,
    },
    Check {
        name: "bars-move-through-ten-rescans",
        cpus: &[2],
        limit: 240,
        fixture: None,
        run: rescans,
    },
];

const TIMES: u32 = 10;

/// The kernel finds every BAR placed; an alignment none of them has makes it place them again, and widen the bridge's
/// window for them.
fn at_boot(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut seen = BTreeSet::new();
    for extra_cmdline in ["", "pci=realloc,resource_alignment=20@pci:8086:10ca"] {
        let mut guest = rig.boot(&GuestSpec {
            extra_cmdline,
            ..GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus)
        })?;
        guest.sh("modprobe igbvf")?;
        seen.insert(bars(&mut guest)?);
        expect_pings(&mut guest)?;
        expect_success(guest.power_off()?)?;
    }
    if seen.len() < 2 {
        return fail(format!("the BARs have not moved: {seen:?}"));
    }
    Ok(())
}

/// Taken away and found again through sysfs, asked for at another alignment each time.
fn rescans(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus))?;
    guest.sh("modprobe igbvf")?;
    guest.sh("device=$(basename /sys/bus/pci/drivers/igbvf/0000:*)")?;
    let mut seen = BTreeSet::from([bars(&mut guest)?]);
    for time in 1..=TIMES {
        let order = if time % 2 == 0 { 14 } else { 17 };
        guest.sh(&format!(
            "echo {order}@pci:8086:10ca >/sys/bus/pci/resource_alignment"
        ))?;
        guest.sh("echo 1 >/sys/bus/pci/devices/$device/remove")?;
        guest.sh("[ ! -e /sys/bus/pci/devices/$device ] && echo 1 >/sys/bus/pci/rescan")?;
        seen.insert(bars(&mut guest)?);
        expect_pings(&mut guest).or_else(|error| fail(format!("time {time}: {error}")))?;
    }
    if seen.len() < 2 {
        return fail(format!("the BARs have not moved: {seen:?}"));
    }
    expect_success(guest.power_off()?)
}

/// Where the virtual function's BARs are.
fn bars(guest: &mut Guest) -> Result<String> {
    guest.sh("head -n 6 /sys/bus/pci/drivers/igbvf/0000:*/resource | grep -v '^0x0* 0x0* 0x0*$'")
}

fn expect_pings(guest: &mut Guest) -> Result<()> {
    network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    ping_all(guest, 10, 0.05, PF_ADDRESS).map(drop)
}
