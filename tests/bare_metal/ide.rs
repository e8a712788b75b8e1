//! The IDE controller: PIO, DMA, what a DMA costs, CD-ROM.

use crate::disk::{Image, pattern};
use crate::guest::{Guest, Stats, alone, in_company, passes};

const SECTORS: u64 = 4096;

fn cmdline() -> String {
    format!("sectors={SECTORS}")
}

/// `to` holds what `from` held at first.
fn assert_copied(image: &Image, to: u64, from: u64, sectors: u64) {
    let same = image.sectors(to, sectors) == pattern(from, sectors);
    assert!(same, "sectors {to} to {}", to + sectors - 1);
}

fn assert_untouched(image: &Image, from: u64, to: u64) {
    assert_copied(image, from, from, to - from);
}

#[test]
fn pio() {
    let _turn = in_company();
    let image = Image::new("pio.img", SECTORS);
    if passes("ide_pio", &cmdline(), &["--disk", &image.flag()]).is_none() {
        return;
    }
    assert_untouched(&image, 0, 2048);
    assert_copied(&image, 2048, 4, 5);
    assert_untouched(&image, 2053, 2060);
    assert_copied(&image, 2060, 5, 3);
    assert_copied(&image, 2100, 6, 40);
    assert_untouched(&image, 2140, SECTORS);
}

#[test]
fn dma() {
    let _turn = in_company();
    let image = Image::new("dma.img", SECTORS);
    if passes("ide_dma", &cmdline(), &["--disk", &image.flag()]).is_none() {
        return;
    }
    assert_untouched(&image, 0, 2048);
    assert_copied(&image, 2048, 200, 64);
    assert_copied(&image, 2200, 17, 512);
    assert_untouched(&image, 2712, SECTORS);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let _turn = in_company();
    let image = Image::new("readonly.img", SECTORS);
    let flag = format!("{},readonly", image.flag());
    let Some(guest) = Guest::start("ide_pio", &cmdline(), &["--disk", &flag]) else {
        return;
    };
    // The guest finds that its writes fail.
    let ended = guest.wait();
    assert!(ended.status.success());
    assert!(
        ended.output.contains("PASS read multiple"),
        "{}",
        ended.output
    );
    assert!(ended.output.contains("FAIL ide_pio.c"), "{}", ended.output);
    assert_untouched(&image, 0, SECTORS);
}

/// Exits of a 4 KiB DMA read with libata's register accesses: 26 accesses, of which those
/// that nothing observes at once cost none.
#[test]
fn a_dma_read_costs_few_exits() {
    let _turn = alone();
    const READS: u64 = 64;
    let image = Image::new("exits.img", SECTORS);
    let run = |reads: u64| -> Option<Stats> {
        let cmdline = format!("transfers={reads}");
        Some(passes("ide_dma", &cmdline, &["--disk", &image.flag()])?.stats)
    };
    let (Some(none), Some(many)) = (run(0), run(READS)) else {
        return;
    };
    // The measurement of the TSC takes more or fewer reads of the PM timer.
    let exits = |stats: &Stats| stats.exits() - stats.accesses("acpi-pm").0;
    let each = (exits(&many) - exits(&none)) as f64 / READS as f64;
    eprintln!("{each:.1} exits per DMA read");
    assert!(each <= 18.0, "{each} exits per DMA read");
}

#[test]
fn cdrom() {
    let _turn = in_company();
    let disk = Image::new("beside.img", 64);
    let disc = Image::new("disc.iso", SECTORS);
    passes(
        "atapi",
        &format!("blocks={}", SECTORS / 4),
        &["--disk", &disk.flag(), "--cdrom", &disc.flag()],
    );
}
