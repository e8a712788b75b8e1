//! All about a function, a paragraph for each thing.

use crate::cli::page::{Page, fit};
use crate::host::{Bar, BarKind, BarPlace, Member, PciFunction, Surveyed};
use crate::memory::display_size;

pub fn render(devices: &[Surveyed], page: Page) -> String {
    let each: Vec<_> = devices.iter().map(|device| one(device, page)).collect();
    each.join("\n")
}

fn one(device: &Surveyed, page: Page) -> String {
    let function = &device.function;
    let mut text = page.paragraph("", &format!("{} {}", function.address, function.name()));
    for (label, value) in facts(device) {
        text += &page.paragraph(&fit(&format!("  {label}"), 16), &value);
    }
    text
}

fn facts(device: &Surveyed) -> Vec<(&'static str, String)> {
    let function = &device.function;
    let mut facts = vec![
        ("class", class(function)),
        ("IDs", ids(function)),
        ("driver", function.driver.clone().unwrap_or_else(none)),
        (
            "NUMA node",
            function
                .numa_node
                .map_or_else(none, |node| node.to_string()),
        ),
        ("IOMMU group", group(function, &device.companions)),
        (
            "reset",
            match &function.reset_methods[..] {
                [] => "none: the kernel cannot reset it by itself".to_owned(),
                methods => methods.join(", "),
            },
        ),
    ];
    if let Some(pf) = function.physical {
        facts.push(("SR-IOV", format!("virtual function of {pf}")));
    }
    if let Some(sriov) = &function.sriov {
        let numbers = format!("{} of {} virtual functions", sriov.made.len(), sriov.total);
        let made: Vec<_> = sriov.made.iter().map(ToString::to_string).collect();
        facts.push(match &made[..] {
            [] => ("SR-IOV", numbers),
            made => ("SR-IOV", format!("{numbers}: {}", made.join(", "))),
        });
    }
    facts.extend(function.bars().map(bar));
    match &device.obstacle {
        None => facts.push(("assignable", "yes".to_owned())),
        Some(why) => {
            facts.push(("assignable", format!("no: {}", why.reason())));
            facts.push(("what to do", why.remedy()));
        }
    }
    facts
}

fn none() -> String {
    "none".to_owned()
}

fn class(function: &PciFunction) -> String {
    format!("{} ({:06x})", function.class_name(), function.class)
}

fn ids(function: &PciFunction) -> String {
    let (vendor, device) = function.subsystem;
    format!(
        "{:04x}:{:04x}, revision {:02x}, subsystem {vendor:04x}:{device:04x}",
        function.vendor, function.device, function.revision
    )
}

fn group(function: &PciFunction, companions: &[Member]) -> String {
    let Some(number) = function.group else {
        return none();
    };
    let others: Vec<_> = companions.iter().map(ToString::to_string).collect();
    match &others[..] {
        [] => format!("{number}, alone"),
        others => format!("{number}, with {}", others.join(", ")),
    }
}

fn bar(bar: Bar) -> (&'static str, String) {
    const LABELS: [&str; 6] = ["BAR 0", "BAR 1", "BAR 2", "BAR 3", "BAR 4", "BAR 5"];
    let label = match bar.place {
        BarPlace::Bar(number) => LABELS.get(usize::from(number)).copied().unwrap_or("BAR"),
        BarPlace::Rom => "ROM",
    };
    let what = match bar.kind {
        _ if bar.place == BarPlace::Rom => display_size(bar.size),
        BarKind::Ports => format!("{} I/O ports", bar.size),
        BarKind::Memory { wide, prefetchable } => {
            let bits = if wide { 64 } else { 32 };
            let prefetchable = if prefetchable { ", prefetchable" } else { "" };
            format!("{}, {bits} bits{prefetchable}", display_size(bar.size))
        }
    };
    (label, format!("{what}, at {:#x}", bar.address))
}
