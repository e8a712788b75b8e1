//! The IDE disk and the CD-ROM under the stock drivers, by PIO and by DMA, and what survives the power cord.

use super::{Check, ONE_AND_FOUR};
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{ide_up, sha256_in_guest, wait_for_block_device};
use crate::inside::media::Disk;
use crate::inside::rig::{Fixture, Rig};
use crate::inside::vmm::GuestSpec;
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "ide-disk-reads-back-what-it-was-given",
        cpus: ONE_AND_FOUR,
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: read_back,
    },
    Check {
        name: "iso-mounts",
        cpus: ONE_AND_FOUR,
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: iso,
    },
    Check {
        name: "disk-survives-power-loss-in-dma",
        cpus: ONE_AND_FOUR,
        limit: 240,
        fixture: None,
        run: survives_in_dma,
    },
    Check {
        name: "disk-survives-power-loss-in-pio",
        cpus: ONE_AND_FOUR,
        limit: 240,
        fixture: None,
        run: survives_in_pio,
    },
    Check {
        name: "read-only-disk-stays-as-it-was",
        cpus: &[1],
        limit: 90,
        fixture: None,
        run: read_only,
    },
];

const PATIENCE: Duration = Duration::from_secs(90);

fn read_back(rig: &mut Rig, cpus: u32) -> Result<()> {
    let guest = rig.guest(Fixture::Everything(cpus))?;
    ide_up(guest)?;
    expect_transfer_mode(guest, true)?;
    guest.sh(
        "mount -t ext4 /dev/sda /mnt && dd if=/dev/urandom of=/tmp/given bs=64k count=128 2>&1",
    )?;
    let given = sha256_in_guest(guest, "/tmp/given")?;
    guest.sh_within(
        "cp /tmp/given /mnt/taken && sync && echo 3 >/proc/sys/vm/drop_caches",
        PATIENCE,
    )?;
    let taken = sha256_in_guest(guest, "/mnt/taken")?;
    guest.sh("umount /mnt; rm /tmp/given")?;
    same("the file on the IDE disk", &given, &taken)
}

fn iso(rig: &mut Rig, cpus: u32) -> Result<()> {
    let expected = rig.iso()?.sha256.clone();
    let guest = rig.guest(Fixture::Everything(cpus))?;
    ide_up(guest)?;
    wait_for_block_device(guest, "sr0")?;
    guest.sh("mount -t iso9660 -o ro /dev/sr0 /cdrom")?;
    let read = sha256_in_guest(guest, "/cdrom/data.bin")?;
    guest.sh("umount /cdrom")?;
    same("data.bin on the ISO", &expected, &read)
}

fn survives_in_dma(rig: &mut Rig, cpus: u32) -> Result<()> {
    survives(rig, cpus, true)
}

fn survives_in_pio(rig: &mut Rig, cpus: u32) -> Result<()> {
    survives(rig, cpus, false)
}

/// Writes and syncs, pulls the cord (`kill -9`), reads back, writes more, powers off, and checks the file system.
fn survives(rig: &mut Rig, cpus: u32, dma: bool) -> Result<()> {
    let disk = Disk::with_ext4(rig.file("survivor.img"), 24 << 20)?;
    let spec = GuestSpec {
        disk: Some(disk.clone()),
        extra_cmdline: if dma { "" } else { "libata.dma=0" },
        ..GuestSpec::new(cpus)
    };
    let mut guest = rig.boot(&spec)?;
    ide_up(&mut guest)?;
    short_commands(&mut guest)?;
    expect_transfer_mode(&mut guest, dma)?;
    guest.sh("mount -t ext4 /dev/sda /mnt && mkdir /mnt/kept")?;
    // PIO moves two bytes an instruction, each of which the emulated host's KVM has to emulate.
    let blocks = if dma { 32 } else { 4 };
    // Unlike sync, fsync tells of writes that failed.
    let write = format!(
        "dd if=/dev/urandom of=/mnt/kept/synced bs=64k count={blocks} conv=fsync 2>&1 && sync"
    );
    guest.sh_within(&write, PATIENCE)?;
    let written = sha256_in_guest(&mut guest, "/mnt/kept/synced")?;
    guest.kill()?;

    let mut guest = rig.boot(&spec)?;
    ide_up(&mut guest)?;
    short_commands(&mut guest)?;
    expect_transfer_mode(&mut guest, dma)?;
    guest.sh("mount -t ext4 /dev/sda /mnt")?;
    let read = sha256_in_guest(&mut guest, "/mnt/kept/synced")?;
    same("the file synced before the power was lost", &written, &read)?;
    guest.sh_within("cp /mnt/kept/synced /mnt/again && umount /mnt", PATIENCE)?;
    expect_success(guest.power_off()?)?;
    disk.check_ext4()
}

fn read_only(rig: &mut Rig, cpus: u32) -> Result<()> {
    let disk = Disk::random(rig.file("read-only.img"), 1 << 20)?;
    let before = crate::inside::media::sha256(&disk.path)?;
    let spec = GuestSpec {
        disk: Some(disk.clone()),
        ..GuestSpec::new(cpus)
    };
    let mut guest = rig.boot(&spec)?;
    ide_up(&mut guest)?;
    let read = sha256_in_guest(&mut guest, "/dev/sda")?;
    let written = guest.ask(
        "dd if=/dev/zero of=/dev/sda bs=4k count=1 oflag=direct 2>&1",
        PATIENCE,
    )?;
    expect_success(guest.power_off()?)?;
    same("the read-only disk in the guest", &before, &read)?;
    same(
        "the read-only disk afterwards",
        &before,
        &crate::inside::media::sha256(&disk.path)?,
    )?;
    if written.status == 0 {
        return fail("a write to the read-only disk was reported as done");
    }
    Ok(())
}

/// Keeps a command well within the 30 s that Linux gives it: on a loaded machine 128 KiB by PIO take longer.
fn short_commands(guest: &mut Guest) -> Result<()> {
    guest
        .sh("echo 16 >/sys/block/sda/queue/max_sectors_kb")
        .map(drop)
}

/// libata tells each device's class and the transfer mode it has set, such as `XFER_UDMA_5` or `XFER_PIO_4`.
fn expect_transfer_mode(guest: &mut Guest, dma: bool) -> Result<()> {
    let said = guest.sh(
        "cd /sys/class/ata_device; for d in *; do echo $(cat $d/class) $(cat $d/xfer_mode); done; cd /",
    )?;
    let mode = said
        .lines()
        .find_map(|line| line.strip_prefix("ata "))
        .unwrap_or_default();
    if mode.contains(if dma { "DMA" } else { "PIO" }) {
        return Ok(());
    }
    fail(format!(
        "the disk was to be driven by {}, but: {said}",
        if dma { "DMA" } else { "PIO" }
    ))
}

fn same(what: &str, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        fail(format!("{what}: SHA-256 is {found}, not {expected}"))
    }
}
