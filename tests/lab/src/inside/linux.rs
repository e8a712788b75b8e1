//! Things every test asks of the Linux in the guest, and reading its answers.

use super::guest::Guest;
use crate::error::{Error, Result, fail};
use std::time::Duration;

/// What `ping` reports at its end.
#[derive(Debug, PartialEq)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Replies that came back.
    pub received: u32,
    /// Mean round trip in milliseconds.
    pub mean_ms: f64,
}

/// The first interface a driver has made.
pub fn interface_of(guest: &mut Guest, driver: &str) -> Result<String> {
    let found = guest
        .sh("for link in /sys/class/net/*/device/driver; do echo $link $(readlink $link); done")?;
    found
        .lines()
        .filter(|line| line.ends_with(&format!("/{driver}")))
        .find_map(|line| line.strip_prefix("/sys/class/net/")?.split('/').next())
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::Other(format!(
                "in the guest no interface belongs to {driver}; there is: {found}"
            ))
        })
}

/// Loads a NIC's driver, gives its interface an address and brings it up.
pub fn network_up(guest: &mut Guest, driver: &str, address: &str) -> Result<String> {
    guest.sh(&format!("modprobe {driver}"))?;
    let interface = interface_of(guest, driver)?;
    interface_up(guest, &interface, address)?;
    Ok(interface)
}

/// Gives an interface an address, brings it up and waits for its carrier.
pub fn interface_up(guest: &mut Guest, interface: &str, address: &str) -> Result<()> {
    guest.sh(&format!("ip addr flush dev {interface}; ip addr add {address}/24 dev {interface} && ip link set {interface} up"))?;
    let carrier = format!(
        "n=0; until [ \"$(cat /sys/class/net/{interface}/carrier)\" = 1 ]; do n=$((n+1)); [ $n -lt 100 ] || break; sleep 0.1; done; [ $n -lt 100 ]"
    );
    guest.sh(&carrier).map(drop)
}

/// Takes all its devices from a driver, which must be loaded, and gives them back.
pub fn rebind(guest: &mut Guest, driver: &str) -> Result<()> {
    guest.sh(&format!(
        "cd /sys/bus/pci/drivers/{driver} && for device in 0000:*; do echo $device >unbind && [ ! -e $device ] && echo $device >bind || break; done; [ -e $device ] && cd /"
    )).map(drop)
}

/// Pings until `count` requests have been sent; all must be answered.
pub fn ping_all(guest: &mut Guest, count: u32, interval: f32, to: &str) -> Result<Pings> {
    let command = format!("ping -q -c {count} -i {interval} -W 3 {to}");
    let answer = guest.ask(&command, Duration::from_secs(30 + u64::from(count)))?;
    match parse_pings(&answer.output) {
        Some(pings) if pings.sent == count && pings.received == count => Ok(pings),
        _ => fail(format!("`{command}`: {}", answer.output.trim())),
    }
}

/// Interrupts the guest has taken so far on lines of `/proc/interrupts` that hold all the words.
pub fn interrupts(guest: &mut Guest, words: &[&str]) -> Result<u64> {
    Ok(count_interrupts(&guest.sh("cat /proc/interrupts")?, words))
}

/// Loads the drivers of the IDE devices and waits for them.
pub fn ide_up(guest: &mut Guest) -> Result<()> {
    guest.sh("modprobe -a ata_piix sd_mod sr_mod ext4 isofs")?;
    wait_for_block_device(guest, "sda")
}

/// Waits for a block device to show up.
pub fn wait_for_block_device(guest: &mut Guest, name: &str) -> Result<()> {
    guest.sh(&format!("n=0; until [ -b /dev/{name} ]; do n=$((n+1)); [ $n -lt 150 ] || break; sleep 0.1; done; [ -b /dev/{name} ]")).map(drop)
}

/// Writes 8 MiB of random bytes to the start of a block device, past the page cache, and reads them back.
pub fn copy_through_block_device(guest: &mut Guest, name: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(90);
    guest.sh("dd if=/dev/urandom of=/tmp/given bs=64k count=128 2>&1")?;
    let given = sha256_in_guest(guest, "/tmp/given")?;
    guest.sh_within(
        &format!("dd if=/tmp/given of=/dev/{name} bs=64k oflag=direct 2>&1 && sync"),
        PATIENCE,
    )?;
    guest.sh_within(
        &format!("dd if=/dev/{name} of=/tmp/taken bs=64k count=128 iflag=direct 2>&1"),
        PATIENCE,
    )?;
    let taken = sha256_in_guest(guest, "/tmp/taken")?;
    if given == taken {
        Ok(())
    } else {
        fail(format!("{name}: wrote {given}, read {taken}"))
    }
}

/// The SHA-256 of a file in the guest.
pub fn sha256_in_guest(guest: &mut Guest, file: &str) -> Result<String> {
    let said = guest.sh_within(&format!("sha256sum {file}"), Duration::from_secs(90))?;
    super::media::first_word(&said).ok_or_else(|| Error::Other(format!("no checksum of {file}")))
}

/// What `ping` has said at its end.
pub fn parse_pings(said: &str) -> Option<Pings> {
    let counts = said
        .lines()
        .find(|line| line.contains("packets transmitted"))?;
    let mut numbers = counts
        .split(", ")
        .filter_map(|part| part.split_whitespace().next()?.parse().ok());
    let (sent, received) = (numbers.next()?, numbers.next()?);
    let mean_ms = said
        .lines()
        .find_map(|line| {
            line.split_once("min/avg/max")?
                .1
                .split_once("= ")?
                .1
                .split('/')
                .nth(1)?
                .parse()
                .ok()
        })
        .unwrap_or(f64::NAN);
    Some(Pings {
        sent,
        received,
        mean_ms,
    })
}

fn count_interrupts(table: &str, words: &[&str]) -> u64 {
    let processors = table
        .lines()
        .next()
        .map_or(0, |heading| heading.split_whitespace().count());
    table
        .lines()
        .skip(1)
        .filter(|line| words.iter().all(|word| line.contains(word)))
        .flat_map(|line| line.split_whitespace().skip(1).take(processors))
        .filter_map(|count| count.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_counted() {
        let said = "PING 10.10.0.1 (10.10.0.1): 56 data bytes\n\n--- 10.10.0.1 ping statistics ---\n\
                    50 packets transmitted, 49 packets received, 2% packet loss\nround-trip min/avg/max = 2.013/6.114/19.508 ms";
        assert_eq!(
            parse_pings(said),
            Some(Pings {
                sent: 50,
                received: 49,
                mean_ms: 6.114
            })
        );
        assert_eq!(parse_pings("ping: bad address"), None);
    }

    #[test]
    fn interrupts_are_summed_over_processors_and_lines() {
        let table = "           CPU0       CPU1\n 24:   27   3  PCI-MSIX-0000:00:01.0   0-edge      eth0-tx-0\n\
                      25:   37   0  PCI-MSIX-0000:00:01.0   1-edge      eth0-rx-0\n 26:  5  5  IO-APIC 11-fasteoi eth1\n";
        assert_eq!(count_interrupts(table, &["MSIX", "eth0"]), 67);
        assert_eq!(count_interrupts(table, &["eth1"]), 10);
    }
}
