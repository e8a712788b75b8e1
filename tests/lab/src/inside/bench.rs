//! `cargo lab bench`, the inside half: Sluice and QEMU with the same guest, one after the other, side by side.

use super::guest::Guest;
use super::host;
use super::linux::{ide_up, network_up};
use super::measure::{self, megabytes_a_second};
use super::media::Disk;
use super::rig::Rig;
use super::vmm::{GuestSpec, Network, Vmm};
use crate::error::Result;
use crate::events::{Event, say};
use crate::topology::{
    PF_ADDRESS, TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS,
};

/// One line of the table: what, and how to say the figure.
pub(super) type Figure = (&'static str, String);

/// Measures each monitor and tells the table.
pub fn run(vmms: &[Vmm]) -> Result<()> {
    host::set_up()?;
    let mut table = Table::default();
    for vmm in vmms {
        table.column(vmm.name().to_owned(), measure_one(*vmm)?);
    }
    table.tell();
    Ok(())
}

/// Figures side by side.
#[derive(Default)]
pub(super) struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The next column; all have the same figures.
    pub fn column(&mut self, heading: String, figures: Vec<Figure>) {
        self.heading.push(heading);
        for (row, (what, figure)) in figures.into_iter().enumerate() {
            if self.rows.len() <= row {
                self.rows.push(vec![what.to_owned()]);
            }
            self.rows[row].push(figure);
        }
    }

    /// Shows it.
    pub fn tell(self) {
        let mut heading = vec![String::new()];
        heading.extend(self.heading);
        let rows = [vec![heading], self.rows].concat();
        Event::Table { rows }.tell();
    }
}

fn measure_one(vmm: Vmm) -> Result<Vec<Figure>> {
    let rig = Rig::new(vmm)?;
    say(format!("{}: starting the guest", vmm.name()));
    let spec = GuestSpec {
        disk: Some(Disk {
            read_only: false,
            ..Disk::random(rig.file("bench.img"), 64 << 20)?
        }),
        network: Some(Network::Tap(TAP)),
        assign: vec![VIRTUAL_FUNCTIONS[0]],
        ..GuestSpec::new(1)
    };
    let mut guest = Guest::boot(vmm, &spec)?;
    let mut figures = vec![(
        "from start to the guest's shell, s",
        one_digit(guest.boot_time.as_secs_f64()),
    )];
    ide_up(&mut guest)?;
    network_up(&mut guest, "e1000", TAP_GUEST_ADDRESS)?;
    network_up(&mut guest, "igbvf", VF_GUEST_ADDRESS)?;
    say(format!("{}: idle", vmm.name()));
    let (idle_exits, processor) = measure::idle(&guest)?;
    figures.extend(at_rest(&guest, idle_exits, processor)?);
    say(format!("{}: IDE", vmm.name()));
    figures.extend(ide(&mut guest)?);
    say(format!("{}: e1000", vmm.name()));
    figures.extend(e1000(&mut guest)?);
    say(format!("{}: virtual function", vmm.name()));
    figures.extend(virtual_function(&mut guest, idle_exits)?);
    guest.power_off()?;
    Ok(figures)
}

fn at_rest(guest: &Guest, exits: f64, processor: f64) -> Result<Vec<Figure>> {
    Ok(vec![
        ("idle: exits a second", one_digit(exits)),
        ("idle: CPU, ms a second", one_digit(processor)),
        (
            "resident beyond the guest's memory, MiB",
            one_digit(measure::resident_mib(guest)?),
        ),
    ])
}

fn ide(guest: &mut Guest) -> Result<Vec<Figure>> {
    let small = measure::reads(guest, "sda", "4k", 400)?;
    let medium = measure::reads(guest, "sda", "64k", 400)?;
    let large = measure::reads(guest, "sda", "1M", 64)?;
    Ok(vec![
        (
            "IDE: exits per 4 KiB DMA read",
            one_digit(small.exits_each()),
        ),
        (
            "IDE: exits per 64 KiB DMA read",
            one_digit(medium.exits_each()),
        ),
        ("IDE: 4 KiB reads a second", whole(small.rate())),
        ("IDE: 64 KiB reads, MiB/s", one_digit(medium.rate() / 16.0)),
        ("IDE: 1 MiB reads, MiB/s", one_digit(large.rate())),
    ])
}

fn e1000(guest: &mut Guest) -> Result<Vec<Figure>> {
    let (pings, round_trip) = measure::pings(guest, 200, TAP_ADDRESS)?;
    let sent = measure::udp_out(guest, 4000, TAP_ADDRESS, measure::tap())?;
    let received = measure::udp_in(guest, 2000)?;
    let out = measure::tcp_out(guest, 16_000_000)?;
    let into = measure::tcp_in(guest, 16_000_000)?;
    Ok(vec![
        ("e1000: exits per ping", two_digits(pings.exits_each())),
        ("e1000: ping round trip, ms", two_digits(round_trip)),
        (
            "e1000: exits per small UDP packet sent",
            two_digits(sent.exits_each()),
        ),
        ("e1000: small UDP packets sent a second", whole(sent.rate())),
        (
            "e1000: exits per small UDP packet received",
            two_digits(received.exits_each()),
        ),
        (
            "e1000: small UDP packets received",
            whole(received.times as f64),
        ),
        (
            "e1000: exits per TCP segment sent",
            two_digits(out.exits_each()),
        ),
        (
            "e1000: TCP out of the guest, MB/s",
            one_digit(megabytes_a_second(&out)),
        ),
        (
            "e1000: exits per TCP segment received",
            two_digits(into.exits_each()),
        ),
        (
            "e1000: TCP into the guest, MB/s",
            one_digit(megabytes_a_second(&into)),
        ),
    ])
}

fn virtual_function(guest: &mut Guest, idle_exits: f64) -> Result<Vec<Figure>> {
    let (pings, round_trip) = measure::pings(guest, 200, PF_ADDRESS)?;
    let interface = super::sysfs::interface(crate::topology::PHYSICAL_FUNCTION)?;
    let sent = measure::udp_out(guest, 4000, PF_ADDRESS, &interface)?;
    Ok(vec![
        (
            "VF: exits per ping, beyond idle",
            two_digits(pings.exits_each_beyond_idle(idle_exits)),
        ),
        ("VF: ping round trip, ms", two_digits(round_trip)),
        (
            "VF: exits per UDP packet sent, beyond idle",
            two_digits(sent.exits_each_beyond_idle(idle_exits)),
        ),
        ("VF: small UDP packets sent a second", whole(sent.rate())),
    ])
}

pub(super) fn whole(figure: f64) -> String {
    format!("{figure:.0}")
}

pub(super) fn one_digit(figure: f64) -> String {
    format!("{figure:.1}")
}

pub(super) fn two_digits(figure: f64) -> String {
    format!("{figure:.2}")
}
