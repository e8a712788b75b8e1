//! `sluice bind` and `sluice release`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use clap::Args;
use pci::HostBdf;

use crate::host::{BindError, Bound, Changes, Host, Member, Released, ThisKernel};

pub(super) const AFTER_BIND: &str = "\
The kernel gives an IOMMU group to a guest only as a whole, so all devices of a group that have a \
driver must be bound together. Nothing is changed if one of the devices cannot be bound.";

pub(super) const AFTER_RELEASE: &str = "\
A device that `sluice bind` has bound gets back the driver it had; any other the one that the \
kernel finds for it.";

/// `sluice bind`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// The devices, such as 0000:03:00.0
    #[arg(value_name = "BDF", required = true)]
    pub functions: Vec<HostBdf>,

    /// Take them even from the host's root file system, other mounted disks or default route
    #[arg(long)]
    pub force: bool,
}

/// `sluice release`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// The devices, such as 0000:03:00.0
    #[arg(value_name = "BDF", required = true)]
    pub functions: Vec<HostBdf>,
}

/// Hands devices to VFIO, and tells about each.
pub fn bind(flags: &Bind) -> Result<String, BindError> {
    let changes = Changes::begin(&Host::this_machine(), Arc::new(ThisKernel))?;
    let bound = changes.bind(&flags.functions, flags.force)?;
    Ok(tell_bound(&bound))
}

/// Hands devices back to the host, and tells about each.
pub fn release(flags: &Release) -> Result<String, BindError> {
    let changes = Changes::begin(&Host::this_machine(), Arc::new(ThisKernel))?;
    let released = changes.release(&flags.functions)?;
    Ok(released.iter().map(tell_released).collect())
}

fn tell_bound(all: &[Bound]) -> String {
    let mut text = String::new();
    for Bound { before, .. } in all {
        let what = match before.driver.as_deref() {
            Some("vfio-pci") => "was bound to vfio-pci already".to_owned(),
            Some(driver) if driver.contains("vfio") => {
                format!("has VFIO's driver {driver} already")
            }
            Some(driver) => format!("bound to vfio-pci, was with {driver}"),
            None => "bound to vfio-pci, had no driver".to_owned(),
        };
        let _ = writeln!(text, "{before}: {what}");
    }
    let is_bound = |member: &&Member| match member {
        Member::Pci(other) => all
            .iter()
            .any(|bound| bound.before.address == other.address),
        Member::Other { .. } => false,
    };
    let groups: BTreeMap<_, _> = all.iter().map(|b| (b.group.number, &b.group)).collect();
    for (number, group) in groups {
        for member in group.members.iter().filter(|member| !is_bound(member)) {
            let _ = writeln!(
                text,
                "IOMMU group {number} also has {member}, which may stay as it is"
            );
        }
    }
    text
}

fn tell_released(released: &Released) -> String {
    let Released { before, driver } = released;
    let changed = before.driver != *driver;
    match driver {
        Some(driver) if changed => format!("{before}: with {driver} again\n"),
        Some(driver) => format!("{before}: was with {driver} already\n"),
        None if changed => format!("{before}: has no driver now\n"),
        None => format!("{before}: had no driver already\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden::assert_golden;
    use crate::host::fake_kernel::FakeKernel;
    use crate::host::fake_tree::FakeFunction;

    #[test]
    fn tells_what_was_bound_and_what_else_is_in_its_group() {
        let kernel = FakeKernel::new();
        let function = |address, class, driver| FakeFunction {
            class,
            driver,
            group: Some(7),
            ..FakeFunction::at(address)
        };
        kernel
            .tree
            .add(&function("0000:00:1c.0", 0x06_0400, Some("pcieport")))
            .add(&function("0000:03:00.0", 0x02_0000, Some("igbvf")))
            .add(&function("0000:03:00.1", 0x02_0000, None))
            .add(&function("0000:03:00.2", 0x02_0000, None));
        let both = ["0000:03:00.0", "0000:03:00.1"].map(|address| address.parse().unwrap());
        let changes = Changes::begin(&kernel.host(), kernel.clone()).unwrap();
        let mut text = String::new();
        for _ in 0..2 {
            text += &tell_bound(&changes.bind(&both, false).unwrap());
            text += "\n";
        }
        for _ in 0..2 {
            text.extend(changes.release(&both).unwrap().iter().map(tell_released));
            text += "\n";
        }
        assert_golden("bind.txt", &text);
    }
}
