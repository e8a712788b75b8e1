//! Other devices that can be assigned, and assigning again after every kind of end.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{
    interface_of, interrupts, network_up, ping_all, sha256_in_guest, wait_for_block_device,
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

const PATIENCE: Duration = Duration::from_secs(90);

fn owning(address: &'static str, cpus: u32) -> GuestSpec {
    GuestSpec {
        assign: vec![address],
        ..GuestSpec::new(cpus)
    }
}

fn nvme(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning(NVME, cpus))?;
    guest.sh("modprobe nvme")?;
    wait_for_block_device(&mut guest, "nvme0n1")?;
    guest.sh("dd if=/dev/urandom of=/tmp/given bs=64k count=128 2>&1")?;
    let given = sha256_in_guest(&mut guest, "/tmp/given")?;
    guest.sh_within(
        "dd if=/tmp/given of=/dev/nvme0n1 bs=64k oflag=direct 2>&1 && sync",
        PATIENCE,
    )?;
    guest.sh_within(
        "dd if=/dev/nvme0n1 of=/tmp/taken bs=64k count=128 iflag=direct 2>&1",
        PATIENCE,
    )?;
    let taken = sha256_in_guest(&mut guest, "/tmp/taken")?;
    if given != taken {
        return fail(format!("NVMe: wrote {given}, read {taken}"));
    }
    if interrupts(&mut guest, &["MSI", "nvme"])? == 0 {
        return fail(format!(
            "NVMe: no MSI-X interrupt counted:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    expect_success(guest.power_off()?)
}

fn e1000e(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning(E1000E, cpus))?;
    let interface = network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(&mut guest, 50, 0.05, E1000E_PEER)?;
    if interrupts(&mut guest, &["MSI", &interface])? == 0 {
        return fail(format!(
            "e1000e: no message-signalled interrupt counted:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    expect_success(guest.power_off()?)
}

fn two_vfs(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = GuestSpec {
        assign: VIRTUAL_FUNCTIONS.to_vec(),
        ..GuestSpec::new(cpus)
    };
    let mut guest = rig.boot(&spec)?;
    ping_over_vf(&mut guest)?;
    let interfaces = guest.sh("ls -d /sys/bus/pci/drivers/igbvf/*:*:*")?;
    if interfaces.lines().count() != 2 {
        return fail(format!("igbvf drives {interfaces}, not two functions"));
    }
    expect_success(guest.power_off()?)
}

fn again_after_power_off(rig: &mut Rig, cpus: u32) -> Result<()> {
    for _ in 0..2 {
        let mut guest = rig.boot(&owning(VIRTUAL_FUNCTIONS[0], cpus))?;
        ping_over_vf(&mut guest)?;
        expect_success(guest.power_off()?)?;
    }
    Ok(())
}

/// Killed with packets in flight: the device must not go on writing to memory that is no longer the guest's.
fn again_after_kill(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning(VIRTUAL_FUNCTIONS[0], cpus))?;
    ping_over_vf(&mut guest)?;
    guest.type_command(&format!("ping -q -i 0.001 -s 1400 {PF_ADDRESS}"))?;
    std::thread::sleep(Duration::from_millis(500));
    guest.kill()?;
    let mut guest = rig.boot(&owning(VIRTUAL_FUNCTIONS[0], cpus))?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn ping_over_vf(guest: &mut Guest) -> Result<()> {
    network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    interface_of(guest, "igbvf")?;
    ping_all(guest, 10, 0.05, PF_ADDRESS).map(drop)
}
