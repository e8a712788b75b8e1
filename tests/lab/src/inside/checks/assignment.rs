//! Other devices that can be assigned, and assigning again after every kind of end.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{
    copy_through_block_device, interface_of, interrupts, network_up, ping_all,
    wait_for_block_device,
};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{
    E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, NVME, PF_ADDRESS, VF_GUEST_ADDRESS,
    VIRTUAL_FUNCTIONS,
};
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "nvme-assigned",
        cpus: &[2],
        limit: 120,
        fixture: None,
        run: nvme,
    },
    Check {
        name: "e1000e-assigned",
        cpus: &[2],
        limit: 120,
        fixture: None,
        run: e1000e,
    },
    Check {
        name: "two-vfs-assigned",
        cpus: &[2],
        limit: 120,
        fixture: None,
        run: two_vfs,
    },
    Check {
        name: "vf-assigned-again-after-power-off",
        cpus: &[1],
        limit: 180,
        fixture: None,
        run: again_after_power_off,
    },
    Check {
        name: "vf-assigned-again-after-kill",
        cpus: &[1],
        limit: 180,
        fixture: None,
        run: again_after_kill,
    },
];

fn nvme(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&[NVME], cpus))?;
    use_nvme(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Its driver binds, and what is written can be read.
pub(super) fn use_nvme(guest: &mut Guest) -> Result<()> {
    guest.sh("modprobe nvme")?;
    wait_for_block_device(guest, "nvme0n1")?;
    copy_through_block_device(guest, "nvme0n1")?;
    if interrupts(guest, &["MSI", "nvme"])? == 0 {
        return fail(format!(
            "NVMe: no MSI-X interrupt counted:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(())
}

fn e1000e(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&[E1000E], cpus))?;
    use_e1000e(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Its driver binds, and its wire is reached.
pub(super) fn use_e1000e(guest: &mut Guest) -> Result<()> {
    let interface = network_up(guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(guest, 50, 0.05, E1000E_PEER)?;
    if interrupts(guest, &["MSI", &interface])? == 0 {
        return fail(format!(
            "e1000e: no message-signalled interrupt counted:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(())
}

fn two_vfs(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&VIRTUAL_FUNCTIONS, cpus))?;
    ping_over_vf(&mut guest)?;
    let interfaces = guest.sh("ls -d /sys/bus/pci/drivers/igbvf/*:*:*")?;
    if interfaces.lines().count() != 2 {
        return fail(format!("igbvf drives {interfaces}, not two functions"));
    }
    expect_success(guest.power_off()?)
}

fn again_after_power_off(rig: &mut Rig, cpus: u32) -> Result<()> {
    for _ in 0..2 {
        let mut guest = rig.boot(&GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus))?;
        ping_over_vf(&mut guest)?;
        expect_success(guest.power_off()?)?;
    }
    Ok(())
}

/// Killed with packets in flight: the device must not go on writing to memory that is no longer the guest's.
fn again_after_kill(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus))?;
    ping_over_vf(&mut guest)?;
    guest.type_command(&format!("ping -q -i 0.001 -s 1400 {PF_ADDRESS}"))?;
    std::thread::sleep(Duration::from_millis(500));
    guest.kill()?;
    let mut guest = rig.boot(&GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus))?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)
}

pub(super) fn ping_over_vf(guest: &mut Guest) -> Result<()> {
    network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    interface_of(guest, "igbvf")?;
    ping_all(guest, 10, 0.05, PF_ADDRESS).map(drop)
}
