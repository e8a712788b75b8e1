//! Interrupts by the pin in numbers: the wire does not get stuck, with one device on it or two.

use super::Check;
use super::interrupts::nobody_complains;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::host;
use crate::inside::linux::{interface_up, interrupts, network_up, parse_pings, ping_all};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{
    E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, TWIN_GUEST_ADDRESSES, TWIN_PEERS, TWINS,
};
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "intx-comes-10000-times-under-load",
        cpus: &[2],
        limit: 400,
        fixture: None,
        run: intx_under_load,
    },
    Check {
        name: "intx-shared-by-two-devices",
        cpus: &[2],
        limit: 240,
        fixture: None,
        run: |rig, cpus| with_twins(|| shared_intx(rig, cpus)),
    },
];

/// Small and large packets at once, until there have been as many interrupts.
fn intx_under_load(rig: &mut Rig, cpus: u32) -> Result<()> {
    const WANTED: u64 = 10_000;
    const ROUNDS: usize = 40;
    let mut guest = rig.boot(&owning_e1000e(cpus))?;
    let interface = network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    let words = ["IO-APIC", &interface];
    let before = interrupts(&mut guest, &words)?;
    let mut taken = 0;
    for _ in 0..ROUNDS {
        answered(
            &mut guest,
            &[(E1000E_PEER, 56, 1000), (E1000E_PEER, 1400, 1000)],
        )?;
        taken = interrupts(&mut guest, &words)? - before;
        if taken >= WANTED {
            break;
        }
    }
    if taken < WANTED {
        return fail(format!("only {taken} interrupts"));
    }
    still_works(&mut guest, &words, E1000E_PEER)?;
    expect_success(guest.power_off()?)
}

/// Two functions on one wire, both at work; then one of them goes, and the other has the wire for itself.
fn shared_intx(rig: &mut Rig, cpus: u32) -> Result<()> {
    const ROUNDS: u32 = 3;
    let mut guest = rig.boot(&GuestSpec {
        assign: TWINS.to_vec(),
        extra_cmdline: "pci=nomsi",
        ..GuestSpec::new(cpus)
    })?;
    guest.sh("modprobe e1000e")?;
    let found = guest.sh("ls -d /sys/bus/pci/drivers/e1000e/*/net/*")?;
    let names: Vec<&str> = found
        .lines()
        .filter_map(|it| it.rsplit('/').next())
        .collect();
    let &[first, second] = &names[..] else {
        return fail(format!("not two interfaces: {found}"));
    };
    let both = [first, second];
    for (interface, address) in both.iter().zip(TWIN_GUEST_ADDRESSES) {
        interface_up(&mut guest, interface, address)?;
    }
    let of_both = |size| [(TWIN_PEERS[0], 56, 500), (TWIN_PEERS[1], size, 500)];
    let before = interrupts(&mut guest, &both)?;
    for _ in 0..ROUNDS {
        answered(&mut guest, &of_both(1400))?;
    }
    if interrupts(&mut guest, &both)? - before < 1000 {
        return fail(format!(
            "{first} and {second} do not share an interrupt, or it did not come:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    guest.sh(&format!("ip link set {first} down"))?;
    still_works(&mut guest, &["IO-APIC", second], TWIN_PEERS[1])?;
    interface_up(&mut guest, first, TWIN_GUEST_ADDRESSES[0])?;
    answered(&mut guest, &of_both(56))?;
    still_works(&mut guest, &both, TWIN_PEERS[0])?;
    expect_success(guest.power_off()?)
}

fn owning_e1000e(cpus: u32) -> GuestSpec {
    GuestSpec {
        extra_cmdline: "pci=nomsi",
        ..GuestSpec::owning(&[E1000E], cpus)
    }
}

/// Lets the work have both functions, bound to vfio-pci.
fn with_twins(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let [first, second] = TWINS;
    host::with_device(first, || host::with_device(second, work))
}

/// Pings, all at once: to whom, bytes in each, how many. Who answers them is QEMU's user network, which drops what
/// comes too fast: that many are answered shows load, and that one is, after it, an interrupt that still comes. That
/// not a single one is lost is shown with mtty, where bytes can be counted.
fn answered(guest: &mut Guest, pings: &[(&str, u32, u32)]) -> Result<()> {
    let mut line = String::new();
    for (number, (peer, size, count)) in pings.iter().enumerate() {
        line += &format!(
            "ping -q -c {count} -i 0.002 -W 3 -s {size} {peer} >/tmp/pings{number} 2>&1 & "
        );
    }
    guest.sh_within(&format!("{line}wait"), Duration::from_secs(120))?;
    for (number, (peer, size, count)) in pings.iter().enumerate() {
        let said = guest.sh(&format!("cat /tmp/pings{number}"))?;
        let received = parse_pings(&said).map_or(0, |pings| pings.received);
        if received < count / 2 {
            return fail(format!("pings of {size} bytes to {peer}: {said}"));
        }
    }
    Ok(())
}

/// After a while of rest the interrupt comes as before.
fn still_works(guest: &mut Guest, words: &[&str], peer: &str) -> Result<()> {
    const PINGS: u32 = 20;
    guest.sh("sleep 1")?;
    let before = interrupts(guest, words)?;
    ping_all(guest, PINGS, 0.05, peer)?;
    if interrupts(guest, words)? - before < u64::from(PINGS) / 2 {
        return fail(format!(
            "pings are answered without interrupts of {words:?}:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    nobody_complains(guest)
}
