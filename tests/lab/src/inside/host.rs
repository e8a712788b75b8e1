//! Making the emulated host a host for device passthrough, as its administrator would.

use super::sysfs;
use crate::error::Result;
use crate::process::output_of;
use crate::topology::{
    ALL_VIRTUAL_FUNCTIONS, E1000E, NVME, PF_ADDRESS, PHYSICAL_FUNCTION, TAP, TAP_ADDRESS,
    UPLINK_ADDRESS, UPLINK_ROUTER, VIRTUAL_FUNCTION_MACS, VIRTUAL_FUNCTIONS,
};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Loads the drivers, makes two virtual functions and the networks, and gives what can be assigned to vfio-pci.
pub fn set_up() -> Result<()> {
    load_drivers()?;
    // Else every 4 KiB of a guest's memory costs a fault, which emulated processors are slow at.
    sysfs::write(
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "advise",
    )?;
    ip("link set lo up")?;
    bring_up_physical_function()?;
    make_virtual_functions(&VIRTUAL_FUNCTIONS)?;
    for address in [NVME, E1000E] {
        sysfs::bind(address, "vfio-pci")?;
    }
    make_networks()
}

/// Lets the work have the physical function, bound to vfio-pci and without virtual functions.
pub fn with_physical_function(work: impl FnOnce() -> Result<()>) -> Result<()> {
    unmake_virtual_functions()?;
    let outcome = sysfs::bind(PHYSICAL_FUNCTION, "vfio-pci").and_then(|()| work());
    sysfs::bind(PHYSICAL_FUNCTION, "igb")?;
    bring_up_physical_function()?;
    make_virtual_functions(&VIRTUAL_FUNCTIONS)?;
    outcome
}

/// Lets the work have all the virtual functions there can be, bound to vfio-pci.
pub fn with_all_virtual_functions(work: impl FnOnce() -> Result<()>) -> Result<()> {
    unmake_virtual_functions()?;
    let outcome = make_virtual_functions(&ALL_VIRTUAL_FUNCTIONS).and_then(|()| work());
    unmake_virtual_functions()?;
    make_virtual_functions(&VIRTUAL_FUNCTIONS)?;
    outcome
}

/// Lets the work have the host as it would be found: no virtual functions, drivers that would take new ones, and a
/// physical function that is down.
pub fn without_virtual_functions(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let interface = sysfs::interface(PHYSICAL_FUNCTION)?;
    let autoprobe = sysfs::device(PHYSICAL_FUNCTION).join("sriov_drivers_autoprobe");
    unmake_virtual_functions()?;
    sysfs::write(autoprobe, "1")?;
    ip(&format!("link set {interface} down"))?;
    let outcome = work();
    unmake_virtual_functions()?;
    take_link_up(&interface)?;
    make_virtual_functions(&VIRTUAL_FUNCTIONS)?;
    outcome
}

/// Lets the work have a device that no driver of the host's drives, bound to vfio-pci.
pub fn with_device(address: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let outcome = sysfs::bind(address, "vfio-pci").and_then(|()| work());
    sysfs::unbind(address)?;
    outcome
}

fn load_drivers() -> Result<()> {
    run(
        "modprobe",
        "-a kvm-amd vfio-pci vfio_iommu_type1 igb tun dummy",
    )
}

/// It must be up before any VF driver may load.
fn bring_up_physical_function() -> Result<()> {
    let interface = sysfs::interface(PHYSICAL_FUNCTION)?;
    ip(&format!("addr add {PF_ADDRESS}/24 dev {interface}"))?;
    take_link_up(&interface)
}

fn take_link_up(interface: &str) -> Result<()> {
    ip(&format!("link set {interface} up"))?;
    let carrier = format!("/sys/class/net/{interface}/carrier");
    sysfs::wait_until(
        "carrier on the physical function",
        Duration::from_secs(20),
        || fs::read_to_string(&carrier).is_ok_and(|state| state.trim() == "1"),
    )
}

/// Makes as many, gives each a lasting MAC address, and binds it to vfio-pci.
pub fn make_virtual_functions(addresses: &[&str]) -> Result<()> {
    let interface = sysfs::interface(PHYSICAL_FUNCTION)?;
    let device = sysfs::device(PHYSICAL_FUNCTION);
    // Else the host's own igbvf would take them.
    sysfs::write(device.join("sriov_drivers_autoprobe"), "0")?;
    sysfs::write(device.join("sriov_numvfs"), &addresses.len().to_string())?;
    for (number, (address, mac)) in addresses.iter().zip(VIRTUAL_FUNCTION_MACS).enumerate() {
        ip(&format!("link set {interface} vf {number} mac {mac}"))?;
        sysfs::bind(address, "vfio-pci")?;
    }
    Ok(())
}

fn unmake_virtual_functions() -> Result<()> {
    sysfs::write(sysfs::device(PHYSICAL_FUNCTION).join("sriov_numvfs"), "0")
}

fn make_networks() -> Result<()> {
    ip(&format!("tuntap add dev {TAP} mode tap"))?;
    ip(&format!("addr add {TAP_ADDRESS}/24 dev {TAP}"))?;
    ip(&format!("link set {TAP} up"))?;
    // passt copies the addresses of the interface that has the default route.
    ip("link add uplink type dummy")?;
    ip(&format!("addr add {UPLINK_ADDRESS}/24 dev uplink"))?;
    ip("link set uplink up")?;
    ip(&format!("route add default via {UPLINK_ROUTER}"))
}

/// Runs `ip` with the words of a line.
pub fn ip(line: &str) -> Result<()> {
    run("ip", line)
}

/// Runs a program with these words.
pub fn run(program: &str, line: &str) -> Result<()> {
    output_of(Command::new(program).args(line.split_whitespace())).map(drop)
}
