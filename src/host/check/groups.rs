//! IOMMU groups: those that hold more than one device, and the ports that are to blame.

use std::collections::BTreeSet;

use super::Finding;
use crate::host::isolation::Isolation;
use crate::host::{Group, Host, PciFunction, names_in};

const TOPIC: &str = "isolation";

/// A finding for each group whose devices only come together because something above them
/// does not isolate, or one that all is well.
pub fn check(host: &Host) -> Vec<Finding> {
    let names = names_in(&host.groups()).unwrap_or_default();
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        // What is wrong is said about the IOMMU.
        return Vec::new();
    }
    let groups = numbers.iter().filter_map(|n| host.group(*n).ok());
    let gaps: Vec<_> = groups.filter_map(|group| gap(host, &group)).collect();
    if gaps.is_empty() {
        let what = "no IOMMU group holds more than one device";
        return vec![Finding::ok(TOPIC, what)];
    }
    gaps
}

fn gap(host: &Host, group: &Group) -> Option<Finding> {
    let devices = devices(group);
    if devices.len() < 2 {
        return None;
    }
    let mut ports = host.gaps(group).into_iter().peekable();
    // Without a port to blame they are neighbours on a root bus; nothing can be done.
    ports.peek()?;
    let why: Vec<_> = ports
        .map(|(port, how)| format!("port {port} {}", blame(how)))
        .collect();
    let names: Vec<_> = devices.into_iter().collect();
    Some(Finding::warn(
        TOPIC,
        format!(
            "group {} holds {} together: {}",
            group.number,
            names.join(" and "),
            why.join(", ")
        ),
        "assign all of the group to one guest, or move a device to a slot behind another port",
    ))
}

/// The devices of a group: `0000:02:00` whatever functions it has, and every VF by itself.
fn devices(group: &Group) -> BTreeSet<String> {
    let device = |function: &PciFunction| {
        let address = function.address.to_string();
        if function.physical.is_some() {
            return address;
        }
        let device = address
            .rsplit_once('.')
            .map(|(device, _)| device.to_owned());
        device.unwrap_or(address)
    };
    group.endpoints().map(device).collect()
}

fn blame(how: Isolation) -> &'static str {
    match how {
        Isolation::Isolates => "isolates them",
        Isolation::NoAcs => "has no ACS",
        Isolation::AcsOff => "has its ACS turned off",
        Isolation::Conventional => "leads to a conventional PCI bus",
        Isolation::Unknown => "may lack ACS (only root can see)",
    }
}
