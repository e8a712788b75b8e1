//! What an operator can get wrong: one clear line that names it, a status other than zero, and nothing left behind.

use super::Check;
use crate::error::{Context, Result, fail};
use crate::inside::media::Disk;
use crate::inside::rig::Rig;
use crate::inside::state::HostState;
use crate::inside::sysfs;
use crate::inside::vmm::{GuestSpec, Vmm, sluice_program};
use crate::topology::{NVME, PHYSICAL_FUNCTION, TAP, VIRTUAL_FUNCTIONS};
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const fn check(name: &'static str, run: fn(&mut Rig, u32) -> Result<()>) -> Check {
    Check {
        name,
        cpus: &[1],
        limit: 60,
        fixture: None,
        run,
    }
}

pub const CHECKS: &[Check] = &[
    check("error-no-dev-kvm", no_kvm),
    check("error-assigned-device-does-not-exist", no_such_device),
    check("error-assigned-device-has-another-driver", another_driver),
    check("error-assigned-device-has-no-driver", no_driver),
    check("error-group-is-not-viable", group_not_viable),
    check("error-assigned-device-is-in-use", device_in_use),
    check("error-kernel-is-missing", kernel_missing),
    check("error-kernel-is-no-kernel", kernel_is_no_kernel),
    check("error-initrd-is-missing", initrd_missing),
    check("error-disk-is-missing", disk_missing),
    check("error-disk-is-in-use", disk_in_use),
    check("error-tap-is-missing", tap_missing),
    check("error-tap-is-in-use", tap_in_use),
    check("error-memory-does-not-fit", memory_does_not_fit),
    check("error-no-huge-pages", no_huge_pages),
    check("error-bad-toml-key", bad_toml_key),
    check("error-two-devices-on-one-slot", one_slot),
];

/// Within this, a wrong command line must have been refused.
const PATIENCE: Duration = Duration::from_secs(20);

fn no_kvm(rig: &mut Rig, _: u32) -> Result<()> {
    fs::rename("/dev/kvm", "/dev/kvm.hidden").context("/dev/kvm")?;
    let outcome = refused(rig, &[], &["/dev/kvm"]);
    fs::rename("/dev/kvm.hidden", "/dev/kvm").context("/dev/kvm")?;
    outcome
}

fn no_such_device(rig: &mut Rig, _: u32) -> Result<()> {
    refused(rig, &["--assign", "0000:0f:00.0"], &["0000:0f:00.0"])
}

fn another_driver(rig: &mut Rig, _: u32) -> Result<()> {
    refused(
        rig,
        &["--assign", PHYSICAL_FUNCTION],
        &[PHYSICAL_FUNCTION, "igb"],
    )
}

fn no_driver(rig: &mut Rig, _: u32) -> Result<()> {
    sysfs::unbind(VIRTUAL_FUNCTIONS[1])?;
    let outcome = refused(
        rig,
        &["--assign", VIRTUAL_FUNCTIONS[1]],
        &[VIRTUAL_FUNCTIONS[1], "vfio-pci"],
    );
    sysfs::bind(VIRTUAL_FUNCTIONS[1], "vfio-pci")?;
    outcome
}

/// The chipset's functions share a group; the disk controller in it is the host's.
fn group_not_viable(rig: &mut Rig, _: u32) -> Result<()> {
    const SMBUS: &str = "0000:00:1f.3";
    const DISK_CONTROLLER: &str = "0000:00:1f.2";
    crate::process::output_of(Command::new("modprobe").arg("ahci"))?;
    sysfs::bind(SMBUS, "vfio-pci")?;
    let outcome = sysfs::bind(DISK_CONTROLLER, "ahci")
        .and_then(|()| refused(rig, &["--assign", SMBUS], &[SMBUS, DISK_CONTROLLER]));
    sysfs::unbind(SMBUS)?;
    sysfs::unbind(DISK_CONTROLLER)?;
    outcome
}

fn device_in_use(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let _owner = rig.boot(&GuestSpec {
        assign: vec![VIRTUAL_FUNCTIONS[0]],
        ..GuestSpec::new(1)
    })?;
    refused_beside(&["--assign", VIRTUAL_FUNCTIONS[0]], &[VIRTUAL_FUNCTIONS[0]])
}

fn kernel_missing(rig: &mut Rig, _: u32) -> Result<()> {
    refused(
        rig,
        &["--kernel", "/nowhere/vmlinuz"],
        &["/nowhere/vmlinuz"],
    )
}

