//! Devices that come and go while the guest runs, by the guest's own PCI Express hot-plug.

use super::Check;
use crate::error::{Error, Result, fail};
use crate::inside::control::Control;
use crate::inside::guest::{Guest, expect_success};
use crate::inside::host;
use crate::inside::linux::{
    copy_through_block_device, interface_up, network_up, ping_all, wait_for_block_device,
};
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::vmm::{GuestSpec, Network};
use crate::topology::{
    E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, NVME, PF_ADDRESS, PHYSICAL_FUNCTION, TAP,
    TAP_ADDRESS, TAP_GUEST_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS,
};
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "nic-and-nvme-come-and-go",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: others,
    },
    Check {
        name: "two-functions-come-and-go-as-one-device",
        cpus: &[2],
        limit: 240,
        fixture: None,
        run: two_functions,
    },
    Check {
        name: "host-takes-its-vf-back",
        cpus: &[1],
        limit: 300,
        fixture: None,
        run: taken_back,
    },
    Check {
        name: "what-is-torn-out-leaves-the-guest-alive",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: torn_out,
    },
    Check {
        name: "guest-learns-of-a-fatal-error",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: fatal_error,
    },
    Check {
        name: "failed-device-goes-into-quarantine",
        cpus: &[1],
        limit: 240,
        fixture: None,
        run: quarantine,
    },
    Check {
        name: "what-came-stays-through-a-reboot",
        cpus: &[1],
        limit: 300,
        fixture: None,
        run: reboot,
    },
    Check {
        name: "vf-comes-and-goes-twenty-times-under-ping",
        cpus: &[2],
        limit: 900,
        fixture: None,
        run: twenty_times,
    },
];

const VF: &str = VIRTUAL_FUNCTIONS[0];
const ROUNDS: u32 = 20;
/// How long a guest may take to see a device that came or went.
const COMING: Duration = Duration::from_secs(30);

/// A guest with a control socket.
fn boot(rig: &mut Rig, spec: GuestSpec) -> Result<(Guest, Control)> {
    rig.only_sluice()?;
    let socket = rig.file("control.socket");
    let spec = GuestSpec {
        control: Some(socket.clone()),
        ..spec
    };
    Ok((rig.boot(&spec)?, Control(socket)))
}

/// Waits until a driver has made an interface of a device.
fn wait_for_interface(guest: &mut Guest, driver: &str) -> Result<()> {
    let interface = format!("/sys/bus/pci/drivers/{driver}/*:*:*/net/*");
    wait_until(guest, &format!("ls -d {interface} >/dev/null 2>&1"))
}

/// Waits until a driver has no device any more.
fn wait_for_removal(guest: &mut Guest, driver: &str) -> Result<()> {
    let device = format!("/sys/bus/pci/drivers/{driver}/*:*:*");
    wait_until(guest, &format!("! ls -d {device} >/dev/null 2>&1"))
}

fn wait_until(guest: &mut Guest, condition: &str) -> Result<()> {
    let command = format!(
        "n=0; until {condition}; do n=$((n+1)); [ $n -lt 450 ] || break; sleep 0.1; done; [ $n -lt 450 ]"
    );
    guest.sh_within(&command, COMING * 2).map(drop)
}

fn add_vf(guest: &mut Guest, control: &Control) -> Result<()> {
    control.add("--assign", VF)?;
    wait_for_interface(guest, "igbvf")
}

fn ping_over_vf(guest: &mut Guest) -> Result<()> {
    network_up(guest, "igbvf", VF_GUEST_ADDRESS)?;
    ping_all(guest, 5, 0.05, PF_ADDRESS).map(drop)
}

