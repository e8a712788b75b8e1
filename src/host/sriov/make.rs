//! Virtual functions made, set up and removed.

use pci::HostBdf;

use super::{PhysicalFunction, SriovError};
use crate::host::changes::{Attempt, ChangeError, Changes};
use crate::host::journal::Step;
use crate::host::vf::VfSettings;

/// Seconds within which a VF must be there and answer: 100 ms by the specification (9.3.3.3.1)
/// and whatever the PF's driver takes.
const VF_PATIENCE: u64 = 10;
/// Seconds for a link to find its partner.
const CARRIER_PATIENCE: u64 = 10;

impl Changes<'_> {
    /// Gives a PF this many VFs (those it has, if not given) and sets what is wanted of them.
    /// If anything fails, all is as it was.
    pub fn set_vfs(
        &self,
        pf: HostBdf,
        count: Option<u16>,
        settings: &[(u32, VfSettings)],
    ) -> Result<(), SriovError> {
        let physical = self.host.physical_function(pf)?;
        let made = physical.made();
        let count = count.unwrap_or(made);
        physical.check(count, settings)?;
        let changed = |source| SriovError::Change { pf, source };
        let mut attempt = self.attempt().map_err(changed)?;
        if count != made {
            let busy = self.busy(&physical).map_err(changed)?;
            if !busy.is_empty() {
                return Err(SriovError::InUse { pf, busy });
            }
            self.note_vfs(&mut attempt, &physical).map_err(changed)?;
            self.change_count(&mut attempt, &physical, count)
                .map_err(changed)?;
        }
        for (number, settings) in settings {
            self.set_noted(&mut attempt, pf, *number, settings)
                .map_err(changed)?;
        }
        self.keep_vfs(attempt, pf, count).map_err(changed)
    }

    /// Writes down all VFs there are, which are about to go.
    fn note_vfs(
        &self,
        attempt: &mut Attempt,
        physical: &PhysicalFunction,
    ) -> Result<(), ChangeError> {
        let pf = physical.address();
        let link = self.link(physical)?.unwrap_or_default();
        for vf in &physical.vfs {
            let preferred = self.host.preferred_driver(vf.address);
            attempt.note(Step::Driver {
                function: vf.address,
                driver: vf.driver.clone(),
                preferred: preferred.map_err(|e| ChangeError::Read(vf.address, e))?,
            })?;
        }
        for (number, settings) in (0..).zip(link.vfs) {
            attempt.note(Step::VfSettings {
                pf,
                number,
                settings,
            })?;
        }
        Ok(())
    }

    /// Makes VFs, or others than there were. A network card is taken up first, as VFs work
    /// only with a PF that does, and the host's drivers are kept from taking them. Some drivers
    /// start their device anew for it (igb), so its link is waited for afterwards.
    pub(in crate::host) fn change_count(
        &self,
        attempt: &mut Attempt,
        physical: &PhysicalFunction,
        count: u16,
    ) -> Result<(), ChangeError> {
        let pf = physical.address();
        if count > 0 {
            self.take_up(attempt, physical)?;
            if physical.autoprobe {
                attempt.note(Step::Autoprobe { pf, on: true })?;
                self.set_autoprobe(pf, false)?;
            }
        }
        attempt.note(Step::Vfs {
            pf,
            number: physical.made(),
        })?;
        self.make_vfs(pf, count)?;
        if count > 0 {
            self.wait_for_carrier(physical)?;
        }
        Ok(())
    }

    /// Takes a PF that is a network card up.
    pub(in crate::host) fn take_up(
        &self,
        attempt: &mut Attempt,
        physical: &PhysicalFunction,
    ) -> Result<(), ChangeError> {
        let pf = physical.address();
        if self.link(physical)?.is_some_and(|link| !link.up) {
            attempt.note(Step::Down { pf })?;
            self.set_up(pf, true)?;
        }
        Ok(())
    }

    /// Waits for the link of a PF that is a network card. That there is none need not be an
    /// error: its cable may be somewhere else.
    pub(in crate::host) fn wait_for_carrier(
        &self,
        physical: &PhysicalFunction,
    ) -> Result<(), ChangeError> {
        let carrier = || Ok(self.link(physical)?.is_none_or(|link| link.carrier));
        if !self.wait_until(CARRIER_PATIENCE, carrier)? {
            let interface = physical.interface.as_deref().unwrap_or_default();
            tracing::warn!(
                "{interface} has no carrier: until it has, the virtual functions of {} may not work",
                physical.address()
            );
        }
        Ok(())
    }

    /// Writes down what is set for a VF, and sets something else.
    pub(in crate::host) fn set_noted(
        &self,
        attempt: &mut Attempt,
        pf: HostBdf,
        number: u32,
        settings: &VfSettings,
    ) -> Result<(), ChangeError> {
        if settings.is_empty() {
            return Ok(());
        }
        let now = self.vf_settings(pf, number)?.unwrap_or_default();
        attempt.note(Step::VfSettings {
            pf,
            number,
            settings: now.where_given(settings),
        })?;
        self.set_vf(pf, number, settings)
    }

    /// Sets what was set for a VF before. A VF that is gone has no settings.
    pub(in crate::host) fn restore_settings(
        &self,
        pf: HostBdf,
        number: u32,
        settings: &VfSettings,
    ) -> Result<(), ChangeError> {
        let Some(now) = self.vf_settings(pf, number)? else {
            return Ok(());
        };
        self.set_vf(pf, number, &settings.but(&now))
    }

    fn vf_settings(&self, pf: HostBdf, number: u32) -> Result<Option<VfSettings>, ChangeError> {
        let interface = self.interface(pf)?;
        let link = self.kernel.link(&interface);
        let link = link.map_err(|source| ChangeError::Interface {
            what: "ask about",
            interface,
            source,
        })?;
        Ok(link.vfs.get(number as usize).copied())
    }

    /// Has the kernel make so many VFs, and waits until they are there. Only none can become
    /// some.
    pub(in crate::host) fn make_vfs(&self, pf: HostBdf, count: u16) -> Result<(), ChangeError> {
        let read = |e| ChangeError::Read(pf, e);
        let now = self.host.vf_count(pf).map_err(read)?;
        let path = self.host.sysfs_path(pf).join("sriov_numvfs");
        if now == count {
            return Ok(());
        }
        if now > 0 {
            self.write(&path, "0")?;
        }
        if count == 0 {
            return Ok(());
        }
        self.write(&path, &count.to_string())?;
        for number in 0..count {
            let answers = || {
                let vf = self.host.vf(pf, number).map_err(read)?;
                Ok(vf.is_some_and(|vf| self.host.vf_answers(&vf)))
            };
            if !self.wait_until(VF_PATIENCE, answers)? {
                let seconds = VF_PATIENCE;
                return Err(ChangeError::NoVf {
                    pf,
                    number,
                    seconds,
                });
            }
        }
        Ok(())
    }

    /// Says whether the host's drivers take new VFs, where the kernel has the choice.
    pub(in crate::host) fn set_autoprobe(&self, pf: HostBdf, on: bool) -> Result<(), ChangeError> {
        let path = self.host.sysfs_path(pf).join("sriov_drivers_autoprobe");
        if !path.exists() {
            return Ok(());
        }
        self.write(&path, if on { "1" } else { "0" })
    }

    /// The VFs stay as they are now. What else was changed of their PF is put back when the
    /// last of them goes.
    fn keep_vfs(&self, attempt: Attempt, pf: HostBdf, count: u16) -> Result<(), ChangeError> {
        let name = format!("sriov-{pf}");
        let mut kept = self.records.kept(&name)?;
        let Some(mut journal) = attempt.keep() else {
            return Ok(());
        };
        if count == 0 {
            self.take_back(&kept);
            self.records.forget(&name)?;
        } else {
            for step in journal.steps()? {
                let kind = std::mem::discriminant(&step);
                let known = kept.iter().any(|k| std::mem::discriminant(k) == kind);
                if matches!(step, Step::Autoprobe { .. } | Step::Down { .. }) && !known {
                    kept.push(step);
                }
            }
            if !kept.is_empty() {
                self.records.keep(&name, &kept)?;
            }
        }
        Ok(journal.close()?)
    }
}
