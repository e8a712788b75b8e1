//! Figures of a running guest, taken the same way whatever monitor runs it.

use super::guest::Guest;
use super::linux::ping_all;
use super::trace::{ExitCounter, Exits};
use super::transfer;
use crate::error::{Context, Error, Result};
use crate::topology::{TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS};
use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
const PORT: u16 = 5002;
/// What one TCP segment carries on an Ethernet of 1500 bytes.
const SEGMENT: u64 = 1448;
/// How long a guest is left alone to see what it costs.
const IDLE: Duration = Duration::from_secs(4);
const IDLE_SPELLS: u32 = 6;
/// A guest whose network just came up still asks for routers, names and neighbours.
const SETTLING: Duration = Duration::from_secs(24);

/// Something done a number of times, and what it took.
pub struct Cost {
    /// How often (reads, packets, pings).
    pub times: u64,
    /// How long all of it took.
    pub seconds: f64,
    /// Exits to user space meanwhile.
    pub exits: Exits,
    /// How long exits were counted, in seconds.
    pub lasted: f64,
}

impl Cost {
    /// Exits for each, but for the console's.
    pub fn exits_each(&self) -> f64 {
        self.exits.but_console() as f64 / self.times.max(1) as f64
    }

    /// Exits for each, beyond those the guest makes in the same time doing nothing.
    pub fn exits_each_beyond_idle(&self, idle_exits_a_second: f64) -> f64 {
        let idle = idle_exits_a_second * self.lasted;
        (self.exits.but_console() as f64 - idle).max(0.0) / self.times.max(1) as f64
    }

    /// How many in a second.
    pub fn rate(&self) -> f64 {
        self.times as f64 / self.seconds.max(1e-9)
    }
}

fn costing(work: impl FnOnce() -> Result<(u64, Option<f64>)>) -> Result<Cost> {
    let counter = ExitCounter::start()?;
    let before = counter.read()?;
    let start = Instant::now();
    let (times, seconds) = work()?;
    let elapsed = start.elapsed().as_secs_f64();
    Ok(Cost {
        times,
        seconds: seconds.unwrap_or(elapsed),
        exits: counter.read()?.since(&before),
        lasted: elapsed,
    })
}

/// What is done before it is counted: the first times find code that no processor has translated yet.
const REHEARSAL: u64 = 4;

/// Reads from a block device past the page cache, `block` bytes at a time.
pub fn reads(guest: &mut Guest, device: &str, block: &str, count: u64) -> Result<Cost> {
    let mut read = |count: u64| {
        let command =
            format!("dd if=/dev/{device} of=/dev/null bs={block} count={count} iflag=direct 2>&1");
        guest.sh_within(&command, PATIENCE)
    };
    read(count / REHEARSAL)?;
    costing(|| read(count).map(|_| (count, None)))
}

/// Pings, one waiting for the other; the second figure is the mean round trip in milliseconds.
pub fn pings(guest: &mut Guest, count: u32, to: &str) -> Result<(Cost, f64)> {
    let mut round_trip = f64::NAN;
    let cost = costing(|| {
        round_trip = ping_all(guest, count, 0.01, to)?.mean_ms;
        Ok((u64::from(count), None))
    })?;
    Ok((cost, round_trip))
}

/// Small datagrams out of the guest. `interface` is the host's that receives them.
pub fn udp_out(guest: &mut Guest, count: u32, to: &str, interface: &str) -> Result<Cost> {
    let sink = UdpSocket::bind(format!("{to}:{PORT}")).context("a UDP sink")?;
    let mut send = |count: u32| {
        let command = format!("lab agent udp-send {to}:{PORT} {count} 64");
        amount_and_seconds(&guest.sh_within(&command, PATIENCE)?)
    };
    send(count / REHEARSAL as u32)?;
    let before = packets(interface, "rx")?;
    let cost = costing(|| {
        let (_, seconds) = send(count)?;
        Ok((packets(interface, "rx")? - before, Some(seconds)))
    })?;
    drop(sink);
    Ok(cost)
}

/// Small datagrams into the guest, from the host, as fast as the guest keeps up.
pub fn udp_in(guest: &mut Guest, count: u32) -> Result<Cost> {
    costing(|| {
        let command = format!("lab agent udp-receive {TAP_GUEST_ADDRESS}:{PORT}");
        let id = guest.type_command(&command)?;
        std::thread::sleep(Duration::from_millis(500));
        let socket = UdpSocket::bind(format!("{TAP_ADDRESS}:0")).context("a UDP source")?;
        for number in 0..count {
            let _ = socket.send_to(&[0x5a; 64], (TAP_GUEST_ADDRESS, PORT));
            if number % 32 == 31 {
                // A burst at a time: the receive ring is finite.
                std::thread::sleep(Duration::from_millis(4));
            }
        }
        let said = guest.answer(id, &command, PATIENCE)?.output;
        let (received, seconds) = amount_and_seconds(&said)?;
        Ok((received, Some(seconds)))
    })
}

/// TCP out of the guest, counted in segments.
pub fn tcp_out(guest: &mut Guest, bytes: u64) -> Result<Cost> {
    let mut send = |bytes: u64| {
        let amount = usize::try_from(bytes).unwrap_or(usize::MAX);
        let collected = transfer::collect(&format!("{TAP_ADDRESS}:{PORT}"), amount)?;
        let command = format!("lab agent tcp-send {TAP_ADDRESS}:{PORT} {bytes}");
        let sent = segments_and_seconds(&guest.sh_within(&command, PATIENCE)?)?;
        collected.finish()?;
        Ok(sent)
    };
    send(bytes / REHEARSAL)?;
    costing(|| send(bytes))
}

