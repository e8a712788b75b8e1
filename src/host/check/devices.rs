//! Devices that VFIO holds already: whether a guest can have them.

use super::Finding;
use crate::host::group::is_vfio;
use crate::host::{AssignError, Host, Surveyed};

const TOPIC: &str = "devices";

/// What can be assigned now, and each device that was meant to be and cannot.
pub fn check(host: &Host) -> Vec<Finding> {
    let all = match host.survey() {
        Ok(all) => all,
        Err(error) => {
            return vec![Finding::fail(
                TOPIC,
                format!("the PCI functions of this host cannot be listed: {error}"),
                "see that /sys is mounted and readable",
            )];
        }
    };
    let is_meant = |device: &&Surveyed| device.function.driver.as_deref().is_some_and(is_vfio);
    let meant: Vec<_> = all.iter().filter(is_meant).collect();
    let mut findings: Vec<_> = meant.iter().filter_map(|device| refused(device)).collect();
    let in_use = |d: &&&Surveyed| matches!(d.obstacle, Some(AssignError::InUse { .. }));
    let with_guests = list(meant.iter().filter(in_use));
    if !with_guests.is_empty() {
        let what = format!("in use: {with_guests}");
        findings.insert(0, Finding::ok(TOPIC, what));
    }
    let ready = list(meant.iter().filter(|device| device.obstacle.is_none()));
    if !ready.is_empty() {
        let what = format!("ready for guests: {ready}");
        findings.insert(0, Finding::ok(TOPIC, what));
    } else if meant.is_empty() {
        findings.push(Finding::warn(
            TOPIC,
            "none is bound to vfio-pci, so none is ready for a guest",
            "choose one with `sluice devices`, then `sluice bind BDF`",
        ));
    }
    findings
}

fn list<'a>(devices: impl Iterator<Item = &'a &'a Surveyed>) -> String {
    let addresses: Vec<_> = devices.map(|d| d.function.address.to_string()).collect();
    addresses.join(", ")
}

fn refused(device: &Surveyed) -> Option<Finding> {
    let why = device.obstacle.as_ref()?;
    if matches!(why, AssignError::InUse { .. }) {
        return None;
    }
    let what = format!("{} cannot be assigned: {}", device.function, why.reason());
    Some(Finding::warn(TOPIC, what, why.remedy()))
}