fn kernel_is_no_kernel(rig: &mut Rig, _: u32) -> Result<()> {
    refused(rig, &["--kernel", "/etc/os-release"], &["/etc/os-release"])
}

fn initrd_missing(rig: &mut Rig, _: u32) -> Result<()> {
    refused(rig, &["--initrd", "/nowhere/initrd"], &["/nowhere/initrd"])
}

fn disk_missing(rig: &mut Rig, _: u32) -> Result<()> {
    refused(
        rig,
        &["--disk", "path=/nowhere/disk.img"],
        &["/nowhere/disk.img"],
    )
}

fn disk_in_use(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let disk = Disk::blank(rig.file("shared.img"), 1 << 20)?;
    let argument = format!("path={}", disk.path.display());
    let _owner = rig.boot(&GuestSpec {
        disk: Some(disk.clone()),
        ..GuestSpec::new(1)
    })?;
    refused_beside(&["--disk", &argument], &[&disk.path.display().to_string()])
}

fn tap_missing(rig: &mut Rig, _: u32) -> Result<()> {
    refused(rig, &["--net", "tap=nosuchtap"], &["nosuchtap"])
}

fn tap_in_use(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let spec = GuestSpec {
        network: Some(crate::inside::vmm::Network::Tap(TAP)),
        ..GuestSpec::new(1)
    };
    let _owner = rig.boot(&spec)?;
    refused_beside(&["--net", &format!("tap={TAP}")], &[TAP])
}

fn memory_does_not_fit(rig: &mut Rig, _: u32) -> Result<()> {
    refused(rig, &["--memory", "64G"], &["64"])
}

fn no_huge_pages(rig: &mut Rig, _: u32) -> Result<()> {
    refused(rig, &["--memory", "512M,hugepages=2M"], &["huge"])
}

fn bad_toml_key(rig: &mut Rig, _: u32) -> Result<()> {
    let file = rig.file("vm.toml");
    fs::write(&file, "cpus = 1\nmemory = \"512M\"\ncolour = \"red\"\n").path(&file)?;
    let shown = file.display().to_string();
    refused(rig, &["--config", &shown], &[&shown, "3", "colour"])
}

fn one_slot(rig: &mut Rig, _: u32) -> Result<()> {
    let [first, second] = [VIRTUAL_FUNCTIONS[0], NVME];
    let (a, b) = (format!("{first},port=1"), format!("{second},port=1"));
    refused(rig, &["--assign", &a, "--assign", &b], &[first, second])
}

pub(super) fn refused(rig: &mut Rig, arguments: &[&str], named: &[&str]) -> Result<()> {
    rig.only_sluice()?;
    rig.stop();
    refused_beside(arguments, named)
}

/// Runs Sluice with a good command line changed by `arguments`; it must refuse, naming each of `named`.
fn refused_beside(arguments: &[&str], named: &[&str]) -> Result<()> {
    let before = HostState::now()?;
    let output = run_to_end(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    match output.status.code() {
        Some(0) => return fail(format!("it ended with 0 and said: {said}")),
        Some(101) | None => return fail(format!("it crashed ({}): {said}", output.status)),
        Some(_) => {}
    }
    let [line] = lines[..] else {
        return fail(format!("it said {} lines, not one:\n{said}", lines.len()));
    };
    if let Some(missing) = named.iter().find(|name| !line.contains(**name)) {
        return fail(format!("the line does not name {missing}: {line}"));
    }
    let changes = before.changes(&HostState::now()?);
    if changes.is_empty() {
        Ok(())
    } else {
        fail(format!("left behind: {}", changes.join("; ")))
    }
}

fn run_to_end(arguments: &[&str]) -> Result<Output> {
    let good = Vmm::Sluice.command(&GuestSpec::new(1));
    let mut command = Command::new(sluice_program());
    // A flag given by the test takes the place of the good one.
    let mut words = good.get_args();
    while let Some(word) = words.next() {
        if arguments.contains(&word.to_string_lossy().as_ref()) {
            words.next();
        } else {
            command.arg(word);
        }
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = crate::process::die_with_parent(&mut command)
        .spawn()
        .context("cannot start sluice")?;
    let start = Instant::now();
    while child.try_wait().context("waiting for sluice")?.is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let output = child.wait_with_output().context("waiting for sluice")?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return fail(format!(
                "it was not refused within {} s; it said: {said}",
                PATIENCE.as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().context("waiting for sluice")
}
