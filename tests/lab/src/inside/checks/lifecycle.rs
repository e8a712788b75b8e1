//! How a guest ends and begins again, and other ways to reach its console and give it memory.

use super::{Check, ONE_AND_FOUR};
use crate::error::{Context, Error, Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::rig::{Fixture, Rig};
use crate::inside::sysfs;
use crate::inside::vmm::GuestSpec;
use crate::topology::VIRTUAL_FUNCTIONS;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "power-off-ends-with-zero",
        cpus: ONE_AND_FOUR,
        limit: 120,
        fixture: Some(Fixture::Everything),
        run: power_off,
    },
    Check {
        name: "reboot-starts-over",
        cpus: ONE_AND_FOUR,
        limit: 180,
        fixture: None,
        run: reboot,
    },
    Check {
        name: "timer-works-after-a-triple-fault",
        cpus: ONE_AND_FOUR,
        limit: 180,
        fixture: None,
        run: triple_fault,
    },
    Check {
        name: "no-reboot-ends-with-zero",
        cpus: &[1],
        limit: 90,
        fixture: None,
        run: no_reboot,
    },
    Check {
        name: "serial-to-a-file",
        cpus: &[1],
        limit: 90,
        fixture: None,
        run: serial_file,
    },
    Check {
        name: "serial-on-a-socket",
        cpus: &[1],
        limit: 90,
        fixture: None,
        run: serial_socket,
    },
    Check {
        name: "memory-from-huge-pages",
        cpus: &[1],
        limit: 120,
        fixture: None,
        run: huge_pages,
    },
];

const PATIENCE: Duration = Duration::from_secs(30);

fn power_off(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.power_off(Fixture::Everything(cpus))
}

fn reboot(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec {
        assign: vec![VIRTUAL_FUNCTIONS[0]],
        ..GuestSpec::new(cpus)
    })?;
    guest.sh("touch /tmp/before")?;
    guest.type_command("reboot -f")?;
    guest.wait_ready()?;
    if guest.ask("test -e /tmp/before", PATIENCE)?.status == 0 {
        return fail("the guest did not start over");
    }
    expect_success(guest.power_off()?)
}

/// The guest's kernel resets by a triple fault, and sleeps no longer than it means to afterwards.
fn triple_fault(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec {
        extra_cmdline: "reboot=t",
        ..GuestSpec::new(cpus)
    })?;
    guest.type_command("reboot -f")?;
    guest.wait_ready()?;
    if rig.vmm == crate::inside::Vmm::Sluice && !guest.complaints().contains("triple fault") {
        return fail("the guest did not reset by a triple fault");
    }
    guest.sh_within(
        "for i in $(seq 10); do sleep 0.2; done",
        Duration::from_secs(15),
    )?;
    expect_success(guest.power_off()?)
}

fn no_reboot(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec {
        no_reboot: true,
        ..GuestSpec::new(cpus)
    })?;
    guest.type_command("reboot -f")?;
    expect_success(guest.wait_end(PATIENCE)?)
}

/// Nobody can type into a file, so the guest has its orders on its command line.
fn serial_file(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    rig.stop();
    let file = rig.file("serial.txt");
    let spec = GuestSpec {
        serial: Some(format!("file={}", file.display())),
        extra_cmdline: "\"script=echo written to the file\"",
        ..GuestSpec::new(cpus)
    };
    expect_success(Guest::start(rig.vmm, &spec)?.wait_end(Duration::from_secs(60))?)?;
    let written = fs::read_to_string(&file).path(&file)?;
    if written.contains("written to the file") {
        Ok(())
    } else {
        fail(format!("{}: {written}", file.display()))
    }
}

fn serial_socket(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    rig.stop();
    let socket = rig.file("serial.socket");
    let spec = GuestSpec {
        serial: Some(format!("socket={}", socket.display())),
        ..GuestSpec::new(cpus)
    };
    let mut guest = Guest::start(rig.vmm, &spec)?;
    sysfs::wait_until("the serial socket", PATIENCE, || socket.exists())?;
    let stream = UnixStream::connect(&socket).path(&socket)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .path(&socket)?;
    let mut keyboard = stream.try_clone().path(&socket)?;
    let mut lines = BufReader::new(stream).lines();
    let mut expect = |start: &str| loop {
        match lines.next() {
            Some(Ok(line)) if line.trim().starts_with(start) => return Ok(()),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                return Err(Error::Other(format!(
                    "waiting for {start:?} on the socket: {error}"
                )));
            }
            None => return fail(format!("the socket closed before {start:?}")),
        }
    };
    expect("@@ready")?;
    keyboard
        .write_all(b"1 echo heard over the socket\n")
        .path(&socket)?;
    expect("heard over the socket")?;
    expect("@@1 0")?;
    keyboard.write_all(b"2 poweroff -f\n").path(&socket)?;
    expect_success(guest.wait_end(PATIENCE)?)
}

fn huge_pages(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let pages = "/proc/sys/vm/nr_hugepages";
    sysfs::write(pages, "256")?;
    let outcome = on_huge_pages(rig, cpus);
    rig.stop();
    sysfs::write(pages, "0")?;
    outcome
}

fn on_huge_pages(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = GuestSpec {
        memory: "512M,hugepages=2M".into(),
        ..GuestSpec::new(cpus)
    };
    let guest = rig.boot(&spec)?;
    let free = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let free = free
        .lines()
        .find_map(|line| line.strip_prefix("HugePages_Free:"))
        .map(str::trim)
        .unwrap_or("?")
        .to_owned();
    expect_success(guest.power_off()?)?;
    match free.parse::<u32>() {
        Ok(free) if free < 200 => Ok(()),
        _ => fail(format!(
            "{free} of 256 huge pages are free while the guest runs"
        )),
    }
}
