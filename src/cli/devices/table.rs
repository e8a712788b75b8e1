//! One line for each function. Columns in which all have nothing are left out, and those that
//! do not fit the page, the least wanted first; the name has what is left.

use super::bar_in_short;
use crate::cli::page::{Page, fit, width};
use crate::host::{Member, PciFunction, Surveyed};

struct Column {
    heading: &'static str,
    cell: fn(&Surveyed) -> String,
    /// Columns of greater rank go first; those of rank 0 stay.
    rank: u8,
}

const fn column(rank: u8, heading: &'static str, cell: fn(&Surveyed) -> String) -> Column {
    Column {
        heading,
        cell,
        rank,
    }
}

const COLUMNS: [Column; 9] = [
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

const NAME: &str = "NAME";
/// The name is not cut below this for other columns' sake.
const NAME_ROOM: usize = 30;
const GAP: usize = 2;

pub fn render(devices: &[Surveyed], page: Page) -> String {
    if devices.is_empty() {
        return "this host has no PCI devices\n".to_owned();
    }
    let columns = columns_for(devices, page);
    let taken: usize = columns.iter().map(|(_, width)| width + GAP).sum();
    let room = page
        .width()
        .map(|all| all.saturating_sub(taken).max(NAME.len()));
    let line = |cells: &mut dyn Iterator<Item = String>, name: &str| -> String {
        let mut line = String::new();
        for (cell, (_, width)) in cells.zip(&columns) {
            line += &fit(&cell, width + GAP);
        }
        line += &room.map_or_else(|| name.to_owned(), |room| fit(name, room));
        line.trim_end().to_owned() + "\n"
    };
    let mut headings = columns.iter().map(|(c, _)| c.heading.to_owned());
    let mut text = line(&mut headings, NAME);
    for device in devices {
        let mut cells = columns.iter().map(|(c, _)| (c.cell)(device));
        text += &line(&mut cells, &name(&device.function));
    }
    text + &legend(devices, page)
}

/// The columns that fit, and their widths.
fn columns_for(devices: &[Surveyed], page: Page) -> Vec<(&'static Column, usize)> {
    let wanted = |column: &Column| {
        let cells = devices.iter().map(|device| width(&(column.cell)(device)));
        cells.max().unwrap_or(0).max(column.heading.len())
    };
    let says_something = |column: &&Column| {
        let mut cells = devices.iter().map(|device| (column.cell)(device));
        column.rank == 0 || cells.any(|cell| cell != none())
    };
    let columns = COLUMNS.iter().filter(says_something);
    let mut columns: Vec<_> = columns.map(|c| (c, wanted(c))).collect();
    let Some(room) = page.width() else {
        return columns;
    };
    for rank in (1..=COLUMNS.len() as u8).rev() {
        let taken: usize = columns.iter().map(|(_, width)| width + GAP).sum();
        if taken + NAME_ROOM <= room {
            break;
        }
        columns.retain(|(column, _)| column.rank != rank);
    }
    columns
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

fn none() -> String {
    "-".to_owned()
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
