//! Interrupts of assigned devices.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{interrupts, network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER};

pub const CHECKS: &[Check] = &[Check {
    name: "intx-through-the-8259-pair",
    cpus: &[1],
    limit: 120,
    fixture: None,
    run: pic,
}];

fn owning_e1000e(cpus: u32, extra_cmdline: &'static str) -> GuestSpec {
    GuestSpec {
        extra_cmdline,
        assign: vec![E1000E],
        ..GuestSpec::new(cpus)
    }
}

fn pic(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning_e1000e(cpus, "pci=nomsi noapic"))?;
    let interface = network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(&mut guest, 100, 0.01, E1000E_PEER)?;
    if interrupts(&mut guest, &["XT-PIC", &interface])? < 50 {
        return fail(format!(
            "no interrupts through the 8259 pair:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    nobody_complains(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Linux turns off an interrupt that nobody handles, and a driver complains of one that does not come.
fn nobody_complains(guest: &mut Guest) -> Result<()> {
    let log = guest.sh("dmesg")?;
    let complaint = log
        .lines()
        .find(|line| line.contains("nobody cared") || line.contains("NETDEV WATCHDOG"));
    match complaint {
        Some(line) => fail(format!("the guest complains: {line}")),
        None => Ok(()),
    }
}