/// TCP into the guest, counted in segments.
pub fn tcp_in(guest: &mut Guest, bytes: u64) -> Result<Cost> {
    let mut receive = |bytes: u64| {
        let amount = usize::try_from(bytes).unwrap_or(usize::MAX);
        let offered = transfer::offer(&format!("{TAP_ADDRESS}:{PORT}"), vec![0x5a; amount])?;
        let command = format!("lab agent tcp-receive {TAP_ADDRESS}:{PORT}");
        let received = segments_and_seconds(&guest.sh_within(&command, PATIENCE)?)?;
        offered.finish()?;
        Ok(received)
    };
    receive(bytes / REHEARSAL)?;
    costing(|| receive(bytes))
}

/// A cost counted in segments, as megabytes a second.
pub fn megabytes_a_second(cost: &Cost) -> f64 {
    cost.rate() * SEGMENT as f64 / 1e6
}

/// What a guest costs that does nothing: exits a second, and milliseconds of processor a second.
///
/// The cheapest of a few spells counts: on an emulated processor whatever else runs can only add.
pub fn idle(guest: &Guest) -> Result<(f64, f64)> {
    // Before the guest settles: counting patches KVM's code, which is then translated anew.
    let counter = ExitCounter::start()?;
    std::thread::sleep(SETTLING);
    let mut cheapest = (f64::INFINITY, f64::INFINITY);
    for _ in 0..IDLE_SPELLS {
        let (processor, exits) = (processor_seconds(guest.pid())?, counter.read()?);
        let start = Instant::now();
        std::thread::sleep(IDLE);
        let seconds = start.elapsed().as_secs_f64();
        let processor = processor_seconds(guest.pid())? - processor;
        let exits = counter.read()?.since(&exits).total();
        cheapest = (
            cheapest.0.min(exits as f64 / seconds),
            cheapest.1.min(processor * 1000.0 / seconds),
        );
    }
    Ok(cheapest)
}

/// MiB of a monitor that are resident and are not the guest's memory.
pub fn resident_mib(guest: &Guest) -> Result<f64> {
    let path = format!("/proc/{}/smaps", guest.pid());
    let maps = fs::read_to_string(&path).context(&path)?;
    Ok(resident_kib_beyond_guest(&maps) as f64 / 1024.0)
}

/// Exact processor time of all threads, guest mode included.
fn processor_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/task");
    let nanoseconds: u64 = fs::read_dir(&path)
        .context(&path)?
        .flatten()
        .filter_map(|task| {
            fs::read_to_string(task.path().join("schedstat"))
                .ok()?
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum();
    Ok(nanoseconds as f64 / 1e9)
}

fn packets(interface: &str, direction: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{interface}/statistics/{direction}_packets");
    let count = fs::read_to_string(&path).context(&path)?;
    count
        .trim()
        .parse()
        .map_err(|_| Error::Other(format!("{path}: {count}")))
}

/// The TAP, as the host's name for the emulated NIC's other end.
pub fn tap() -> &'static str {
    TAP
}

/// What an agent says of a TCP transfer.
fn segments_and_seconds(said: &str) -> Result<(u64, Option<f64>)> {
    let (bytes, seconds) = amount_and_seconds(said)?;
    Ok((bytes / SEGMENT, Some(seconds)))
}

fn amount_and_seconds(said: &str) -> Result<(u64, f64)> {
    let mut words = said.lines().last().unwrap_or_default().split_whitespace();
    let parsed = (
        words.next().and_then(|word| word.parse().ok()),
        words.next().and_then(|word| word.parse().ok()),
    );
    match parsed {
        (Some(amount), Some(seconds)) => Ok((amount, seconds)),
        _ => Err(Error::Other(format!("the agent in the guest said: {said}"))),
    }
}

/// Sums `Rss` over all mappings but the guest's memory, which alone is this large.
fn resident_kib_beyond_guest(maps: &str) -> u64 {
    const GUEST_MEMORY_KIB: u64 = 256 << 10;
    let kib = |line: &str, field: &str| {
        line.strip_prefix(field)?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    };
    let (mut size, mut sum) = (0, 0);
    for line in maps.lines() {
        if let Some(found) = kib(line, "Size:") {
            size = found;
        } else if let Some(resident) = kib(line, "Rss:") {
            sum += if size >= GUEST_MEMORY_KIB {
                0
            } else {
                resident
            };
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_not_counted_as_resident() {
        let maps = "7f00-8f00 rw-p 0 00:00 0\nSize:             524288 kB\nKernelPageSize: 4 kB\nRss:  300000 kB\n\
                    5500-5600 r-xp 0 00:00 0 /bin/x\nSize: 2000 kB\nRss:   1500 kB\nPss: 100 kB\n";
        assert_eq!(resident_kib_beyond_guest(maps), 1500);
    }

    #[test]
    fn an_agent_is_understood_whatever_it_said_before() {
        assert!(
            matches!(amount_and_seconds("noise\n4000 2.5"), Ok((4000, seconds)) if seconds == 2.5)
        );
        assert!(amount_and_seconds("").is_err());
    }
}
