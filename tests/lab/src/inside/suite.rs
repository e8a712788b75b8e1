//! Runs the tests one after another and tells the outside how each went.

use super::checks::{self, Check};
use super::rig::Rig;
use super::vmm::Vmm;
use super::{host, kernel_log};
use crate::error::{Error, Result};
use crate::events::{Event, Outcome};
use crate::prepare::HostKernel;
use clap::ValueEnum;
use std::time::Instant;

/// Names of the tests that run on an emulated host with this kernel, in order.
pub fn names_on(kernel: HostKernel) -> Vec<String> {
    checks::on(kernel)
        .iter()
        .flat_map(|check| check.cpus.iter().map(|cpus| name(check, *cpus)))
        .collect()
}

fn name(check: &Check, cpus: u32) -> String {
    if check.cpus.len() > 1 {
        format!("{}-{cpus}cpu", check.name)
    } else {
        check.name.to_owned()
    }
}

/// Runs the named tests.
pub fn run(vmm: Vmm, wanted: &[String]) -> Result<()> {
    host::set_up()?;
    let mut rig = Rig::new(vmm)?;
    let mut checks: Vec<(String, Check, u32)> = Vec::new();
    for check in HostKernel::value_variants()
        .iter()
        .flat_map(|kernel| checks::on(*kernel))
    {
        for cpus in check.cpus {
            checks.push((name(&check, *cpus), Check { ..check }, *cpus));
        }
    }
    // Those that share a guest come together, whatever file they are in.
    let group =
        |check: &Check, cpus: u32| check.fixture.map(|fixture| format!("{:?}", fixture(cpus)));
    let mut order: Vec<Option<String>> = Vec::new();
    for (_, check, cpus) in &checks {
        let group = group(check, *cpus);
        if !order.contains(&group) {
            order.push(group);
        }
    }
    checks.sort_by_key(|(_, check, cpus)| {
        order.iter().position(|known| *known == group(check, *cpus))
    });
    let mut faults_seen = kernel_log::iommu_faults()?.len();
    for (name, check, cpus) in checks {
        if !wanted.contains(&name) {
            continue;
        }
        Event::Begin {
            test: name.clone(),
            limit: check.limit,
        }
        .tell();
        let start = Instant::now();
        if rig.is_running_other_than(check.fixture.map(|fixture| fixture(cpus))) {
            rig.stop();
        }
        let mut result = (check.run)(&mut rig, cpus);
        let faults = kernel_log::iommu_faults()?;
        if result.is_ok() && faults.len() > faults_seen {
            result = Err(Error::Other(format!(
                "the IOMMU caught a stray access: {}",
                faults[faults_seen..].join("; ")
            )));
        }
        faults_seen = faults.len();
        let (outcome, detail) = match result {
            Ok(()) => (Outcome::Passed, String::new()),
            Err(Error::Skipped(why)) => (Outcome::Skipped, why),
            Err(error) => {
                // What failed may have left its guest in any state.
                rig.stop();
                (Outcome::Failed, error.to_string())
            }
        };
        Event::End {
            test: name,
            outcome,
            detail,
            seconds: start.elapsed().as_secs_f64(),
        }
        .tell();
    }
    Ok(())
}
