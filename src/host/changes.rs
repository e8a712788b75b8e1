//! Changing the host such that every change can be put back: it is written down before it is
//! made ([`super::journal`]), one process at a time changes anything, and what a killed
//! process left is put back before anything else is done.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pci::HostBdf;

use super::journal::{HostLock, Journal, Other, RecordError, Records, Step};
use super::kernel::Kernel;
use super::vf::{VfSetting, VfSettings};
use super::{Host, PciFunction};

/// The driver that gives devices to user space.
pub(super) const VFIO_PCI: &str = "vfio-pci";
/// Seconds to wait for another process that is changing the host: making VFs and waiting for
/// a link take it some.
const LOCK_PATIENCE: u64 = 60;
const TICK: Duration = Duration::from_millis(20);

/// A change of the host that did not work.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The record of changes.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Sysfs could not be read.
    #[error("cannot read about {0}")]
    Read(HostBdf, #[source] io::Error),
    /// Sysfs could not be written.
    #[error("cannot write '{text}' to {}", .path.display())]
    Write {
        /// The attribute.
        path: PathBuf,
        /// What was to be in it.
        text: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The operator wants it so.
    #[error("stopped while waiting")]
    Stopped,
    /// There is no such function any more.
    #[error("{0} is gone")]
    Gone(HostBdf),
    /// No interface to set anything of.
    #[error("{0} has no network interface on this host")]
    NoInterface(HostBdf),
    /// The interface could not be asked, or taken up or down.
    #[error("cannot {what} the network interface {interface}")]
    Interface {
        /// What was tried.
        what: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A setting of a VF.
    #[error("{interface}'s driver refuses {setting} for virtual function {number}")]
    Setting {
        /// The PF's interface.
        interface: String,
        /// The VF.
        number: u32,
        /// What was to be set.
        setting: VfSetting,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A driver would not have a function.
    #[error(
        "the driver {driver} did not take {address}, which has {} now; `dmesg` may say why",
        .now.as_deref().unwrap_or("no driver")
    )]
    NotTaken {
        /// The function.
        address: HostBdf,
        /// Who should have it.
        driver: String,
        /// Who has it.
        now: Option<String>,
    },
    /// VFs that the kernel said it made.
    #[error("virtual function {number} of {pf} did not appear within {seconds} s")]
    NoVf {
        /// The PF.
        pf: HostBdf,
        /// The VF.
        number: u16,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// The right to change the host. What killed processes left is put back.
pub struct Changes<'s> {
    /// Says that the operator does not want to wait any longer.
    stop: &'s dyn Fn() -> bool,
    pub(super) host: Host,
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) records: Records,
    _lock: HostLock,
}

impl Changes<'static> {
    /// Waits until no other process changes the host, and puts back what those that were
    /// killed have left.
    pub fn begin(host: &Host, kernel: Arc<dyn Kernel>) -> Result<Self, ChangeError> {
        Self::begin_unless(host, kernel, &|| false)
    }
}

impl<'s> Changes<'s> {
    /// As [`Self::begin`]. Every wait ends with an error as soon as `stop` says so.
    pub fn begin_unless(
        host: &Host,
        kernel: Arc<dyn Kernel>,
        stop: &'s dyn Fn() -> bool,
    ) -> Result<Self, ChangeError> {
        let records = Records::open(host.root.join("run/sluice"))?;
        let mut left = ticks(LOCK_PATIENCE);
        let lock = records.lock(LOCK_PATIENCE, || {
            kernel.pause(TICK);
            left -= 1;
            left > 0 && !stop()
        })?;
        let changes = Self {
            stop,
            host: host.clone(),
            kernel,
            records,
            _lock: lock,
        };
        changes.recover()?;
        Ok(changes)
    }

    fn recover(&self) -> Result<(), ChangeError> {
        let (orphans, mut live) = self.records.changes()?;
        for orphan in orphans {
            tracing::warn!("putting back what a sluice that was killed has left of its changes");
            self.settle(orphan, &mut live)?;
        }
        Ok(())
    }

