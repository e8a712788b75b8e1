//! What is tested, by the part of the machine it is about.

mod affinity;
mod assignment;
mod budgets;
mod config_space;
mod device_tlbs;
mod disk;
mod display;
mod drivers;
mod guest_iommu;
mod guest_vfio;
mod host_change;
mod host_view;
mod hotplug;
mod interrupt_load;
mod interrupts;
mod iommu_interfaces;
mod lifecycle;
mod nested;
mod network;
mod operator;
mod platform;
mod rebalance;
mod reset;
mod restarts;
mod sleep;
mod virtual_functions;

use super::rig::{Fixture, Rig};
use crate::error::Result;
use crate::prepare::HostKernel;

/// One test, run once for each number of processors.
pub struct Check {
    /// Its name; with more than one number of processors, `-Ncpu` is added.
    pub name: &'static str,
    /// With how many processors the guest has.
    pub cpus: &'static [u32],
    /// Seconds it may take.
    pub limit: u64,
    /// The guest it shares with its neighbours, if it does.
    pub fixture: Option<fn(u32) -> Fixture>,
    /// The test.
    pub run: fn(&mut Rig, u32) -> Result<()>,
}

const ONE_AND_FOUR: &[u32] = &[1, 4];

/// All that run on an emulated host with this kernel, in an order in which those that share a guest are neighbours.
pub fn on(kernel: HostKernel) -> Vec<Check> {
    let lists: &[&[Check]] = match kernel {
        HostKernel::Stock => &[
            platform::CHECKS,
            network::CHECKS,
            disk::CHECKS,
            budgets::CHECKS,
            assignment::CHECKS,
            interrupts::CHECKS,
            config_space::CHECKS,
            reset::CHECKS,
            sleep::CHECKS,
            drivers::CHECKS,
            lifecycle::CHECKS,
            guest_iommu::CHECKS,
            device_tlbs::CHECKS,
            guest_vfio::CHECKS,
            operator::CHECKS,
            host_view::CHECKS,
            host_change::CHECKS,
            // The long ones.
            rebalance::CHECKS,
            virtual_functions::CHECKS,
            restarts::CHECKS,
            display::CHECKS,
            affinity::CHECKS,
            hotplug::CHECKS,
            interrupt_load::CHECKS,
            nested::CHECKS,
        ],
        HostKernel::Tailored => &[iommu_interfaces::ON_TAILORED],
    };
    lists
        .iter()
        .copied()
        .flatten()
        .map(|check| Check { ..*check })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::collections::HashSet;

    #[test]
    fn each_is_listed_once() {
        let kernels = HostKernel::value_variants().iter();
        let checks: Vec<_> = kernels.flat_map(|kernel| on(*kernel)).collect();
        let names: HashSet<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), checks.len());
    }
}
