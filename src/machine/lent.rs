//! Virtual functions that the host lends to a machine (`--vf`): taken before it is made, and
//! given back when it is gone.

use std::cell::Cell;
use std::sync::Arc;

use super::Error;
use super::signals::{Signals, Wish};
use crate::config;
use crate::host::{Host, Lease, ThisKernel, VfWish};

/// The machine with every virtual function that it is lent in its place, and the lease, which
/// must outlive it. A signal ends the wait for them.
pub fn lend(
    config: &config::Machine,
    signals: &Signals,
) -> Result<(config::Machine, Option<Lease>), Error> {
    let mut config = config.clone();
    let wish = |assign: &config::Assign| {
        let pf = assign.device.pci()?;
        assign.lent.map(|settings| VfWish { pf, settings })
    };
    let wishes: Vec<_> = config.assigns.iter().filter_map(wish).collect();
    if wishes.is_empty() {
        return Ok((config, None));
    }
    let assigned = config.assigns.iter().filter(|a| a.lent.is_none());
    let assigned: Vec<_> = assigned.filter_map(|a| a.device.pci()).collect();
    let stopped = Cell::new(None);
    let stop = || {
        if let Some(Wish::Quit(name)) = signals.take() {
            stopped.set(Some(name));
        }
        stopped.get().is_some()
    };
    let host = Host::this_machine();
    let lease = Lease::take(&host, Arc::new(ThisKernel), &wishes, &assigned, &stop);
    if let Some(name) = stopped.get() {
        return Err(Error::Quit(format!("stopped by {name}")));
    }
    let lease = lease.map_err(Error::Lend)?;
    let places = config.assigns.iter_mut().filter(|a| a.lent.is_some());
    for (assign, function) in places.zip(lease.functions()) {
        assign.is_lent(*function);
    }
    Ok((config, Some(lease)))
}
