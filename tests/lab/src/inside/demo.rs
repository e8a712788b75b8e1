//! `cargo lab demo`, the inside half: one guest, everything it can be given, told step by step.

use super::guest::{Guest, expect_success};
use super::host;
use super::linux::{
    ide_up, interrupts, network_up, ping_all, sha256_in_guest, wait_for_block_device,
};
use super::rig::{Fixture, Rig};
use super::trace::ExitCounter;
use super::vmm::Vmm;
use crate::error::{Result, fail};
use crate::events::{Event, say};
use crate::process::output_of;
use crate::topology::{
    PF_ADDRESS, TAP, TAP_ADDRESS, TAP_GUEST_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTION_MACS,
    VIRTUAL_FUNCTIONS,
};
use std::process::Command;
use std::time::{Duration, Instant};

const PROCESSORS: u32 = 2;
const PINGS: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the table will say, and when the last step ended.
struct Story {
    rows: Vec<Vec<String>>,
    step_began: Instant,
}

impl Story {
    /// Tells a step's outcome and keeps it for the table.
    fn tell(&mut self, step: &str, outcome: String) {
        let seconds = self.step_began.elapsed().as_secs_f64();
        say(format!("{step}: {outcome}"));
        self.rows
            .push(vec![step.to_owned(), outcome, format!("{seconds:.1}")]);
        self.step_began = Instant::now();
    }
}

/// Runs it.
pub fn run(vmm: Vmm) -> Result<()> {
    let heading = ["step", "outcome", "seconds"].map(str::to_owned).to_vec();
    let mut story = Story {
        rows: vec![heading],
        step_began: Instant::now(),
    };
    host::set_up()?;
    for (address, mac) in VIRTUAL_FUNCTIONS.iter().zip(VIRTUAL_FUNCTION_MACS) {
        let name = output_of(Command::new("lspci").args(["-s", address]))?;
        say(format!(
            "{} with MAC address {mac}, bound to vfio-pci",
            name.trim()
        ));
    }
    story.tell(
        "emulated host",
        format!("VT-d on, 2 virtual functions made, {TAP} up"),
    );

    let mut rig = Rig::new(vmm)?;
    let expected = rig.iso()?.sha256.clone();
    let counter = ExitCounter::start()?;
    let guest = rig.guest(Fixture::Everything(PROCESSORS))?;
    story.tell(
        "guest booted",
        format!(
            "{} ran a stock kernel to its shell, {PROCESSORS} processors",
            vmm.name()
        ),
    );

    let listed = guest.sh("lspci")?;
    listed.lines().for_each(|line| say(format!("    {line}")));
    story.tell(
        "guest saw",
        format!("{} PCI devices", listed.lines().count()),
    );

    virtual_function(guest, &mut story)?;
    emulated_nic(guest, &mut story)?;
    disk(guest, &mut story)?;
    iso(guest, &expected, &mut story)?;

    let taken = interrupts(guest, &["eth"])?;
    let by_message = interrupts(guest, &["MSI", "eth"])?;
    let ata = interrupts(guest, &["ata_"])?;
    story.tell(
        "interrupts taken",
        format!(
            "{by_message} by message from the VF, {} by line from the e1000, {ata} from IDE",
            taken - by_message
        ),
    );
    rig.power_off(Fixture::Everything(PROCESSORS))?;
    story.tell("power-off", "the monitor ended with 0".into());
    let exits = counter.read()?;
    let causes: Vec<String> = exits
        .named()
        .iter()
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect();
    story.tell("exits by cause", causes.join(", "));

    let mut again = Guest::boot(
        vmm,
        &super::vmm::GuestSpec {
            assign: vec![VIRTUAL_FUNCTIONS[0]],
            ..super::vmm::GuestSpec::new(1)
        },
    )?;
    network_up(&mut again, "igbvf", VF_GUEST_ADDRESS)?;
    ping_all(&mut again, 5, 0.1, PF_ADDRESS)?;
    expect_success(again.power_off()?)?;
    let faults = super::kernel_log::iommu_faults()?;
    if !faults.is_empty() {
        return fail(format!("the IOMMU reported: {}", faults.join("; ")));
    }
    story.tell(
        "assigned again",
        "a second guest pinged over the same VF; the IOMMU caught nothing".into(),
    );
    Event::Table { rows: story.rows }.tell();
    Ok(())
}

fn virtual_function(guest: &mut Guest, story: &mut Story) -> Result<()> {
    let interface = network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    let pings = ping_all(guest, PINGS, 0.1, PF_ADDRESS)?;
    story.tell(
        "VF, stock igbvf",
        format!(
            "{interface}: {} of {} pings to the PF, {:.1} ms",
            pings.received, pings.sent, pings.mean_ms
        ),
    );
    Ok(())
}

fn emulated_nic(guest: &mut Guest, story: &mut Story) -> Result<()> {
    let interface = network_up(guest, "e1000", TAP_GUEST_ADDRESS)?;
    let pings = ping_all(guest, PINGS, 0.1, TAP_ADDRESS)?;
    story.tell(
        "e1000, stock driver",
        format!(
            "{interface}: {} of {} pings to the TAP, {:.1} ms",
            pings.received, pings.sent, pings.mean_ms
        ),
    );
    Ok(())
}

fn disk(guest: &mut Guest, story: &mut Story) -> Result<()> {
    ide_up(guest)?;
    guest.sh(
        "mount -t ext4 /dev/sda /mnt && dd if=/dev/urandom of=/tmp/given bs=64k count=128 2>&1",
    )?;
    let given = sha256_in_guest(guest, "/tmp/given")?;
    guest.sh_within(
        "cp /tmp/given /mnt/taken && sync && echo 3 >/proc/sys/vm/drop_caches",
        PATIENCE,
    )?;
    let taken = sha256_in_guest(guest, "/mnt/taken")?;
    guest.sh("umount /mnt")?;
    if given != taken {
        return fail("the IDE disk gave back something else than it was given");
    }
    story.tell(
        "IDE disk, ext4",
        "wrote, synced and read back 8 MiB, same SHA-256".into(),
    );
    Ok(())
}

fn iso(guest: &mut Guest, expected: &str, story: &mut Story) -> Result<()> {
    wait_for_block_device(guest, "sr0")?;
    guest.sh("mount -t iso9660 -o ro /dev/sr0 /cdrom")?;
    if sha256_in_guest(guest, "/cdrom/data.bin")? != expected {
        return fail("the file on the ISO reads differently in the guest");
    }
    guest.sh("umount /cdrom")?;
    story.tell(
        "ISO, ATAPI CD-ROM",
        "mounted; 4 MiB read, SHA-256 as it was made".into(),
    );
    Ok(())
}
