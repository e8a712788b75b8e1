//! All the virtual functions there can be, each with a guest of its own.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::host;
use crate::inside::linux::network_up;
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{ALL_VIRTUAL_FUNCTIONS, PF_ADDRESS};
use std::time::Duration;

pub const CHECKS: &[Check] = &[Check {
    name: "seven-guests-ping-each-other-over-seven-vfs",
    cpus: &[1],
    limit: 600,
    fixture: None,
    run: |rig, cpus| {
        rig.stop();
        host::with_all_virtual_functions(|| seven_guests(rig, cpus))
    },
}];

/// Seven boot at once on two emulated processors.
const BOOT_PATIENCE: Duration = Duration::from_secs(400);
const PATIENCE: Duration = Duration::from_secs(120);
/// Each guest's pings to each other.
const PINGS: u32 = 3;

fn seven_guests(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut guests = Vec::new();
    for address in ALL_VIRTUAL_FUNCTIONS {
        let spec = GuestSpec {
            memory: "192M".into(),
            ..GuestSpec::owning(&[address], cpus)
        };
        guests.push(Guest::start(rig.vmm, &spec)?);
    }
    for guest in &mut guests {
        guest.wait_ready_within(BOOT_PATIENCE)?;
    }
    for (number, guest) in guests.iter_mut().enumerate() {
        network_up(guest, "igbvf", &address_of(number))?;
    }

    let everybody: Vec<String> = (0..guests.len())
        .map(address_of)
        .chain([PF_ADDRESS.to_owned()])
        .collect();
    let command = format!(
        "lost=; for peer in {}; do ping -q -c {PINGS} -i 0.2 -W 5 $peer | grep -q ' {PINGS} packets received' || lost=\"$lost $peer\"; done; echo \"no answer from:$lost\"; [ -z \"$lost\" ]",
        everybody.join(" ")
    );
    let mut asked = Vec::new();
    for guest in &mut guests {
        asked.push(guest.type_command(&command)?);
    }
    for (number, (guest, id)) in guests.iter_mut().zip(asked).enumerate() {
        let answer = guest.answer(id, &command, PATIENCE)?;
        if answer.status != 0 {
            return fail(format!(
                "the guest at {}: {}",
                address_of(number),
                answer.output
            ));
        }
    }
    guests
        .into_iter()
        .try_for_each(|guest| expect_success(guest.power_off()?))
}

/// On the network all functions of the NIC share.
fn address_of(guest: usize) -> String {
    format!("10.10.0.{}", 11 + guest)
}
