//! One line for each function, and below what the words under ASSIGNABLE mean.

use super::bar_in_short;
use crate::cli::page::{Page, fit};
use crate::cli::table::{self, Column, column, none};
use crate::host::{Member, PciFunction, Surveyed};

const COLUMNS: [Column<Surveyed>; 9] = [
    column(0, "ADDRESS", |d| d.function.address.to_string()),
    column(0, "ASSIGNABLE", |d| brief(d).to_owned()),
    column(0, "DRIVER", |d| {
        d.function.driver.clone().unwrap_or_else(none)
    }),
    column(0, "GROUP", group),
    column(1, "VFS", vfs),
    column(2, "NUMA", |d| {
        let node = d.function.numa_node;
        node.map_or_else(none, |node| node.to_string())
    }),
    column(3, "RESET", reset),
    column(4, "BARS", bars),
    column(5, "CLASS", |d| d.function.class_name()),
];

pub fn render(devices: &[Surveyed], page: Page) -> String {
    if devices.is_empty() {
        return "this host has no PCI devices\n".to_owned();
    }
    let rows = table::render(&COLUMNS, devices, |d| name(&d.function), page);
    rows + &legend(devices, page)
}

fn brief(device: &Surveyed) -> &'static str {
    device.obstacle.as_ref().map_or("yes", |why| why.in_short())
}

/// What the words under ASSIGNABLE mean here: for each why and what to do, by an example.
fn legend(devices: &[Surveyed], page: Page) -> String {
    let ready = devices.iter().filter(|d| d.obstacle.is_none()).count();
    let all = devices.len();
    let mut text =
        format!("\n{ready} of {all} can be assigned. `sluice devices BDF` tells all about one.\n");
    let mut said = vec!["yes"];
    for word in devices.iter().map(brief) {
        if !said.contains(&word) {
            said.push(word);
            text += &explain(word, devices, page);
        }
    }
    text
}

fn explain(word: &str, devices: &[Surveyed], page: Page) -> String {
    let alike = || devices.iter().filter(|device| brief(device) == word);
    // Few want to assign what belongs to the chipset.
    let chipset = |device: &&Surveyed| device.function.class >> 16 == 0x06;
    let example = alike().find(|d| !chipset(d)).or_else(|| alike().next());
    let Some((device, why)) = example.and_then(|d| Some((d, d.obstacle.as_ref()?))) else {
        return String::new();
    };
    let others = match alike().count() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let address = device.function.address;
    let line = format!("{address}{others}: {}; {}", why.reason(), why.remedy());
    page.paragraph(&fit(word, LEGEND_WIDTH), &line)
}

const LEGEND_WIDTH: usize = 14;

/// The device's name after its maker's, of which what lawyers and directories want is left out.
fn name(function: &PciFunction) -> String {
    let (Some(vendor), Some(device)) = (function.vendor_name(), function.device_name()) else {
        return function.name();
    };
    format!("{} {device}", maker(vendor))
}

/// `Intel` of `Intel Corporation`, `AMD` of `Advanced Micro Devices, Inc. [AMD]`.
fn maker(vendor: &str) -> &str {
    const FORMS: [&str; 12] = [
        "AG",
        "Co",
        "Co.",
        "Corp",
        "Corp.",
        "Corporation",
        "Electronics",
        "GmbH",
        "Inc",
        "Inc.",
        "Limited",
        "Ltd",
    ];
    if let Some((_, bracket)) = vendor.split_once('[') {
        return bracket.split([']', '/']).next().unwrap_or(bracket);
    }
    let mut name = vendor;
    while let Some((rest, last)) = name.rsplit_once(' ') {
        if !FORMS.contains(&last.trim_end_matches([',', '.'])) && !FORMS.contains(&last) {
            break;
        }
        name = rest.trim_end_matches(',');
    }
    name
}

/// The group's number and how many devices share it.
fn group(device: &Surveyed) -> String {
    let Some(number) = device.function.group else {
        return none();
    };
    let is_bridge = |m: &&Member| m.function().is_some_and(|f| f.is_bridge());
    match device.companions.iter().filter(|m| !is_bridge(m)).count() {
        0 => number.to_string(),
        others => format!("{number} +{others}"),
    }
}

fn vfs(device: &Surveyed) -> String {
    let sriov = device.function.sriov.as_ref();
    sriov.map_or_else(none, |s| format!("{} of {}", s.made.len(), s.total))
}

fn reset(device: &Surveyed) -> String {
    match &device.function.reset_methods[..] {
        [] => none(),
        methods => methods.join(","),
    }
}

fn bars(device: &Surveyed) -> String {
    let bars: Vec<_> = device.function.bars().map(bar_in_short).collect();
    match &bars[..] {
        [] => none(),
        bars => bars.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::maker;

    #[test]
    fn makers_are_called_by_their_names() {
        for (vendor, name) in [
            ("Intel Corporation", "Intel"),
            ("Advanced Micro Devices, Inc. [AMD]", "AMD"),
            ("Advanced Micro Devices, Inc. [AMD/ATI]", "AMD"),
            ("Red Hat, Inc.", "Red Hat"),
            ("Samsung Electronics Co Ltd", "Samsung"),
            ("Realtek Semiconductor Co., Ltd.", "Realtek Semiconductor"),
            ("NVIDIA Corporation", "NVIDIA"),
            ("Corporation", "Corporation"),
        ] {
            assert_eq!(maker(vendor), name);
        }
    }
}
