//! Devices that the guest puts to sleep (D3hot) and wakes.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{
    copy_through_block_device, network_up, ping_all, wait_for_block_device,
};
use crate::inside::rig::Rig;
use crate::inside::vmm::{GuestSpec, Network};
use crate::topology::{
    E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, NVME, PF_ADDRESS, TAP, TAP_ADDRESS,
    TAP_GUEST_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS,
};
use std::time::Duration;

pub const CHECKS: &[Check] = &[Check {
    name: "devices-sleep-and-wake",
    cpus: &[2],
    limit: 300,
    fixture: None,
    run: sleep,
}];

/// The kernel waits five seconds before it wakes what it has put to sleep.
const PATIENCE: Duration = Duration::from_secs(90);
const TIMES: u32 = 2;

/// All devices go to sleep, as for suspend to idle, but for the processors (Documentation/power/basic-pm-debugging).
fn sleep(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mut guest = rig.boot(&GuestSpec {
        network: Some(Network::Tap(TAP)),
        ..GuestSpec::owning(&[VIRTUAL_FUNCTIONS[0], E1000E, NVME], cpus)
    })?;
    guest.sh("modprobe nvme")?;
    wait_for_block_device(&mut guest, "nvme0n1")?;
    for (driver, address) in [
        ("igbvf", VF_GUEST_ADDRESS),
        ("e1000e", E1000E_GUEST_ADDRESS),
        ("e1000", TAP_GUEST_ADDRESS),
    ] {
        network_up(&mut guest, driver, address)?;
    }
    use_all(&mut guest)?;
    guest.sh("mount -t debugfs debugfs /sys/kernel/debug; \
         echo 'func pci_pm_suspend_noirq +p' >/sys/kernel/debug/dynamic_debug/control && \
         echo platform >/sys/power/pm_test")?;
    for _ in 0..TIMES {
        guest.sh_within(
            "dmesg -c >/dev/null; echo freeze >/sys/power/state",
            PATIENCE,
        )?;
        asleep(&mut guest, "e1000e")?;
        asleep(&mut guest, "nvme")?;
        use_all(&mut guest)?;
    }
    expect_success(guest.power_off()?)
}

/// The driver's device was in D3hot.
fn asleep(guest: &mut Guest, driver: &str) -> Result<()> {
    let said = guest.sh("dmesg")?;
    let was =
        |line: &str| line.contains(&format!("{driver} 0000:")) && line.contains("state: D3hot");
    if said.lines().any(was) {
        return Ok(());
    }
    fail(format!("{driver}'s device did not sleep: {said}"))
}

fn use_all(guest: &mut Guest) -> Result<()> {
    for peer in [PF_ADDRESS, E1000E_PEER, TAP_ADDRESS] {
        // A link takes its time to come up again.
        guest.sh(&format!(
            "n=0; until ping -q -c 1 -W 1 {peer} >/dev/null; do n=$((n+1)); [ $n -lt 20 ] || break; done"
        ))?;
        ping_all(guest, 10, 0.05, peer)?;
    }
    copy_through_block_device(guest, "nvme0n1")
}
