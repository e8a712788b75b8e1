//! Interrupts of assigned devices go to the processor that the guest chooses.

use super::Check;
use super::interrupts::nobody_complains;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{
    E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, PF_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "affinity-moves-msix-vectors",
        cpus: &[4],
        limit: 180,
        fixture: None,
        run: affinity_of_msix,
    },
    Check {
        name: "affinity-moves-the-pin",
        cpus: &[4],
        limit: 180,
        fixture: None,
        run: affinity_of_intx,
    },
];

/// Of the guest's own timers and the driver's watchdog something may still come to the processor before.
const STRAY: u64 = 2;

fn affinity_of_msix(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus))?;
    let interface = network_up(&mut guest, "igbvf", VF_GUEST_ADDRESS)?;
    // Its vector for what is received; sending has another.
    let number = number_of(&mut guest, &format!("PCI-MSIX.*{interface}-rx"))?;
    follow_affinity(&mut guest, &number, cpus, PF_ADDRESS)?;
    nobody_complains(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn affinity_of_intx(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&owning_e1000e(cpus))?;
    let interface = network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    let number = number_of(&mut guest, &format!("IO-APIC.*{interface}"))?;
    follow_affinity(&mut guest, &number, cpus, E1000E_PEER)?;
    nobody_complains(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Sends the interrupt to each processor, there and back, and looks which one counts it.
fn follow_affinity(guest: &mut Guest, number: &str, cpus: u32, peer: &str) -> Result<()> {
    const PINGS: u32 = 20;
    for wanted in (0..cpus).chain((0..cpus).rev()) {
        guest.sh(&format!(
            "echo {wanted} >/proc/irq/{number}/smp_affinity_list"
        ))?;
        // What was on its way when the vector moved still goes where it was sent.
        ping_all(guest, 2, 0.05, peer)?;
        let before = by_processor(guest, number)?;
        ping_all(guest, PINGS, 0.05, peer)?;
        let after = by_processor(guest, number)?;
        let taken: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let astray = taken.iter().enumerate();
        let astray = astray
            .filter(|(cpu, _)| *cpu != wanted as usize)
            .map(|(_, count)| count)
            .sum::<u64>();
        let right = taken.get(wanted as usize).copied().unwrap_or(0);
        if right < u64::from(PINGS) / 2 || astray > STRAY {
            return fail(format!(
                "interrupt {number} was sent to CPU {wanted}, and {PINGS} pings came as {taken:?}:\n{}",
                guest.sh("cat /proc/interrupts")?
            ));
        }
    }
    Ok(())
}

fn owning_e1000e(cpus: u32) -> GuestSpec {
    GuestSpec {
        extra_cmdline: "pci=nomsi",
        ..GuestSpec::owning(&[E1000E], cpus)
    }
}

/// The number of the interrupt whose line in `/proc/interrupts` has this pattern.
fn number_of(guest: &mut Guest, pattern: &str) -> Result<String> {
    let number = guest.sh(&format!(
        "sed -n '/{pattern}/{{s/^ *\\([0-9]*\\):.*/\\1/p;q}}' /proc/interrupts"
    ))?;
    if number.trim().parse::<u32>().is_err() {
        return fail(format!(
            "no interrupt is {pattern}:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(number.trim().to_owned())
}

/// How often each processor has taken the interrupt.
fn by_processor(guest: &mut Guest, number: &str) -> Result<Vec<u64>> {
    let line = guest.sh(&format!("grep '^ *{number}:' /proc/interrupts"))?;
    Ok(line
        .split_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok())
        .collect())
}
