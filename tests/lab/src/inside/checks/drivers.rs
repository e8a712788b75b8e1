//! A USB controller and a physical function: each under its stock driver.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::host;
use crate::inside::linux::{
    copy_through_block_device, interrupts, network_up, ping_all, wait_for_block_device,
};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{PF_GUEST_ADDRESS, PF_PEER, PHYSICAL_FUNCTION, XHCI};

pub const CHECKS: &[Check] = &[
    Check {
        name: "xhci-assigned-with-a-disk",
        cpus: &[2],
        limit: 180,
        fixture: None,
        run: |rig, cpus| host::with_device(XHCI, || xhci(rig, cpus)),
    },
    Check {
        name: "physical-function-assigned",
        cpus: &[1],
        limit: 180,
        fixture: None,
        run: |rig, cpus| {
            // A guest of a test before may have a virtual function still.
            rig.stop();
            host::with_physical_function(|| physical_function(rig, cpus))
        },
    },
];

fn xhci(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&[XHCI], cpus))?;
    use_xhci(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Its driver binds, and what is written to its disk can be read.
pub(super) fn use_xhci(guest: &mut Guest) -> Result<()> {
    guest.sh("modprobe -a xhci_pci usb_storage sd_mod")?;
    wait_for_block_device(guest, "sda")?;
    copy_through_block_device(guest, "sda")?;
    if interrupts(guest, &["MSI", "xhci_hcd"])? == 0 {
        return fail(format!(
            "xHCI: no message-signalled interrupt counted:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(())
}

fn physical_function(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guest = rig.boot(&GuestSpec::owning(&[PHYSICAL_FUNCTION], cpus))?;
    use_physical_function(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// Its driver binds, and its wire is reached.
pub(super) fn use_physical_function(guest: &mut Guest) -> Result<()> {
    let interface = network_up(guest, "igb", PF_GUEST_ADDRESS)?;
    ping_all(guest, 50, 0.05, PF_PEER)?;
    if interrupts(guest, &["MSI", &interface])? == 0 {
        return fail(format!(
            "igb: no message-signalled interrupt counted:\n{}",
            guest.sh("cat /proc/interrupts")?
        ));
    }
    Ok(())
}