/// The e1000 is pinged all the while, and must not lose one; the virtual function is pinged when it goes.
fn twenty_times(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = GuestSpec {
        network: Some(Network::Tap(TAP)),
        ..GuestSpec::new(cpus)
    };
    let (mut guest, control) = boot(rig, spec)?;
    network_up(&mut guest, "e1000", TAP_GUEST_ADDRESS)?;
    guest.sh("modprobe igbvf")?;
    guest.sh(&format!(
        "ping -q -i 0.2 -W 5 {TAP_ADDRESS} >/tmp/pings 2>&1 & echo $! >/tmp/pinging"
    ))?;
    let free = control.list()?.free_ports;
    for round in 1..=ROUNDS {
        let told = |error: Error| Error::Other(format!("in round {round}: {error}"));
        add_vf(&mut guest, &control).map_err(told)?;
        ping_over_vf(&mut guest).map_err(told)?;
        guest.sh(&format!(
            "ping -q -i 0.02 {PF_ADDRESS} >/dev/null 2>&1 & echo $! >/tmp/busy"
        ))?;
        control.remove(VF).map_err(told)?;
        guest.sh("kill $(cat /tmp/busy) 2>/dev/null; true")?;
        if control.has(VF)? {
            return fail(format!("in round {round} the function is still listed"));
        }
        wait_for_removal(&mut guest, "igbvf").map_err(told)?;
    }
    if control.list()?.free_ports != free {
        return fail("not every port is free again");
    }
    let said = guest.sh("kill -INT $(cat /tmp/pinging); sleep 1; cat /tmp/pings")?;
    if !said.contains(" 0% packet loss") {
        return fail(format!("the e1000's pings meanwhile: {said}"));
    }
    expect_success(guest.power_off()?)
}

/// An emulated NIC, an assigned one, and a disk controller; the last of them stays to the end.
fn others(rig: &mut Rig, cpus: u32) -> Result<()> {
    let (mut guest, control) = boot(rig, GuestSpec::new(cpus))?;
    guest.sh("modprobe -a e1000 e1000e nvme")?;
    control.add_as("wire", "--net", &format!("tap={TAP}"))?;
    control.add_as("copper", "--assign", E1000E)?;
    wait_for_interface(&mut guest, "e1000")?;
    wait_for_interface(&mut guest, "e1000e")?;
    network_up(&mut guest, "e1000", TAP_GUEST_ADDRESS)?;
    ping_all(&mut guest, 10, 0.05, TAP_ADDRESS)?;
    network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(&mut guest, 10, 0.05, E1000E_PEER)?;
    let refused = control.refusal(&["add", "--assign", NVME, "--id", "wire"])?;
    if !refused.contains("called wire already") {
        return fail(format!("of an id that is taken: {refused}"));
    }
    control.remove("wire")?;
    control.remove("copper")?;
    control.add("--assign", NVME)?;
    wait_for_block_device(&mut guest, "nvme0n1")?;
    copy_through_block_device(&mut guest, "nvme0n1")?;
    expect_success(guest.power_off()?)
}

/// Two functions that have one place on the host share one in the guest, and go together.
fn two_functions(rig: &mut Rig, cpus: u32) -> Result<()> {
    let (mut guest, control) = boot(rig, GuestSpec::new(cpus))?;
    guest.sh("modprobe igbvf")?;
    let strangers = control.refusal(&["add", "--assign", VF, "--assign", NVME])?;
    if !strangers.contains("not functions of one device") {
        return fail(format!("of two devices: {strangers}"));
    }
    control.add_functions(&VIRTUAL_FUNCTIONS)?;
    let both = "set -- /sys/bus/pci/drivers/igbvf/*:00.[02]/net/*";
    wait_until(&mut guest, &format!("{both}; [ $# = 2 ] && [ -e $2 ]"))?;
    for index in [1, 2] {
        let interface = guest.sh(&format!("{both}; eval basename \\${index}"))?;
        interface_up(&mut guest, interface.trim(), VF_GUEST_ADDRESS)?;
        ping_all(&mut guest, 5, 0.05, PF_ADDRESS)?;
        guest.sh(&format!("ip link set {} down", interface.trim()))?;
    }
    control.remove(VIRTUAL_FUNCTIONS[1])?;
    wait_for_removal(&mut guest, "igbvf")?;
    if control.has(VF)? {
        return fail("one function is still listed");
    }
    expect_success(guest.power_off()?)
}

