//! What is assigned goes on working however often its driver, the kernel or the whole guest begins again.

use super::Check;
use crate::cpio::Archive;
use crate::error::{Context, Result, fail};
use crate::inside::guest::{Guest, expect_success};
use crate::inside::linux::{
    interface_of, interrupts, network_up, ping_all, rebind, sha256_in_guest, wait_for_block_device,
};
use crate::inside::rig::Rig;
use crate::inside::vmm::{self, GuestSpec};
use crate::topology::{
    E1000E, E1000E_GUEST_ADDRESS, E1000E_PEER, NVME, PF_ADDRESS, VF_GUEST_ADDRESS,
    VIRTUAL_FUNCTIONS,
};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

pub const CHECKS: &[Check] = &[
    Check {
        name: "drivers-bind-again-ten-times",
        cpus: &[2],
        limit: 240,
        fixture: None,
        run: drivers,
    },
    Check {
        name: "guest-reboots-ten-times",
        cpus: &[1],
        limit: 600,
        fixture: None,
        run: reboots,
    },
    Check {
        name: "guest-kexecs-ten-times",
        cpus: &[2],
        limit: 600,
        fixture: None,
        run: kexecs,
    },
];

const TIMES: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest with a virtual function, a NIC on its pin, and an NVMe disk, the start of which it knows.
struct Owner {
    guest: Guest,
    sha256: String,
}

impl Owner {
    fn boot(rig: &mut Rig, spec: GuestSpec) -> Result<Self> {
        let guest = rig.boot(&GuestSpec {
            assign: vec![VIRTUAL_FUNCTIONS[0], NVME, E1000E],
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
        // One mode for each card found, and one that is bound again counts as another.
        let modes = ["0"; 1 + TIMES as usize].join(",");
        self.guest
            .sh(&format!("modprobe nvme && modprobe e1000e IntMode={modes}"))?;
        self.networks_up()
    }

    fn networks_up(&mut self) -> Result<()> {
        network_up(&mut self.guest, "igbvf", VF_GUEST_ADDRESS)?;
        network_up(&mut self.guest, "e1000e", E1000E_GUEST_ADDRESS).map(drop)
    }

    /// Uses all devices.
    fn expect_all_work(&mut self) -> Result<()> {
        ping_all(&mut self.guest, 5, 0.1, PF_ADDRESS)?;
        ping_all(&mut self.guest, 5, 0.1, E1000E_PEER)?;
        let interface = interface_of(&mut self.guest, "e1000e")?;
        if interrupts(&mut self.guest, &["IO-APIC", &interface])? == 0 {
            return fail("the NIC is not on its pin");
        }
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
            rebind(&mut owner.guest, "e1000e")?;
            owner.networks_up()?;
            owner.expect_all_work()
        };
        counted(time, again())?;
    }
    owner.finish()
}

fn reboots(rig: &mut Rig, cpus: u32) -> Result<()> {
    let mut owner = Owner::boot(rig, GuestSpec::new(cpus))?;
    for time in 1..=TIMES {
        let mut again = || {
            owner.guest.sh("touch /tmp/before")?;
            owner.guest.type_command("reboot -f")?;
            owner.guest.wait_ready()?;
            if owner.guest.ask("test -e /tmp/before", PATIENCE)?.status == 0 {
                return fail("the guest did not start over");
            }
            owner.load_drivers()?;
            owner.expect_all_work()
        };
        counted(time, again())?;
    }
    owner.finish()
}

/// No reset comes between the kernels: the next finds the devices as the last has left them. Each is told its number,
/// which a reset would lose.
fn kexecs(rig: &mut Rig, cpus: u32) -> Result<()> {
    let spec = GuestSpec {
        initrd: Some(initrd_with_kernel(rig)?),
        extra_cmdline: "retain_initrd",
        ..GuestSpec::new(cpus)
    };
    let mut owner = Owner::boot(rig, spec)?;
    for time in 1..=TIMES {
        let mut again = || {
            owner.guest.type_command(&format!(
                "lab agent kexec {KERNEL_IN_GUEST} {INITRD_IN_GUEST} \"$(sed 's/ kernel=.*//' /proc/cmdline) kernel={time}\""
            ))?;
            owner.guest.wait_ready()?;
            owner
                .guest
                .sh(&format!("grep -qw kernel={time} /proc/cmdline"))?;
            owner.load_drivers()?;
            owner.expect_all_work()
        };
        counted(time, again())?;
    }
    owner.finish()
}

const KERNEL_IN_GUEST: &str = "/kernel";
/// Where a kernel started with `retain_initrd` shows what it was given.
const INITRD_IN_GUEST: &str = "/sys/firmware/initrd";

/// The lab's initrd, with the kernel in it for the guest to start. Archives may follow one another.
fn initrd_with_kernel(rig: &Rig) -> Result<PathBuf> {
    let (own, kernel) = (vmm::own_initrd(), vmm::kernel());
    let path = rig.file("initrd-with-kernel.img");
    let mut archive = Archive::new(fs::read(&own).path(&own)?);
    archive
        .file(
            KERNEL_IN_GUEST.trim_start_matches('/'),
            &fs::read(&kernel).path(&kernel)?,
        )
        .path(&path)?;
    fs::write(&path, archive.finish().path(&path)?).path(&path)?;
    Ok(path)
}

/// Says at which time it failed.
fn counted(time: u32, outcome: Result<()>) -> Result<()> {
    outcome.or_else(|error| fail(format!("time {time} of {TIMES}: {error}")))
}
