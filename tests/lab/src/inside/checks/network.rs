//! The emulated NIC on a TAP and on the unprivileged network, and the virtual function's packets.

use super::{Check, ONE_AND_FOUR};
use crate::error::{Context, Result, fail};
use crate::inside::guest::Guest;
use crate::inside::linux::{interrupts, network_up, ping_all, sha256_in_guest};
use crate::inside::media::{random_bytes, sha256};
use crate::inside::rig::{FORWARD_GUEST_PORT, FORWARD_HOST_PORT, Fixture, Rig};
use crate::inside::transfer;
use crate::topology::{
    PF_ADDRESS, TAP_ADDRESS, TAP_GUEST_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTION_MACS,
};
use std::io::Write;
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "vf-answers-50-pings-by-msix",
        cpus: ONE_AND_FOUR,
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: vf_pings,
    },
    Check {
        name: "e1000-answers-50-pings",
        cpus: ONE_AND_FOUR,
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: e1000_pings,
    },
    Check {
        name: "e1000-carries-20-mb-each-way",
        cpus: ONE_AND_FOUR,
        limit: 300,
        fixture: Some(Fixture::Everything),
        run: e1000_transfer,
    },
    Check {
        name: "dhcp-through-user-network",
        cpus: ONE_AND_FOUR,
        limit: 90,
        fixture: Some(Fixture::UserNetwork),
        run: dhcp,
    },
    Check {
        name: "user-network-carries-20-mb-each-way",
        cpus: ONE_AND_FOUR,
        limit: 300,
        fixture: Some(Fixture::UserNetwork),
        run: user_transfer,
    },
    Check {
        name: "user-network-forwards-a-port",
        cpus: &[1],
        limit: 90,
        fixture: Some(Fixture::UserNetwork),
        run: forward,
    },
];

const PINGS: u32 = 50;
const TRANSFER_BYTES: usize = 20_000_000;
const TRANSFER_PATIENCE: Duration = Duration::from_secs(120);
const PORT: u16 = 5001;

fn vf_pings(rig: &mut Rig, cpus: u32) -> Result<()> {
    let guest = rig.guest(Fixture::Everything(cpus))?;
    let interface = network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    let mac = guest.sh(&format!("cat /sys/class/net/{interface}/address"))?;
    if mac.trim() != VIRTUAL_FUNCTION_MACS[0] {
        return fail(format!(
            "the VF's MAC address is {} in the guest, not {}",
            mac.trim(),
            VIRTUAL_FUNCTION_MACS[0]
        ));
    }
    let before = interrupts(guest, &["MSI", &interface])?;
    ping_all(guest, PINGS, 0.05, PF_ADDRESS)?;
    let taken = interrupts(guest, &["MSI", &interface])? - before;
    if taken < u64::from(PINGS) {
        return fail(format!(
            "{PINGS} pings raised only {taken} MSI-X interrupts:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(())
}

fn e1000_pings(rig: &mut Rig, cpus: u32) -> Result<()> {
    let guest = rig.guest(Fixture::Everything(cpus))?;
    let interface = network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    ping_all(guest, PINGS, 0.05, TAP_ADDRESS)?;
    if interrupts(guest, &[&interface])? == 0 {
        return fail(format!(
            "no interrupt counted for {interface}:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(())
}

fn e1000_transfer(rig: &mut Rig, cpus: u32) -> Result<()> {
    let payload = rig.file("payload");
    let guest = rig.guest(Fixture::Everything(cpus))?;
    network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    both_ways(guest, TAP_ADDRESS, TAP_ADDRESS, &payload)
}

fn dhcp(rig: &mut Rig, cpus: u32) -> Result<()> {
    lease(rig.guest(Fixture::UserNetwork(cpus))?).map(drop)
}

/// Takes a lease and gives the router's address.
fn lease(guest: &mut Guest) -> Result<String> {
    guest.sh("modprobe e1000")?;
    let interface = crate::inside::linux::interface_of(guest, "e1000")?;
    guest.sh(&format!("ip link set {interface} up"))?;
    let said = guest.sh(&format!(
        "udhcpc -i {interface} -f -q -n -t 10 -T 1 -s /bin/dhcp 2>&1"
    ))?;
    let router = said.lines().find_map(|line| {
        line.strip_prefix("lease ")?
            .split_whitespace()
            .skip_while(|word| *word != "router")
            .nth(1)
    });
    match router {
        Some(router) => Ok(router.to_owned()),
        None => fail(format!("no lease with a router: {said}")),
    }
}

fn user_transfer(rig: &mut Rig, cpus: u32) -> Result<()> {
    let payload = rig.file("payload");
    let guest = rig.guest(Fixture::UserNetwork(cpus))?;
    // The router's address stands for the host's own loopback.
    let router = lease(guest)?;
    both_ways(guest, &router, "127.0.0.1", &payload)
}

/// Sends random bytes into the guest and has it send them back.
fn both_ways(
    guest: &mut Guest,
    address_in_guest: &str,
    address_in_host: &str,
    payload: &std::path::Path,
) -> Result<()> {
    let bytes = random_bytes(TRANSFER_BYTES)?;
    std::fs::write(payload, &bytes).path(payload)?;
    let listening = format!("{address_in_host}:{PORT}");

    let offered = transfer::offer(&listening, bytes.clone())?;
    // From a pipe nobody writes to: at the end of its input nc closes its half of the connection, and a transfer
    // through the user network then stalls (whether passt's doing or ours is not known yet).
    guest.sh("[ -p /tmp/quiet ] || mkfifo /tmp/quiet")?;
    let receive = format!("nc -w 20 {address_in_guest} {PORT} <>/tmp/quiet >/tmp/payload");
    guest.sh_within(&receive, TRANSFER_PATIENCE)?;
    offered.finish()?;
    let (sent, arrived) = (sha256(payload)?, sha256_in_guest(guest, "/tmp/payload")?);
    if sent != arrived {
        return fail(format!(
            "into the guest: sent {sent}, arrived {arrived} ({})",
            guest.sh("ls -l /tmp/payload")?.trim()
        ));
    }

    // Not by nc, which sends a KiB at a time.
    let collected = transfer::collect(&listening, bytes.len())?;
    guest.sh_within(
        &format!("lab agent tcp-send-file {address_in_guest}:{PORT} /tmp/payload"),
        TRANSFER_PATIENCE,
    )?;
    let back = collected.finish()?;
    guest.sh("rm /tmp/payload")?;
    if back != bytes {
        return fail(format!(
            "out of the guest: {} of {} bytes arrived, or others",
            back.len(),
            bytes.len()
        ));
    }
    Ok(())
}

fn forward(rig: &mut Rig, cpus: u32) -> Result<()> {
    let guest = rig.guest(Fixture::UserNetwork(cpus))?;
    lease(guest)?;
    guest.sh(&format!(
        "nc -l -p {FORWARD_GUEST_PORT} >/tmp/forwarded 2>&1 & sleep 0.5"
    ))?;
    let mut stream = transfer::connect(
        &format!("127.0.0.1:{FORWARD_HOST_PORT}"),
        Duration::from_secs(10),
    )?;
    stream
        .write_all(b"through the port\n")
        .context("sending through the forwarded port")?;
    drop(stream);
    guest.sh("n=0; until grep -q 'through the port' /tmp/forwarded; do n=$((n+1)); [ $n -lt 50 ] || break; sleep 0.1; done; grep -q 'through the port' /tmp/forwarded").map(drop)
}
