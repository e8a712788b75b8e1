//! Virtual functions lent to one machine: `sluice run --vf`. A free VF of the PF is taken, or
//! made if there is none at all, its settings are set, and it goes to vfio-pci. When the lease
//! ends, however it ends, the host is as it was before.

use std::sync::Arc;

use pci::HostBdf;

use super::changes::{Attempt, ChangeError, Changes};
use super::group::is_vfio;
use super::journal::{Journal, Step};
use super::kernel::Kernel;
use super::sriov::{PhysicalFunction, SriovError};
use super::vf::VfSettings;
use super::{Host, PciFunction};

/// A VF that a machine wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VfWish {
    /// Of which PF.
    pub pf: HostBdf,
    /// What is to be set for it.
    pub settings: VfSettings,
}

/// VFs that are bound to vfio-pci and nobody else's, until this is dropped. That must be
/// after the machine that has them has closed them.
pub struct Lease {
    host: Host,
    kernel: Arc<dyn Kernel>,
    journal: Option<Journal>,
    functions: Vec<HostBdf>,
}

impl Lease {
    /// Takes a VF for each wish, none of them among `others`, which the machine is given
    /// anyway. If one cannot be had, or `stop` says so during a wait, all is put back.
    pub fn take(
        host: &Host,
        kernel: Arc<dyn Kernel>,
        wishes: &[VfWish],
        others: &[HostBdf],
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, SriovError> {
        let changes = Changes::begin_unless(host, kernel.clone(), stop)?;
        let mut attempt = changes.attempt()?;
        let mut functions = vec![None; wishes.len()];
        for (index, wish) in wishes.iter().enumerate() {
            if wishes[..index].iter().all(|earlier| earlier.pf != wish.pf) {
                changes.lend(&mut attempt, wish.pf, wishes, others, &mut functions)?;
            }
        }
        Ok(Self {
            host: host.clone(),
            kernel,
            functions: functions.into_iter().flatten().collect(),
            journal: attempt.keep(),
        })
    }

    /// The VFs, in the order of the wishes.
    pub fn functions(&self) -> &[HostBdf] {
        &self.functions
    }

    /// Gives everything back.
    fn end(&mut self) -> Result<(), ChangeError> {
        let Some(journal) = self.journal.take() else {
            return Ok(());
        };
        let changes = Changes::begin(&self.host, self.kernel.clone())?;
        changes.put_back(journal)
    }

    /// Ends as a process does that is killed: nothing is put back.
    #[cfg(test)]
    pub(super) fn abandon(mut self) {
        self.journal = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            // The journal is nobody's now: the next sluice that changes the host does it.
            let error = crate::cli::one_line(&error);
            tracing::warn!("virtual functions could not be given back yet: {error}");
        }
    }
}

impl Changes<'_> {
    /// Lends a VF of one PF for each wish that is for it.
    fn lend(
        &self,
        attempt: &mut Attempt,
        pf: HostBdf,
        wishes: &[VfWish],
        others: &[HostBdf],
        lent: &mut [Option<HostBdf>],
    ) -> Result<(), SriovError> {
        let changed = |source| SriovError::Change { pf, source };
        let mut physical = self.host.physical_function(pf)?;
        let mine: Vec<_> = (0..)
            .zip(wishes)
            .filter(|(_, wish)| wish.pf == pf)
            .collect();
        let settings: Vec<_> = mine.iter().map(|(_, wish)| (0, wish.settings)).collect();
        if physical.made() == 0 {
            let count = u16::try_from(mine.len()).unwrap_or(u16::MAX);
            physical.check(count, &settings)?;
            self.change_count(attempt, &physical, count)
                .map_err(changed)?;
            physical = self.host.physical_function(pf)?;
        } else {
            physical.check(physical.made(), &settings)?;
            self.take_up(attempt, &physical).map_err(changed)?;
            self.wait_for_carrier(&physical).map_err(changed)?;
        }
        let free = self.free(&physical, others).map_err(changed)?;
        if free.len() < mine.len() {
            let mut busy = self.busy(&physical).map_err(changed)?;
            busy.extend(assigned(&physical, others));
            return Err(SriovError::NoneFree { pf, busy });
        }
        self.load_vfio_pci().map_err(SriovError::NoVfioPci)?;
        for ((index, wish), (number, vf)) in mine.into_iter().zip(free) {
            self.lend_one(attempt, wish, number, &vf).map_err(changed)?;
            lent[index] = Some(vf.address);
        }
        Ok(())
    }

    fn lend_one(
        &self,
        attempt: &mut Attempt,
        wish: &VfWish,
        number: u32,
        vf: &PciFunction,
    ) -> Result<(), ChangeError> {
        attempt.note(Step::Uses {
            pf: wish.pf,
            vf: vf.address,
        })?;
        self.set_noted(attempt, wish.pf, number, &wish.settings)?;
        self.give_to_vfio(attempt, vf)
    }

    /// The VFs that nobody uses, with their numbers: first those that have the least to be
    /// changed.
    fn free(
        &self,
        physical: &PhysicalFunction,
        others: &[HostBdf],
    ) -> Result<Vec<(u32, PciFunction)>, ChangeError> {
        let users = self.users(physical)?;
        let each = (0..).zip(physical.vfs.iter().cloned()).zip(users);
        let mut free: Vec<_> = each
            .filter(|((_, vf), user)| user.is_none() && !others.contains(&vf.address))
            .map(|(vf, _)| vf)
            .collect();
        free.sort_by_key(|(_, vf)| match vf.driver.as_deref() {
            Some(driver) if is_vfio(driver) => 0,
            None => 1,
            Some(_) => 2,
        });
        Ok(free)
    }
}

/// VFs that this machine is given anyway.
fn assigned<'a>(
    physical: &'a PhysicalFunction,
    others: &'a [HostBdf],
) -> impl Iterator<Item = String> + use<'a> {
    let vfs = physical.vfs.iter().map(|vf| vf.address);
    vfs.filter(|vf| others.contains(vf))
        .map(|vf| format!("{vf} by --assign"))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
