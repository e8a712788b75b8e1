//! Functions of one device assigned together, and how devices are reset.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{network_up, ping_all};
use crate::inside::rig::Rig;
use crate::inside::sysfs;
use crate::inside::vmm::GuestSpec;
use crate::topology::{E1000E_GUEST_ADDRESS, E1000E_PEER, TWINS};

pub const CHECKS: &[Check] = &[Check {
    name: "functions-of-one-device-stay-together",
    cpus: &[2],
    limit: 180,
    fixture: None,
    run: twins_together,
}];

fn with_twins(rig: &mut Rig, cpus: u32) -> Result<Guest> {
    for address in TWINS {
        sysfs::bind(address, "vfio-pci")?;
    }
    rig.boot(&GuestSpec {
        assign: TWINS.to_vec(),
        ..GuestSpec::new(cpus)
    })
}

/// Where the guest has its 82574Ls.
fn addresses(guest: &mut Guest) -> Result<Vec<String>> {
    let listed = guest.sh("lspci -Dn -d 8086:10d3")?;
    let address = |line: &str| line.split_whitespace().next().map(str::to_owned);
    Ok(listed.lines().filter_map(address).collect())
}

/// The first twin's interface reaches its wire.
fn works(guest: &mut Guest) -> Result<()> {
    network_up(guest, "e1000e", E1000E_GUEST_ADDRESS)?;
    ping_all(guest, 10, 0.05, E1000E_PEER).map(drop)
}

fn twins_together(rig: &mut Rig, cpus: u32) -> Result<()> {
    rig.only_sluice()?;
    let mut guest = with_twins(rig, cpus)?;
    let found = addresses(&mut guest)?;
    let [first, second] = &found[..] else {
        return fail(format!("the guest has {found:?}, not two 82574Ls"));
    };
    let slot = |address: &str| address.rsplit_once('.').map(|(slot, _)| slot.to_owned());
    if slot(first) != slot(second) || !first.ends_with(".0") {
        return fail(format!(
            "{first} and {second} are not functions of one device"
        ));
    }
    works(&mut guest)?;
    expect_success(guest.power_off()?)
}
