//! What Sluice says of the host: `sluice devices` and `sluice check`, held against what the kernel has.

use super::Check;
use crate::error::{Context, Result, fail};
use crate::inside::rig::Rig;
use crate::inside::state::HostState;
use crate::inside::sysfs;
use crate::inside::vmm::sluice_program;
use crate::process::{die_with_parent, output_of};
use crate::topology::{E1000E, NVME, PHYSICAL_FUNCTION, VIRTUAL_FUNCTIONS};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

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
    check(
        "host-devices-are-named-and-assignable",
        named_and_assignable,
    ),
    check("host-devices-agree-with-lspci", agree_with_lspci),
    check("host-devices-table-fits-80-columns", table_fits),
    check("host-devices-remedy-works", remedy_works),
    check("host-devices-tell-of-a-group-in-use", group_in_use),
    check("host-check-is-green", green),
    check("host-check-without-kvm-fails", without_kvm),
    check("host-check-without-vfio-pci-fails", without_vfio_pci),
];

fn named_and_assignable(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let all = devices(&[])?;
    let [first_vf, second_vf] = VIRTUAL_FUNCTIONS;
    let vf = "Intel Corporation 82576 Virtual Function";
    for (address, name, class) in [
        (first_vf, vf, "Ethernet controller"),
        (second_vf, vf, "Ethernet controller"),
        (
            NVME,
            "Red Hat, Inc. QEMU NVM Express Controller",
            "Non-Volatile memory controller",
        ),
        (
            E1000E,
            "Intel Corporation 82574L Gigabit Network Connection",
            "Ethernet controller",
        ),
    ] {
        let device = device(&all, address)?;
        expect(device, "name", name)?;
        expect(device, "class", class)?;
        expect(device, "driver", "vfio-pci")?;
        expect(device, "assignable", true)?;
        expect(device, "reason", Value::Null)?;
        expect(device, "iommu_group", group_of(address)?)?;
        if device["bars"].as_array().is_none_or(Vec::is_empty) {
            return fail(format!("{address} has no BARs: {device}"));
        }
    }
    expect(
        device(&all, first_vf)?,
        "physical_function",
        PHYSICAL_FUNCTION,
    )?;
    let pf = device(&all, PHYSICAL_FUNCTION)?;
    expect(pf, "assignable", false)?;
    expect(pf, "obstacle", "other-driver")?;
    expect(&pf["sriov"], "total", 7)?;
    expect(
        &pf["sriov"],
        "virtual_functions",
        VIRTUAL_FUNCTIONS.to_vec(),
    )
}

/// Names and numbers are those that `lspci` finds in its own database and in config space.
fn agree_with_lspci(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let all = devices(&[])?;
    let listed = output_of(Command::new("lspci").args(["-D", "-n"]))?;
    let count = all.as_array().map_or(0, Vec::len);
    if count != listed.lines().count() {
        return fail(format!("{count} devices, but lspci lists:\n{listed}"));
    }
    for line in listed.lines() {
        // 0000:01:10.0 0200: 8086:10ca (rev 01)
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, class, ids, ..] = words[..] else {
            return fail(format!("lspci said: {line}"));
        };
        let device = device(&all, address)?;
        let text = |name: &str| device["ids"][name].as_str().unwrap_or_default().to_owned();
        let ours = (
            text("class"),
            format!("{}:{}", text("vendor"), text("device")),
        );
        if !ours.0.starts_with(class.trim_end_matches(':')) || ours.1 != ids {
            return fail(format!("{ours:?} is not {line}"));
        }
    }
    Ok(())
}

fn table_fits(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let (table, status) = say(&["devices"], Some("80"))?;
    let widest = table.lines().map(|line| line.chars().count()).max();
    if status != Some(0) || widest > Some(80) {
        return fail(format!("status {status:?}, {widest:?} columns:\n{table}"));
    }
    for address in VIRTUAL_FUNCTIONS.iter().chain(&[NVME, E1000E]) {
        let line = table.lines().find(|line| line.starts_with(address));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        if words.get(1) != Some(&"yes") || words.get(2) != Some(&"vfio-pci") {
            return fail(format!("{address}: {line:?}"));
        }
    }
    Ok(())
}

/// What it says to do about a device without a driver makes it assignable.
fn remedy_works(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let address = VIRTUAL_FUNCTIONS[1];
    sysfs::unbind(address)?;
    let outcome = follow_remedy(address);
    // Sluice remembers what it has bound.
    output_of(Command::new(sluice_program()).args(["release", address]))?;
    sysfs::bind(address, "vfio-pci")?;
    outcome
}

fn follow_remedy(address: &str) -> Result<()> {
    let all = devices(&[address])?;
    let unbound = device(&all, address)?;
    expect(unbound, "assignable", false)?;
    expect(unbound, "obstacle", "no-driver")?;
    expect(unbound, "driver", Value::Null)?;
    let (text, _) = say(&["devices", address], None)?;
    let remedy = unbound["remedy"].as_str().unwrap_or_default();
    if !text.contains("not bound to vfio-pci") || !text.contains(remedy) {
        return fail(format!("it does not say why and what to do:\n{text}"));
    }
    let Some(command) = remedy.split('`').nth(1) else {
        return fail(format!("no command in: {remedy}"));
    };
    let program = sluice_program().display().to_string();
    let command = format!("sluice() {{ {program} \"$@\"; }}; {command}");
    output_of(Command::new("sh").args(["-ec", &command]))?;
    expect(device(&devices(&[address])?, address)?, "assignable", true)
}

