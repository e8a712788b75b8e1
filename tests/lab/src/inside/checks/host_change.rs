//! Sluice changes the host and puts it back: `bind` and `release`, `sriov`, and virtual functions lent by `run --vf`.

use super::Check;
use crate::error::{Context, Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::host::{self, ip};
use crate::inside::linux::{network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::state::HostState;
use crate::inside::sysfs;
use crate::inside::vmm::{GuestSpec, Network, sluice_program};
use crate::process::output_of;
use crate::topology::{E1000E, PF_ADDRESS, PHYSICAL_FUNCTION, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

const fn check(name: &'static str, limit: u64, run: fn(&mut Rig, u32) -> Result<()>) -> Check {
    Check {
        name,
        cpus: &[1],
        limit,
        fixture: None,
        run,
    }
}

pub const CHECKS: &[Check] = &[
    check("bind-and-release", 60, bind_and_release),
    check("bind-refuses-what-the-host-needs", 60, bind_refuses),
    check("sriov-makes-and-removes", 60, sriov),
    check("vf-lent-and-returned", 120, lent),
    check("vf-returned-after-ctrl-c", 120, after_ctrl_c),
    check("vf-returned-after-a-failed-start", 60, after_failed_start),
    check("vf-returned-after-kill", 120, after_kill),
    check("vfs-lent-to-two-at-once", 120, two_at_once),
];

const MAC: &str = "02:00:00:5c:00:77";
const PATIENCE: Duration = Duration::from_secs(40);

fn bind_and_release(rig: &mut Rig, _: u32) -> Result<()> {
    rig.only_sluice()?;
    rig.stop();
    output_of(Command::new("modprobe").arg("e1000e"))?;
    let outcome = (|| {
        expect_said(sluice(&["release", E1000E])?, "with e1000e again")?;
        let before = HostState::now()?;
        expect_said(sluice(&["bind", E1000E])?, "was with e1000e")?;
        expect_driver(E1000E, Some("vfio-pci"))?;
        expect_said(sluice(&["bind", E1000E])?, "already")?;
        expect_said(sluice(&["release", E1000E])?, "with e1000e again")?;
        expect_as_before(&before)
    })();
    sysfs::bind(E1000E, "vfio-pci")?;
    outcome
}

/// The default route goes through the NIC; and the chipset's disk controller shares a group.
fn bind_refuses(rig: &mut Rig, _: u32) -> Result<()> {
    const SMBUS: &str = "0000:00:1f.3";
    const DISK_CONTROLLER: &str = "0000:00:1f.2";
    rig.only_sluice()?;
    rig.stop();
    output_of(Command::new("modprobe").args(["-a", "e1000e", "ahci"]))?;
    sysfs::unbind(E1000E)?;
    // The drivers may have been there before, and had the devices taken from them.
    for address in [E1000E, DISK_CONTROLLER] {
        sysfs::write("/sys/bus/pci/drivers_probe", address)?;
    }
    expect_driver(DISK_CONTROLLER, Some("ahci"))?;
    let outcome = (|| {
        let interface = sysfs::interface(E1000E)?;
        ip(&format!("addr add 10.40.0.2/24 dev {interface}"))?;
        ip(&format!("link set {interface} up"))?;
        ip(&format!(
            "route add default via 10.40.0.1 dev {interface} metric 50"
        ))?;
        let before = HostState::now()?;
        expect_refused(&["bind", E1000E], &[E1000E, "default route", &interface])?;
        let together = format!("sluice bind {SMBUS} {DISK_CONTROLLER}");
        expect_refused(&["bind", SMBUS], &[DISK_CONTROLLER, "ahci", &together])?;
        expect_refused(&["bind", "0000:0f:00.0"], &["0000:0f:00.0"])?;
        expect_as_before(&before)?;
        sluice(&["bind", "--force", E1000E])?;
        expect_driver(E1000E, Some("vfio-pci"))?;
        sluice(&["release", E1000E]).map(drop)
    })();
    sysfs::unbind(DISK_CONTROLLER)?;
    sysfs::bind(E1000E, "vfio-pci")?;
    outcome
}

fn sriov(rig: &mut Rig, _: u32) -> Result<()> {
    without_vfs(rig, |_| {
        const PF: &str = PHYSICAL_FUNCTION;
        let interface = sysfs::interface(PF)?;
        let before = HostState::now()?;
        let settings = format!("2,mac={MAC},vlan=100,spoofcheck=off,trust=on");
        let shown = sluice(&["sriov", PF, "--vfs", "3", "--vf", &settings])?;
        expect_said(shown, "3 of 7 virtual functions")?;
        for number in 0..3 {
            let link = sysfs::device(PF).join(format!("virtfn{number}"));
            fs::read_link(&link).path(&link)?;
        }
        let link = output_of(Command::new("ip").args(["link", "show", &interface]))?;
        let line = link.lines().find(|line| line.contains("vf 2 "));
        let line = line.unwrap_or_default();
        for word in [MAC, "vlan 100", "spoof checking off", "trust on"] {
            if !line.contains(word) {
                return fail(format!("`ip link` does not show {word}:\n{link}"));
            }
        }
        let shown = sluice(&["sriov", PF, "show"])?;
        expect_said(shown.clone(), MAC)?;
        expect_said(shown, VIRTUAL_FUNCTIONS[1])?;
        expect_refused(&["sriov", PF, "--vfs", "8"], &[PF, "7 virtual functions"])?;
        expect_refused(&["sriov", E1000E, "--vfs", "1"], &[E1000E, "SR-IOV"])?;
        expect_said(sluice(&["sriov", PF, "--vfs", "0"])?, "0 of 7")?;
        expect_as_before(&before)?;
        // The driver has no such setting: all is put back.
        let unknown = "0,link=enable";
        expect_refused(
            &["sriov", PF, "--vfs", "2", "--vf", unknown],
            &[PF, "link=enable"],
        )?;
        expect_as_before(&before)
    })
}

/// One flag is the whole story: no VF is made, and the PF is down.
fn lent(rig: &mut Rig, cpus: u32) -> Result<()> {
    without_vfs(rig, |rig| {
        let before = HostState::now()?;
        let mut guest = rig.boot(&borrowing(cpus))?;
        let interface = network_up(&mut guest, "igbvf", VF_GUEST_ADDRESS)?;
        let mac = guest.sh(&format!("cat /sys/class/net/{interface}/address"))?;
        if mac.trim() != MAC {
            return fail(format!("the guest's VF has the address {mac}, not {MAC}"));
        }
        ping_all(&mut guest, 10, 0.05, PF_ADDRESS)?;
        expect_refused(
            &["sriov", PHYSICAL_FUNCTION, "--vfs", "0"],
            &[VIRTUAL_FUNCTIONS[0], "sluice"],
        )?;
        expect_success(guest.power_off()?)?;
        expect_as_before(&before)
    })
}

/// While it waits for the PF's link, and while the guest runs.
fn after_ctrl_c(rig: &mut Rig, cpus: u32) -> Result<()> {
    without_vfs(rig, |rig| {
        let before = HostState::now()?;
        let mut guest = Guest::start(rig.vmm, &borrowing(cpus))?;
        wait_for_link_up()?;
        interrupt(&mut guest)?;
        expect_as_before(&before)?;

        let mut guest = Guest::start(rig.vmm, &borrowing(cpus))?;
        wait_for_guest(&guest)?;
        interrupt(&mut guest)?;
        expect_as_before(&before)
    })
}

fn after_failed_start(rig: &mut Rig, cpus: u32) -> Result<()> {
    without_vfs(rig, |rig| {
        let before = HostState::now()?;
        let wrong = [
            GuestSpec {
                network: Some(Network::Tap("nosuchtap")),
                ..borrowing(cpus)
            },
            GuestSpec {
                vf: vec![format!("{PHYSICAL_FUNCTION},rate=4000000000")],
                ..borrowing(cpus)
            },
            GuestSpec {
                vf: vec![PHYSICAL_FUNCTION.to_owned(), E1000E.to_owned()],
                ..borrowing(cpus)
            },
        ];
        for spec in wrong {
            let mut guest = Guest::start(rig.vmm, &spec)?;
            let status = guest.wait_end(PATIENCE)?;
            let said = guest.complaints();
            if status.code() != Some(1) || said.lines().count() != 1 {
                return fail(format!("it ended with {status} and said: {said}"));
            }
            expect_as_before(&before)?;
        }
        Ok(())
    })
}

fn after_kill(rig: &mut Rig, cpus: u32) -> Result<()> {
    without_vfs(rig, |rig| {
        let before = HostState::now()?;
        let guest = Guest::start(rig.vmm, &borrowing(cpus))?;
        wait_for_guest(&guest)?;
        guest.kill()?;
        expect_driver(VIRTUAL_FUNCTIONS[0], Some("vfio-pci"))?;
        expect_said(sluice(&["sriov", PHYSICAL_FUNCTION])?, "0 of 7")?;
        expect_as_before(&before)
    })
}

fn two_at_once(rig: &mut Rig, cpus: u32) -> Result<()> {
    without_vfs(rig, |rig| {
        let before = HostState::now()?;
        sluice(&["sriov", PHYSICAL_FUNCTION, "--vfs", "2"])?;
        let mut guests = [
            Guest::start(rig.vmm, &borrowing(cpus))?,
            Guest::start(rig.vmm, &borrowing(cpus))?,
        ];
        for guest in &guests {
            wait_for_guest(guest)?;
        }
        for vf in VIRTUAL_FUNCTIONS {
            expect_driver(vf, Some("vfio-pci"))?;
        }
        for guest in &mut guests {
            interrupt(guest)?;
        }
        for vf in VIRTUAL_FUNCTIONS {
            expect_driver(vf, None)?;
        }
        sluice(&["sriov", PHYSICAL_FUNCTION, "--vfs", "0"])?;
        expect_as_before(&before)
    })
}

fn borrowing(cpus: u32) -> GuestSpec {
    GuestSpec {
        vf: vec![format!("{PHYSICAL_FUNCTION},mac={MAC}")],
        ..GuestSpec::new(cpus)
    }
}

fn without_vfs(rig: &mut Rig, test: impl FnOnce(&mut Rig) -> Result<()>) -> Result<()> {
    rig.only_sluice()?;
    rig.stop();
    host::without_virtual_functions(|| test(rig))
}

fn wait_for_link_up() -> Result<()> {
    let interface = sysfs::interface(PHYSICAL_FUNCTION)?;
    let flags = format!("/sys/class/net/{interface}/flags");
    sysfs::wait_until("the PF's interface up", PATIENCE, || {
        let text = fs::read_to_string(&flags).unwrap_or_default();
        let flags = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16);
        flags.is_ok_and(|flags| flags & 1 != 0)
    })
}

/// Until the process has the VFIO group open, and a moment more.
fn wait_for_guest(guest: &Guest) -> Result<()> {
    let descriptors = format!("/proc/{}/fd", guest.pid());
    sysfs::wait_until("the VF open", PATIENCE, || {
        let entries = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        let mut targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.to_string_lossy().contains("kvm-vcpu"))
    })
}

/// Ctrl-C.
fn interrupt(guest: &mut Guest) -> Result<()> {
    let pid = Pid::from_raw(guest.pid() as i32);
    kill(pid, Signal::SIGINT).context("kill -INT")?;
    let status = guest.wait_end(PATIENCE)?;
    let said = guest.complaints();
    if status.code() == Some(1) && said.contains("stopped by SIGINT") {
        return Ok(());
    }
    fail(format!(
        "after Ctrl-C it ended with {status} and said: {said}"
    ))
}

fn run(arguments: &[&str]) -> Result<std::process::Output> {
    Command::new(sluice_program())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot start sluice")
}

/// Runs Sluice to its good end and gives what it said.
fn sluice(arguments: &[&str]) -> Result<String> {
    let output = run(arguments)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    fail(format!("sluice {}: {said}", arguments.join(" ")))
}

/// Sluice says in one line why it does not do this, with each of `words`.
fn expect_refused(arguments: &[&str], words: &[&str]) -> Result<()> {
    let output = run(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let one_line = said.trim_end().lines().count() == 1;
    if output.status.code() != Some(1) || !one_line || !words.iter().all(|w| said.contains(w)) {
        let (words, status) = (words.join(", "), output.status);
        return fail(format!(
            "sluice {} should be refused with {words}; it ended with {status}: {said}",
            arguments.join(" ")
        ));
    }
    Ok(())
}

fn expect_said(said: String, words: &str) -> Result<()> {
    if said.contains(words) {
        return Ok(());
    }
    fail(format!("it did not say '{words}' but: {said}"))
}

fn expect_driver(address: &str, wanted: Option<&str>) -> Result<()> {
    let now = sysfs::driver(address);
    if now.as_deref() == wanted {
        return Ok(());
    }
    fail(format!("{address} has the driver {now:?}, not {wanted:?}"))
}

fn expect_as_before(before: &HostState) -> Result<()> {
    let changes = before.changes(&HostState::now()?);
    if changes.is_empty() {
        return Ok(());
    }
    fail(format!("the host is not as it was: {}", changes.join("; ")))
}
