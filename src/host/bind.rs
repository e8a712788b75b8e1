//! `sluice bind` and `sluice release`: devices handed to VFIO and back, whole IOMMU groups at
//! a time.

use std::io;

use pci::HostBdf;

use super::changes::{ChangeError, Changes};
use super::group::is_vfio;
use super::journal::Step;
use super::uses::{Process, Use};
use super::{AssignError, Group, Member, PciFunction};

/// Why a device cannot be handed to VFIO or back.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It could not be assigned anyway.
    #[error(transparent)]
    NotAssignable(#[from] AssignError),
    /// The host needs it.
    #[error(
        "{function} is in use by this host: {}; stop using it, or take it with --force",
        list(uses)
    )]
    Needed {
        /// The device.
        function: Box<PciFunction>,
        /// What for.
        uses: Vec<Use>,
    },
    /// A PF whose VFs would go.
    #[error(
        "{pf} has {count} virtual functions, which would go with its driver: remove them first \
         with `sluice sriov {} --vfs 0`", pf.address
    )]
    HasVfs {
        /// The device.
        pf: Box<PciFunction>,
        /// How many.
        count: u16,
    },
    /// Others of the group are in use by the host.
    #[error(
        "{function} shares IOMMU group {group} with {}, which the host uses: a group goes as a \
         whole, so {}",
        list(companions),
        together(function, companions)
    )]
    Companions {
        /// The device.
        function: Box<PciFunction>,
        /// Its group.
        group: u32,
        /// Those that would have to be handed over too.
        companions: Vec<Member>,
    },
    /// No vfio-pci.
    #[error(
        "the kernel has no driver vfio-pci and `modprobe vfio-pci` failed: install the kernel's \
         modules, or build it with CONFIG_VFIO_PCI"
    )]
    NoVfioPci(#[source] io::Error),
    /// A guest has it.
    #[error("{function} is in use by {by}: end that first")]
    Open {
        /// The device.
        function: Box<PciFunction>,
        /// Who has it.
        by: Process,
    },
    /// A change did not work; what was changed before is as it was.
    #[error("{function}: nothing is changed")]
    Change {
        /// The device.
        function: Box<PciFunction>,
        /// What did not work.
        #[source]
        source: ChangeError,
    },
    /// There was nothing to hand over yet.
    #[error(transparent)]
    Begin(#[from] ChangeError),
}

/// A device that is with VFIO now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The device as it was before.
    pub before: PciFunction,
    /// Its group as it was before.
    pub group: Group,
}

/// A device that is the host's again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Released {
    /// The device as it was before.
    pub before: PciFunction,
    /// The driver that it has now.
    pub driver: Option<String>,
}

