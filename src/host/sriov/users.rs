//! Who uses a PF's virtual functions, and what else there is to show of them.

use std::io;

use super::{PhysicalFunction, SriovError};
use crate::host::PciFunction;
use crate::host::changes::{ChangeError, Changes};
use crate::host::group::is_vfio;
use crate::host::journal::{RecordError, Step};
use crate::host::netlink::Link;
use crate::host::vf::VfSettings;

/// A virtual function, for showing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VfReport {
    /// The function.
    pub function: PciFunction,
    /// What is set for it, where the PF is a network card.
    pub settings: VfSettings,
    /// Who uses it.
    pub in_use: Option<String>,
}

impl Changes<'_> {
    /// The VFs of a PF, with all that there is to show of them.
    pub fn vf_reports(&self, physical: &PhysicalFunction) -> Result<Vec<VfReport>, SriovError> {
        let pf = physical.address();
        let changed = |source| SriovError::Change { pf, source };
        let link = self.link(physical).map_err(changed)?.unwrap_or_default();
        let users = self.users(physical).map_err(changed)?;
        let settings = link
            .vfs
            .into_iter()
            .chain(std::iter::repeat(VfSettings::default()));
        let each = physical.vfs.iter().cloned().zip(settings).zip(users);
        Ok(each
            .map(|((function, settings), in_use)| VfReport {
                function,
                settings,
                in_use,
            })
            .collect())
    }

    /// What the host's network knows of a PF.
    pub fn link(&self, physical: &PhysicalFunction) -> Result<Option<Link>, ChangeError> {
        let ask = |interface: &String| {
            let link = self.kernel.link(interface);
            link.map_err(|source| ChangeError::Interface {
                what: "ask about",
                interface: interface.clone(),
                source,
            })
        };
        physical.interface.as_ref().map(ask).transpose()
    }

    /// Who uses each VF.
    pub(in crate::host) fn users(
        &self,
        physical: &PhysicalFunction,
    ) -> Result<Vec<Option<String>>, ChangeError> {
        let (_, mut live) = self.records.changes()?;
        let lent = live
            .iter_mut()
            .map(|other| Ok((other.pid, other.steps()?)))
            .collect::<Result<Vec<_>, RecordError>>()?;
        physical
            .vfs
            .iter()
            .map(|vf| {
                let is_lent = |(_, steps): &&(u32, Vec<Step>)| {
                    let mut steps = steps.iter();
                    steps.any(
                        |step| matches!(step, Step::Uses { vf: used, .. } if *used == vf.address),
                    )
                };
                match lent.iter().find(is_lent) {
                    Some((pid, _)) => Ok(Some(format!("sluice (process {pid})"))),
                    None => self.user(vf).map_err(|e| ChangeError::Read(vf.address, e)),
                }
            })
            .collect()
    }

    /// Who uses a VF that is not lent.
    fn user(&self, vf: &PciFunction) -> io::Result<Option<String>> {
        match &vf.driver {
            None => Ok(None),
            Some(driver) if is_vfio(driver) => {
                Ok(self.host.opener(vf).map(|process| process.to_string()))
            }
            Some(_) => {
                let uses = self.host.uses(vf)?;
                let up = |interface: &String| self.kernel.link(interface).is_ok_and(|l| l.up);
                let interfaces = self.host.interfaces(vf)?;
                let up = interfaces.into_iter().find(up);
                let up = up.map(|interface| format!("this host, as {interface}, which is up"));
                Ok(uses.first().map(|u| format!("this host: {u}")).or(up))
            }
        }
    }

    /// Each VF that is in use, and by whom.
    pub(in crate::host) fn busy(
        &self,
        physical: &PhysicalFunction,
    ) -> Result<Vec<String>, ChangeError> {
        let users = self.users(physical)?;
        let each = physical.vfs.iter().zip(users);
        Ok(each
            .filter_map(|(vf, user)| Some(format!("{} by {}", vf.address, user?)))
            .collect())
    }
}
