//! Interrupts of assigned devices: by the pin, and moves between the kinds.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{interrupts, network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER};

pub const CHECKS: &[Check] = &[
    Check {
        name: "intx-through-the-8259-pair",
        cpus: &[1],
        limit: 120,
        fixture: None,
        run: pic,
    },
    Check {
        name: "interrupt-kinds-change-in-one-guest",
        cpus: &[2],
        limit: 180,
        fixture: None,
        run: kinds,
    },
];

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

/// What `/proc/interrupts` calls the kinds that e1000e's `IntMode` asks for.
const KINDS: [&str; 3] = ["IO-APIC", "PCI-MSI-", "PCI-MSIX-"];

fn kinds(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning_e1000e(cpus, ""))?;
    for mode in [2, 0, 2, 0, 0, 2] {
        let interface = load_with(&mut guest, mode)?;
        let before = interrupts(&mut guest, &[KINDS[mode], &interface])?;
        ping_all(&mut guest, 20, 0.02, E1000E_PEER)?;
        let taken = interrupts(&mut guest, &[KINDS[mode], &interface])? - before;
        if taken < 10 {
            return fail(format!(
                "with IntMode={mode} only {taken} interrupts by {}:\n{}",
                KINDS[mode],
                guest.sh("cat /proc/interrupts")?
            ));
        }
    }
    nobody_complains(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Loads e1000e anew with an `IntMode`: 0 is the pin, 2 MSI-X. With 1 the driver gives up MSI on QEMU's 82574L also
/// on the host itself, as the interrupt that it tries MSI with does not come.
fn load_with(guest: &mut Guest, mode: usize) -> Result<String> {
    guest.sh(&format!(
        "rmmod e1000e 2>/dev/null; modprobe e1000e IntMode={mode}"
    ))?;
    network_up(guest, "e1000e", E1000E_GUEST_ADDRESS)
}

/// Linux turns off an interrupt that nobody handles, and a driver complains of one that does not come.
pub(super) fn nobody_complains(guest: &mut Guest) -> Result<()> {
    let log = guest.sh("dmesg")?;
    let complaint = log
        .lines()
        .find(|line| line.contains("nobody cared") || line.contains("NETDEV WATCHDOG"));
    match complaint {
        Some(line) => fail(format!("the guest complains: {line}")),
        None => Ok(()),
    }
}