/// The chipset's functions share a group; the disk controller in it is the host's.
fn group_in_use(rig: &mut Rig, _: u32) -> Result<()> {
    const SMBUS: &str = "0000:00:1f.3";
    const DISK_CONTROLLER: &str = "0000:00:1f.2";
    rig.only_sluice()?;
    output_of(Command::new("modprobe").arg("ahci"))?;
    sysfs::bind(SMBUS, "vfio-pci")?;
    let outcome = sysfs::bind(DISK_CONTROLLER, "ahci").and_then(|()| {
        let all = devices(&[SMBUS])?;
        let smbus = device(&all, SMBUS)?;
        expect(smbus, "obstacle", "group-in-use")?;
        let reason = smbus["reason"].as_str().unwrap_or_default();
        if !reason.contains(DISK_CONTROLLER) || !reason.contains("ahci") {
            return fail(format!("it does not say who: {reason}"));
        }
        let (said, status) = say(&["check"], None)?;
        match said.contains(SMBUS) && said.contains(DISK_CONTROLLER) && status == Some(0) {
            true => Ok(()),
            false => fail(format!("status {status:?}:\n{said}")),
        }
    });
    sysfs::unbind(SMBUS)?;
    sysfs::unbind(DISK_CONTROLLER)?;
    outcome
}

fn green(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    let before = HostState::now()?;
    let (said, status) = say(&["check"], None)?;
    let failed = said.lines().any(|line| line.starts_with("fail"));
    if failed || status != Some(0) {
        return fail(format!("status {status:?}:\n{said}"));
    }
    let ready = format!("ready for guests: {}", VIRTUAL_FUNCTIONS.join(", "));
    for line in [
        "AMD SVM (kvm_amd)",
        "VT-d (dmar0)",
        "interrupt remapping  on",
        "vfio-pci loaded",
        "CAP_IPC_LOCK",
        "no IOMMU group holds more than one device",
        &ready,
    ] {
        if !said.contains(line) {
            return fail(format!("no {line:?} in:\n{said}"));
        }
    }
    let changes = before.changes(&HostState::now()?);
    match changes.is_empty() {
        true => Ok(()),
        false => fail(format!("looking changed the host: {}", changes.join("; "))),
    }
}

fn without_kvm(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    fs::rename("/dev/kvm", "/dev/kvm.hidden").context("/dev/kvm")?;
    let outcome = failing("KVM", "modprobe kvm_amd");
    fs::rename("/dev/kvm.hidden", "/dev/kvm").context("/dev/kvm")?;
    outcome
}

/// First no device is bound, then the driver is gone.
fn without_vfio_pci(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    rig.stop();
    let bound = bound_to_vfio_pci()?;
    for address in &bound {
        sysfs::unbind(address)?;
    }
    let outcome = none_bound().and_then(|()| {
        output_of(Command::new("modprobe").args(["-r", "vfio-pci"]))?;
        failing("VFIO driver", "modprobe vfio-pci")
    });
    output_of(Command::new("modprobe").arg("vfio-pci"))?;
    for address in &bound {
        sysfs::bind(address, "vfio-pci")?;
    }
    outcome
}

fn none_bound() -> Result<()> {
    let (said, status) = say(&["check"], None)?;
    if status == Some(0) && said.contains("none is bound to vfio-pci") {
        Ok(())
    } else {
        fail(format!("status {status:?}:\n{said}"))
    }
}

fn bound_to_vfio_pci() -> Result<Vec<String>> {
    let all = fs::read_dir("/sys/bus/pci/devices").context("the PCI devices")?;
    let names = all
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names
        .filter(|name| sysfs::driver(name).as_deref() == Some("vfio-pci"))
        .collect())
}

/// `sluice check` fails by this topic and says to do that.
fn failing(topic: &str, remedy: &str) -> Result<()> {
    let (said, status) = say(&["check"], None)?;
    let start = format!("fail  {topic} ");
    let named = said.lines().any(|line| line.starts_with(&start));
    if status == Some(1) && named && said.contains(remedy) {
        Ok(())
    } else {
        fail(format!("status {status:?}, not by {topic:?}:\n{said}"))
    }
}

/// What Sluice says on standard output, and its status.
fn say(arguments: &[&str], columns: Option<&str>) -> Result<(String, Option<i32>)> {
    let mut command = Command::new(sluice_program());
    command
        .args(arguments)
        .env_remove("COLUMNS")
        .stdin(Stdio::null());
    if let Some(columns) = columns {
        command.env("COLUMNS", columns);
    }
    let output = die_with_parent(&mut command)
        .output()
        .context("cannot run sluice")?;
    if !output.stderr.is_empty() {
        return fail(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok((
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.code(),
    ))
}

fn devices(only: &[&str]) -> Result<Value> {
    let arguments: Vec<&str> = ["devices", "--json"].iter().chain(only).copied().collect();
    let (text, _) = say(&arguments, None)?;
    serde_json::from_str(&text).map_err(|e| crate::error::Error::Other(format!("{e} in {text}")))
}

fn device<'a>(all: &'a Value, address: &str) -> Result<&'a Value> {
    let found = all
        .as_array()
        .into_iter()
        .flatten()
        .find(|d| d["address"] == address);
    found.map_or_else(|| fail(format!("no {address} in {all}")), Ok)
}

fn expect(device: &Value, name: &str, wanted: impl Into<Value>) -> Result<()> {
    let (is, wanted) = (&device[name], wanted.into());
    if *is == wanted {
        Ok(())
    } else {
        fail(format!("{name} is {is}, not {wanted}, in {device}"))
    }
}

fn group_of(address: &str) -> Result<u32> {
    let link = sysfs::device(address).join("iommu_group");
    let group = fs::read_link(&link).path(&link)?;
    let number = group
        .file_name()
        .and_then(|name| name.to_str()?.parse().ok());
    number.map_or_else(|| fail(format!("{} has no number", link.display())), Ok)
}