/// The host removes its virtual functions while the guest uses one: the guest is asked, lets go, and lives on.
fn taken_back(rig: &mut Rig, cpus: u32) -> Result<()> {
    let (mut guest, control) = boot(rig, GuestSpec::owning(&[VF], cpus))?;
    ping_over_vf(&mut guest)?;
    let made = sysfs::device(PHYSICAL_FUNCTION).join("sriov_numvfs");
    // Does not return before the guest has let go.
    sysfs::write(&made, "0")?;
    let outcome = after_taken_back(&mut guest, &control);
    host::make_virtual_functions(&VIRTUAL_FUNCTIONS)?;
    outcome?;
    add_vf(&mut guest, &control)?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)
}

fn after_taken_back(guest: &mut Guest, control: &Control) -> Result<()> {
    wait_for_removal(guest, "igbvf")?;
    sysfs::wait_until("the function is not listed", COMING, || {
        control.has(VF).is_ok_and(|has| !has)
    })?;
    if !guest.sh("dmesg")?.contains("Button press: will power off") {
        return fail("the guest was not asked");
    }
    Ok(())
}

fn torn_out(rig: &mut Rig, cpus: u32) -> Result<()> {
    let (mut guest, control) = boot(rig, GuestSpec::owning(&[VF], cpus))?;
    ping_over_vf(&mut guest)?;
    guest.sh(&format!("ping -q -i 0.02 {PF_ADDRESS} >/dev/null 2>&1 &"))?;
    control.tear_out(VF)?;
    wait_for_removal(&mut guest, "igbvf")?;
    add_vf(&mut guest, &control)?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// The device is closed, and so the host can have it; the guest can have it again.
fn quarantine(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = GuestSpec {
        assign_options: ",on-error=quarantine",
        ..GuestSpec::owning(&[E1000E], cpus)
    };
    let (mut guest, control) = boot(rig, spec)?;
    network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    inject_fatal_error(3, 0, 0)?;
    wait_for_removal(&mut guest, "e1000e")?;
    sysfs::wait_until("the device is not listed", COMING, || {
        control.has(E1000E).is_ok_and(|has| !has)
    })?;
    control.add("--assign", E1000E)?;
    wait_for_interface(&mut guest, "e1000e")?;
    network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(&mut guest, 5, 0.1, E1000E_PEER)?;
    expect_success(guest.power_off()?)
}

fn reboot(rig: &mut Rig, cpus: u32) -> Result<()> {
    let (mut guest, control) = boot(rig, GuestSpec::new(cpus))?;
    guest.sh("modprobe igbvf")?;
    add_vf(&mut guest, &control)?;
    guest.type_command("reboot -f")?;
    guest.wait_ready()?;
    ping_over_vf(&mut guest)?;
    control.remove(VF)?;
    wait_for_removal(&mut guest, "igbvf")?;
    guest.type_command("reboot -f")?;
    guest.wait_ready()?;
    guest.sh("modprobe igbvf")?;
    add_vf(&mut guest, &control)?;
    ping_over_vf(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// The host's kernel is made to believe that the NIC reported an uncorrectable error.
fn fatal_error(rig: &mut Rig, cpus: u32) -> Result<()> {
    let (mut guest, _control) = boot(rig, GuestSpec::owning(&[E1000E], cpus))?;
    network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(&mut guest, 5, 0.05, E1000E_PEER)?;
    inject_fatal_error(3, 0, 0)?;
    wait_until(&mut guest, "dmesg | grep -q 'AER.*Uncorrect.*Fatal'")?;
    // Its driver is told, and recovers.
    wait_until(&mut guest, "dmesg | grep -q 'device recovery successful'")?;
    network_up(&mut guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(&mut guest, 5, 0.1, E1000E_PEER)?;
    expect_success(guest.power_off()?)
}

/// By the kernel's own means: `struct aer_error_inj` of drivers/pci/pcie/aer_inject.c, with a malformed TLP.
fn inject_fatal_error(bus: u8, device: u8, function: u8) -> Result<()> {
    const MALFORMED_TLP: u32 = 1 << 18;
    host::run("modprobe", "aer_inject")?;
    let mut request = vec![bus, device, function, 0];
    let words = [MALFORMED_TLP, 0, 1, 2, 3, 4, 0];
    request.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let path = "/dev/aer_inject";
    let mut file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|error| Error::Other(format!("{path}: {error}")))?;
    file.write_all(&request)
        .map_err(|error| Error::Other(format!("{path}: {error}")))
}
