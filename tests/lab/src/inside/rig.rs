//! What tests share: the monitor under test, a scratch directory, and a guest that outlives one test.

use super::guest::{Guest, expect_success};
use super::media::{Disk, Iso};
use super::vmm::{GuestSpec, Network, Vmm};
use crate::error::{Context, Error, Result};
use crate::topology::{TAP, VIRTUAL_FUNCTIONS};
use std::fs;
use std::path::PathBuf;

/// Port of the host that passt forwards to [`FORWARD_GUEST_PORT`].
pub const FORWARD_HOST_PORT: u16 = 5555;
/// Port of the guest that is reached through the host's.
pub const FORWARD_GUEST_PORT: u16 = 7777;
const DISK_BYTES: u64 = 96 << 20;
const ISO_BYTES: usize = 4 << 20;

/// A guest several tests may use one after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fixture {
    /// It owns a VF, an IDE disk with ext4, an ISO, and an e1000 on the TAP.
    Everything(u32),
    /// It has an e1000 on the unprivileged network.
    UserNetwork(u32),
}

/// The rig.
pub struct Rig {
    /// The monitor under test.
    pub vmm: Vmm,
    scratch: PathBuf,
    running: Option<(Fixture, Guest)>,
    iso: Option<Iso>,
}

impl Rig {
    /// A rig with nothing running.
    pub fn new(vmm: Vmm) -> Result<Self> {
        let scratch = PathBuf::from("/run/lab-scratch");
        fs::create_dir_all(&scratch).path(&scratch)?;
        Ok(Self {
            vmm,
            scratch,
            running: None,
            iso: None,
        })
    }

    /// A file in the scratch directory, which is in memory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Skips a test that is about Sluice alone.
    pub fn only_sluice(&self) -> Result<()> {
        match self.vmm {
            Vmm::Sluice => Ok(()),
            Vmm::Qemu => Err(Error::Skipped("about Sluice alone".into())),
        }
    }

    /// The guest of a fixture, started unless it runs already.
    pub fn guest(&mut self, fixture: Fixture) -> Result<&mut Guest> {
        let guest = match self.running.take() {
            Some((running, guest)) if running == fixture => guest,
            other => {
                drop(other);
                let spec = self.spec(fixture)?;
                Guest::boot(self.vmm, &spec)?
            }
        };
        Ok(&mut self.running.insert((fixture, guest)).1)
    }

    /// The ISO image, built when first wanted.
    pub fn iso(&mut self) -> Result<&Iso> {
        let iso = match self.iso.take() {
            Some(iso) => iso,
            None => Iso::build(&self.scratch, ISO_BYTES)?,
        };
        Ok(self.iso.insert(iso))
    }

    /// Boots a guest of a test's own; whatever was running ends.
    pub fn boot(&mut self, spec: &GuestSpec) -> Result<Guest> {
        self.stop();
        Guest::boot(self.vmm, spec)
    }

    /// Boots a guest like a fixture's with another monitor; whatever was running ends.
    pub fn boot_with(&mut self, vmm: Vmm, fixture: Fixture) -> Result<Guest> {
        self.stop();
        let spec = self.spec(fixture)?;
        Guest::boot(vmm, &spec)
    }

    /// Ends the shared guest the hard way, as after a failure.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Ends the shared guest the proper way and looks at the monitor's exit status.
    pub fn power_off(&mut self, fixture: Fixture) -> Result<()> {
        self.guest(fixture)?;
        match self.running.take() {
            Some((_, guest)) => expect_success(guest.power_off()?),
            None => Ok(()),
        }
    }

    /// Whether another fixture than this one is running.
    pub fn is_running_other_than(&self, fixture: Option<Fixture>) -> bool {
        self.running
            .as_ref()
            .is_some_and(|(running, _)| Some(*running) != fixture)
    }

    fn spec(&mut self, fixture: Fixture) -> Result<GuestSpec> {
        Ok(match fixture {
            Fixture::Everything(cpus) => GuestSpec {
                disk: Some(Disk::with_ext4(self.file("everything.img"), DISK_BYTES)?),
                cdrom: Some(self.iso()?.path.clone()),
                network: Some(Network::Tap(TAP)),
                assign: vec![VIRTUAL_FUNCTIONS[0]],
                ..GuestSpec::new(cpus)
            },
            Fixture::UserNetwork(cpus) => GuestSpec {
                network: Some(Network::User {
                    host_port: FORWARD_HOST_PORT,
                    guest_port: FORWARD_GUEST_PORT,
                }),
                ..GuestSpec::new(cpus)
            },
        })
    }
}