impl Changes<'_> {
    /// Hands devices to vfio-pci, all or none. `force` takes what the host itself uses.
    pub fn bind(&self, addresses: &[HostBdf], force: bool) -> Result<Vec<Bound>, BindError> {
        let wanted = addresses
            .iter()
            .map(|address| self.may_bind(*address, addresses, force))
            .collect::<Result<Vec<_>, _>>()?;
        if wanted.iter().any(|bound| !bound.was_bound()) {
            self.load_vfio_pci().map_err(BindError::NoVfioPci)?;
        }
        let mut attempt = self.attempt()?;
        for bound in &wanted {
            self.give_to_vfio(&mut attempt, &bound.before)
                .map_err(|source| failed(&bound.before, source))?;
        }
        let Some(mut journal) = attempt.keep() else {
            return Ok(wanted);
        };
        for step in journal.steps().map_err(ChangeError::from)? {
            if let Step::Driver { function, .. } = step {
                let kept = self.records.keep(&record(function), &[step]);
                kept.map_err(ChangeError::from)?;
            }
        }
        journal.close().map_err(ChangeError::from)?;
        Ok(wanted)
    }

    /// Hands devices back to the drivers they had when they were bound, or, if they were
    /// bound by somebody else, to those that the kernel finds.
    pub fn release(&self, addresses: &[HostBdf]) -> Result<Vec<Released>, BindError> {
        let each = addresses.iter();
        let wanted = each
            .map(|address| self.may_release(*address))
            .collect::<Result<Vec<_>, _>>()?;
        wanted.into_iter().map(|f| self.release_one(f)).collect()
    }

    fn may_bind(
        &self,
        address: HostBdf,
        together: &[HostBdf],
        force: bool,
    ) -> Result<Bound, BindError> {
        let sysfs = |e| AssignError::Sysfs(address, e);
        let (function, number) = self.host.grouped(address)?;
        let group = self.host.group(number).map_err(sysfs)?;
        let bound = Bound {
            before: (*function).clone(),
            group,
        };
        let is_named = |member: &&Member| matches!(member, Member::Pci(function) if together.contains(&function.address));
        let members = bound.group.members.iter();
        let companions: Vec<_> = members
            .filter(|member| member.is_in_the_way() && !is_named(member))
            .cloned()
            .collect();
        if !companions.is_empty() {
            return Err(BindError::Companions {
                function,
                group: number,
                companions,
            });
        }
        if bound.was_bound() {
            return Ok(bound);
        }
        let vfs = self.host.vf_count(address).map_err(sysfs)?;
        if vfs > 0 {
            return Err(BindError::HasVfs {
                pf: function,
                count: vfs,
            });
        }
        let uses = self.host.uses(&function).map_err(sysfs)?;
        if !uses.is_empty() && !force {
            return Err(BindError::Needed { function, uses });
        }
        Ok(bound)
    }

    fn may_release(&self, address: HostBdf) -> Result<PciFunction, BindError> {
        let function = self.host.function(address);
        let function = function.map_err(|e| AssignError::Sysfs(address, e))?;
        let function = function.ok_or(AssignError::NoSuchDevice(address))?;
        match self.host.opener(&function) {
            // To take it from vfio-pci would wait for that process.
            Some(by) if function.driver.as_deref().is_some_and(is_vfio) => Err(BindError::Open {
                function: Box::new(function),
                by,
            }),
            _ => Ok(function),
        }
    }

    fn release_one(&self, before: PciFunction) -> Result<Released, BindError> {
        let address = before.address;
        let failed = |source| failed(&before, source);
        let name = record(address);
        let kept = self.records.kept(&name).map_err(ChangeError::from)?;
        match kept.last() {
            Some(Step::Driver {
                driver, preferred, ..
            }) if before.driver.as_deref().is_some_and(is_vfio) => self
                .restore_driver(address, driver.as_deref(), preferred.as_deref())
                .map_err(failed)?,
            _ if before.driver.as_deref().is_some_and(is_vfio) => {
                self.give_to_host(&before).map_err(failed)?;
            }
            _ => {}
        }
        self.records.forget(&name).map_err(ChangeError::from)?;
        Ok(Released {
            driver: self.function(address)?.driver,
            before,
        })
    }
}

impl Bound {
    /// One of VFIO's drivers had it already.
    pub fn was_bound(&self) -> bool {
        self.before.driver.as_deref().is_some_and(is_vfio)
    }
}

fn record(address: HostBdf) -> String {
    format!("bound-{address}")
}

fn failed(function: &PciFunction, source: ChangeError) -> BindError {
    BindError::Change {
        function: Box::new(function.clone()),
        source,
    }
}

fn list<T: ToString>(all: &[T]) -> String {
    let all: Vec<_> = all.iter().map(T::to_string).collect();
    all.join(" and ")
}

/// What to do about companions.
fn together(function: &PciFunction, companions: &[Member]) -> String {
    let mut command = format!("bind all of it: `sluice bind {}", function.address);
    for companion in companions {
        match companion {
            Member::Pci(companion) => command += &format!(" {}", companion.address),
            // What is no PCI device cannot go.
            Member::Other { name, .. } => return format!("unbind {name} from its driver first"),
        }
    }
    command + "`"
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
