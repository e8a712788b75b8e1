//! What is assigned goes on working however often its driver begins again.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{network_up, ping_all, rebind, sha256_in_guest, wait_for_block_device};
use crate::inside::rig::Rig;
use crate::inside::vmm::GuestSpec;
use crate::topology::{NVME, PF_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS};

pub const CHECKS: &[Check] = &[Check {
    name: "drivers-bind-again-ten-times",
    cpus: &[1, 2],
    limit: 240,
    fixture: None,
    run: drivers,
}];

const TIMES: u32 = 10;

/// A guest with a virtual function and an NVMe disk, the start of which it knows.
struct Owner {
    guest: Guest,
    sha256: String,
}

impl Owner {
    fn boot(rig: &mut Rig, spec: GuestSpec) -> Result<Self> {
        let guest = rig.boot(&GuestSpec {
            assign: vec![VIRTUAL_FUNCTIONS[0], NVME],
            ..spec
        })?;
        let mut owner = Self {
            guest,
            sha256: String::new(),
        };
        owner.load_drivers()?;
        owner
            .guest
            .sh("dd if=/dev/urandom of=/tmp/given bs=64k count=16 2>&1")?;
        owner
            .guest
            .sh("dd if=/tmp/given of=/dev/nvme0n1 bs=64k oflag=direct 2>&1 && sync")?;
        owner.sha256 = sha256_in_guest(&mut owner.guest, "/tmp/given")?;
        Ok(owner)
    }

    fn load_drivers(&mut self) -> Result<()> {
        self.guest.sh("modprobe nvme")?;
        self.network_up()
    }

    fn network_up(&mut self) -> Result<()> {
        network_up(&mut self.guest, "igbvf", VF_GUEST_ADDRESS).map(drop)
    }

    /// Uses both devices.
    fn expect_both_work(&mut self) -> Result<()> {
        ping_all(&mut self.guest, 5, 0.1, PF_ADDRESS)?;
        wait_for_block_device(&mut self.guest, "nvme0n1")?;
        self.guest
            .sh("dd if=/dev/nvme0n1 of=/tmp/taken bs=64k count=16 iflag=direct 2>&1")?;
        let taken = sha256_in_guest(&mut self.guest, "/tmp/taken")?;
        if taken == self.sha256 {
            Ok(())
        } else {
            fail(format!("NVMe: wrote {}, reads {taken}", self.sha256))
        }
    }

    /// The guest has only begun again when it was told to.
    fn finish(self) -> Result<()> {
        let complaints = self.guest.complaints();
        expect_success(self.guest.power_off()?)?;
        if complaints.contains("triple fault") {
            return fail(format!("the guest crashed on its way: {complaints}"));
        }
        Ok(())
    }
}

fn drivers(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut owner = Owner::boot(rig, GuestSpec::new(cpus))?;
    for time in 1..=TIMES {
        let mut again = || {
            rebind(&mut owner.guest, "igbvf")?;
            rebind(&mut owner.guest, "nvme")?;
            owner.network_up()?;
            owner.expect_both_work()
        };
        counted(time, again())?;
    }
    owner.finish()
}

/// Says at which time it failed.
fn counted(time: u32, outcome: Result<()>) -> Result<()> {
    outcome.or_else(|error| fail(format!("time {time} of {TIMES}: {error}")))
}