    /// Begins changes that are taken back unless they are kept.
    pub(super) fn attempt(&self) -> Result<Attempt<'_>, ChangeError> {
        Ok(Attempt {
            journal: Some(self.records.begin()?),
            changes: self,
        })
    }

    /// Takes back the changes of a journal of this process.
    pub(super) fn put_back(&self, journal: Journal) -> Result<(), ChangeError> {
        let (_, mut live) = self.records.changes()?;
        live.retain(|other| !other.is(&journal));
        self.settle(journal, &mut live)
    }

    /// Takes changes back, the last first. Changes to a PF of which somebody else has a VF
    /// are left to that process.
    fn settle(&self, mut journal: Journal, live: &mut [Other]) -> Result<(), ChangeError> {
        let steps = journal.steps()?;
        let mut handed: Vec<(&mut Other, Vec<Step>)> = Vec::new();
        for other in live {
            let theirs = other.steps()?;
            let theirs = |step: &&Step| {
                let pf = step.shared();
                pf.is_some_and(|pf| theirs.iter().any(|step| step.uses(pf)))
                    && !handed.iter().any(|(_, steps)| steps.contains(step))
            };
            let steps: Vec<_> = steps.iter().filter(theirs).cloned().collect();
            if !steps.is_empty() {
                handed.push((other, steps));
            }
        }
        let is_handed = |step: &Step| handed.iter().any(|(_, steps)| steps.contains(step));
        let mine: Vec<_> = steps
            .iter()
            .filter(|step| !is_handed(step))
            .cloned()
            .collect();
        for (other, steps) in &mut handed {
            other.take_over(steps)?;
        }
        self.take_back(&mine);
        Ok(journal.close()?)
    }

    /// Takes changes back, the last first, each as far as it goes: what cannot be put back
    /// is said, and keeps nothing else from it.
    pub(super) fn take_back(&self, steps: &[Step]) {
        for step in steps.iter().rev() {
            // What is gone has nothing to put back.
            if let Err(error) = self.take_back_one(step)
                && !matches!(error, ChangeError::Gone(_))
            {
                let error = crate::cli::one_line(&error);
                tracing::warn!("this could not be put back as it was: {error}");
            }
        }
    }

    fn take_back_one(&self, step: &Step) -> Result<(), ChangeError> {
        match step {
            Step::Driver {
                function,
                driver,
                preferred,
            } => self.restore_driver(*function, driver.as_deref(), preferred.as_deref()),
            Step::VfSettings {
                pf,
                number,
                settings,
            } => self.restore_settings(*pf, *number, settings),
            Step::Vfs { pf, number } => self.make_vfs(*pf, *number),
            Step::Autoprobe { pf, on } => self.set_autoprobe(*pf, *on),
            Step::Down { pf } => self.set_up(*pf, false),
            Step::Uses { .. } => Ok(()),
        }
    }

    /// The function, which must be there.
    pub(super) fn function(&self, address: HostBdf) -> Result<PciFunction, ChangeError> {
        let function = self.host.function(address);
        let function = function.map_err(|e| ChangeError::Read(address, e))?;
        function.ok_or(ChangeError::Gone(address))
    }

    /// Writes an attribute.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), ChangeError> {
        tracing::debug!("writing '{}' to {}", text.trim(), path.display());
        let written = self.kernel.write(path, text);
        written.map_err(|source| ChangeError::Write {
            path: path.to_owned(),
            text: text.trim().to_owned(),
            source,
        })
    }

    /// Looks again and again until it is so, or `seconds` have passed.
    pub(super) fn wait_until(
        &self,
        seconds: u64,
        mut so: impl FnMut() -> Result<bool, ChangeError>,
    ) -> Result<bool, ChangeError> {
        for _ in 0..ticks(seconds) {
            if so()? {
                return Ok(true);
            }
            if (self.stop)() {
                return Err(ChangeError::Stopped);
            }
            self.kernel.pause(TICK);
        }
        so()
    }

    /// Sets something of a VF, one setting after the other.
    pub(super) fn set_vf(
        &self,
        pf: HostBdf,
        number: u32,
        settings: &VfSettings,
    ) -> Result<(), ChangeError> {
        let interface = self.interface(pf)?;
        for setting in settings.each() {
            tracing::debug!("{interface}: virtual function {number}: {setting}");
            let set = self.kernel.set_vf(&interface, number, setting);
            set.map_err(|source| ChangeError::Setting {
                interface: interface.clone(),
                number,
                setting,
                source,
            })?;
        }
        Ok(())
    }

    /// Takes a PF's interface up or down.
    pub(super) fn set_up(&self, pf: HostBdf, up: bool) -> Result<(), ChangeError> {
        let interface = self.interface(pf)?;
        tracing::debug!("{interface}: {}", if up { "up" } else { "down" });
        let set = self.kernel.set_up(&interface, up);
        set.map_err(|source| ChangeError::Interface {
            what: if up { "take up" } else { "take down" },
            interface,
            source,
        })
    }

    /// The network interface of a function.
    pub(super) fn interface(&self, address: HostBdf) -> Result<String, ChangeError> {
        let interfaces = self.host.interfaces(&self.function(address)?);
        let interfaces = interfaces.map_err(|e| ChangeError::Read(address, e))?;
        let first = interfaces.into_iter().next();
        first.ok_or(ChangeError::NoInterface(address))
    }
}

fn ticks(seconds: u64) -> u64 {
    (u128::from(seconds) * 1000 / TICK.as_millis()) as u64
}

/// Changes that are taken back when this is dropped, unless they are kept.
pub(super) struct Attempt<'a> {
    changes: &'a Changes<'a>,
    journal: Option<Journal>,
}

impl Attempt<'_> {
    /// Writes down how things are, before they are changed.
    pub fn note(&mut self, step: Step) -> Result<(), ChangeError> {
        if let Some(journal) = &mut self.journal {
            journal.note(&step)?;
        }
        Ok(())
    }

    /// The changes stay; the journal still knows them.
    pub fn keep(mut self) -> Option<Journal> {
        self.journal.take()
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(journal) = self.journal.take()
            && let Err(error) = self.changes.put_back(journal)
        {
            let error = crate::cli::one_line(&error);
            tracing::warn!("the changes made so far could not be put back: {error}");
        }
    }
}
