//! What an operator would find changed on the host, compared before and after.

use crate::error::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Programs whose being there afterwards means something was left behind.
const PROGRAMS: [&str; 3] = ["sluice", "passt", "qemu-system-x86"];

/// The state of the host, as far as a monitor could change it.
#[derive(PartialEq, Debug)]
pub struct HostState(BTreeMap<String, String>);

impl HostState {
    /// Looks at drivers, virtual functions, network interfaces and processes.
    pub fn now() -> Result<Self> {
        let mut facts = BTreeMap::new();
        for device in entries("/sys/bus/pci/devices")? {
            let path = Path::new("/sys/bus/pci/devices").join(&device);
            let preferred = fs::read_to_string(path.join("driver_override")).unwrap_or_default();
            let driver = super::sysfs::driver(&device);
            let driver = driver.as_deref().unwrap_or("none");
            facts.insert(
                format!("driver of {device}"),
                format!("{driver}, preferred {}", preferred.trim()),
            );
        }
        for device in entries("/sys/bus/pci/devices")? {
            for name in ["sriov_numvfs", "sriov_drivers_autoprobe"] {
                let path = Path::new("/sys/bus/pci/devices").join(&device).join(name);
                if let Ok(text) = fs::read_to_string(path) {
                    facts.insert(format!("{name} of {device}"), text.trim().to_owned());
                }
            }
        }
        for interface in entries("/sys/class/net")? {
            let flags =
                fs::read_to_string(Path::new("/sys/class/net").join(&interface).join("flags"));
            facts.insert(
                format!("interface {interface}"),
                flags.unwrap_or_default().trim().to_owned(),
            );
        }
        for process in entries("/proc")? {
            let name = fs::read_to_string(Path::new("/proc").join(&process).join("comm"))
                .unwrap_or_default();
            if PROGRAMS.contains(&name.trim()) {
                facts.insert(format!("process {process}"), name.trim().to_owned());
            }
        }
        Ok(Self(facts))
    }

    /// What is otherwise in `later`, in words.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (fact, was) in &self.0 {
            match later.0.get(fact) {
                Some(is) if is == was => {}
                Some(is) => changes.push(format!("{fact}: was {was}, is {is}")),
                None => changes.push(format!("{fact} ({was}) is gone")),
            }
        }
        for (fact, is) in &later.0 {
            if !self.0.contains_key(fact) {
                changes.push(format!("{fact} ({is}) is new"));
            }
        }
        changes
    }
}

fn entries(directory: &str) -> Result<Vec<String>> {
    let listing = fs::read_dir(directory).context(directory)?;
    Ok(listing
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_in_words() {
        let state = |facts: &[(&str, &str)]| {
            HostState(
                facts
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            )
        };
        let before = state(&[
            ("interface tap0", "0x1003"),
            ("driver of a", "igb"),
            ("process 7", "passt"),
        ]);
        let after = state(&[
            ("interface tap0", "0x1002"),
            ("driver of a", "igb"),
            ("process 8", "sluice"),
        ]);
        assert_eq!(
            before.changes(&after),
            [
                "interface tap0: was 0x1003, is 0x1002",
                "process 7 (passt) is gone",
                "process 8 (sluice) is new"
            ]
        );
    }
}
