//! `sluice devices`: the host's PCI functions as a table, one by one, or as JSON.

mod detail;
mod json;
mod table;
#[cfg(test)]
mod tests;

use std::error::Error;

use super::flags::Devices;
use super::page::Page;
use crate::host::{Bar, BarKind, BarPlace, Host};
use crate::memory::display_size;

/// What there is to say about the devices asked for, or about all.
pub fn devices(host: &Host, what: &Devices, page: Page) -> Result<String, Box<dyn Error>> {
    let all = match &what.only[..] {
        [] => host.survey()?,
        some => some
            .iter()
            .map(|address| host.survey_one(*address))
            .collect::<Result<_, _>>()?,
    };
    Ok(match (what.json, what.only.is_empty()) {
        (true, _) => json::render(&all)?,
        (false, true) => table::render(&all, page),
        (false, false) => detail::render(&all, page),
    })
}

/// A BAR in a few letters: `0:128K`, `2:32io`, `rom:64K`.
fn bar_in_short(bar: Bar) -> String {
    let size = match bar.kind {
        BarKind::Ports => format!("{}io", bar.size),
        BarKind::Memory { .. } => display_size(bar.size),
    };
    match bar.place {
        BarPlace::Bar(number) => format!("{number}:{size}"),
        BarPlace::Rom => format!("rom:{size}"),
    }
}
