//! Functions of one device assigned together, and how devices are reset.

use super::Check;
use crate::error::{Error, Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{network_up, ping_all, wait_for_block_device};
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::vmm::GuestSpec;
use crate::topology::{E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, NVME, TWINS};

pub const CHECKS: &[Check] = &[
    Check {
        name: "functions-of-one-device-stay-together",
        cpus: &[2],
        limit: 240,
        fixture: None,
        run: twins_together,
    },
    Check {
        name: "bus-reset-and-reboot",
        cpus: &[2],
        limit: 240,
        fixture: None,
        run: bus_reset_and_reboot,
    },
    Check {
        name: "secondary-bus-reset-by-the-guest",
        cpus: &[1],
        limit: 180,
        fixture: None,
        run: secondary_bus_reset,
    },
];

const BUS_RESET: &str = "reset: a reset of its bus";

/// Whether this host's kernel gets a reset of a bus done: of one with an 82574L alone on it. QEMU's ports do not always
/// tell that the link is back, and then the kernel says that it failed.
fn host_resets_buses() -> Result<bool> {
    let attribute = |name| sysfs::device(E1000E).join(name);
    sysfs::write(attribute("reset_method"), "bus")?;
    let done = sysfs::write(attribute("reset"), "1").is_ok();
    sysfs::write(attribute("reset_method"), "default")?;
    Ok(done)
}

fn only_where_buses_are_reset() -> Result<()> {
    if host_resets_buses()? {
        return Ok(());
    }
    Err(Error::Skipped(
        "this host's kernel gets no reset of a bus done".into(),
    ))
}

/// How often the monitor has told of this reset of this device.
fn resets(guest: &Guest, address: &str, what: &str) -> usize {
    let log = guest.complaints();
    let tells = |line: &&str| line.contains(address) && line.contains(what);
    log.lines()
        .filter(|line| line.contains("reset: "))
        .filter(tells)
        .count()
}

fn expect_resets(guest: &Guest, address: &str, what: &str, least: usize) -> Result<()> {
    let found = resets(guest, address, what);
    if found >= least {
        return Ok(());
    }
    let log = guest.complaints();
    fail(format!(
        "{address}: {found} times \"{what}\", not {least} times, in the log: {log}"
    ))
}

/// Where the guest has its 82574Ls.
fn addresses(guest: &mut Guest) -> Result<Vec<String>> {
    let listed = guest.sh("lspci -Dn -d 8086:10d3")?;
    let address = |line: &str| line.split_whitespace().next().map(str::to_owned);
    Ok(listed.lines().filter_map(address).collect())
}

/// The first 82574L reaches its wire.
fn reaches_wire(guest: &mut Guest) -> Result<()> {
    network_up(guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(guest, 10, 0.05, E1000E_PEER).map(drop)
}

fn reads_flash(guest: &mut Guest) -> Result<()> {
    guest.sh("modprobe nvme")?;
    wait_for_block_device(guest, "nvme0n1")?;
    let read = "dd if=/dev/nvme0n1 of=/dev/null bs=64k count=16 iflag=direct 2>&1";
    guest.sh(read).map(drop)
}

fn start_over(guest: &mut Guest) -> Result<()> {
    guest.type_command("reboot -f")?;
    guest.wait_ready()
}

/// Both functions are of one device, and neither can be reset but by power management or with the other.
pub(super) fn twins_together(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let host_resets = host_resets_buses()?;
    for address in TWINS {
        sysfs::bind(address, "vfio-pci")?;
    }
    let mut guest = rig.boot(&GuestSpec {
        assign: TWINS.to_vec(),
        ..GuestSpec::new(cpus)
    })?;
    let found = addresses(&mut guest)?;
    let [first, second] = &found[..] else {
        return fail(format!("the guest has {found:?}, not two 82574Ls"));
    };
    let slot = |address: &str| address.rsplit_once('.').map(|(slot, _)| slot.to_owned());
    if slot(first) != slot(second) || !first.ends_with(".0") {
        return fail(format!(
            "{first} and {second} are not functions of one device"
        ));
    }
    reaches_wire(&mut guest)?;
    start_over(&mut guest)?;
    reaches_wire(&mut guest)?;
    if host_resets {
        let with = |other| format!("{BUS_RESET}, with {other}");
        expect_resets(&guest, TWINS[0], &with(TWINS[1]), 1)?;
        // With the machine the last one is reset for both.
        expect_resets(&guest, TWINS[1], &with(TWINS[0]), 2)?;
    }
    expect_success(guest.power_off()?)
}

/// Neither device has a reset of its own that the host would use.
fn bus_reset_and_reboot(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    only_where_buses_are_reset()?;
    let method = sysfs::device(NVME).join("reset_method");
    sysfs::write(&method, "bus")?;
    let outcome = reboots_with_bus_resets(rig, cpus);
    rig.stop();
    sysfs::write(&method, "default")?;
    outcome
}

fn reboots_with_bus_resets(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec {
        assign: vec![NVME, E1000E],
        ..GuestSpec::new(cpus)
    })?;
    for round in 1..=3 {
        for address in [NVME, E1000E] {
            expect_resets(&guest, address, BUS_RESET, round)?;
        }
        reads_flash(&mut guest)?;
        reaches_wire(&mut guest)?;
        if round < 3 {
            start_over(&mut guest)?;
        }
    }
    expect_success(guest.power_off()?)
}

/// What Linux in the guest calls a reset of the bus is Secondary Bus Reset of the root port above.
fn secondary_bus_reset(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mut guest = rig.boot(&GuestSpec {
        assign: vec![E1000E],
        ..GuestSpec::new(cpus)
    })?;
    let found = addresses(&mut guest)?;
    let [address] = &found[..] else {
        return fail(format!("the guest has {found:?}, not one 82574L"));
    };
    reaches_wire(&mut guest)?;
    let before = resets(&guest, E1000E, "reset: ");
    let device = format!("/sys/bus/pci/devices/{address}");
    guest.sh(&format!(
        "rmmod e1000e; cd {device}; echo bus > reset_method && echo 1 > reset"
    ))?;
    expect_resets(&guest, E1000E, "reset: ", before + 1)?;
    reaches_wire(&mut guest)?;
    expect_success(guest.power_off()?)
}
