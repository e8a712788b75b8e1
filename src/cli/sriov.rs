//! `sluice sriov`.

use std::fmt::Write;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use pci::HostBdf;

use super::CliError;
use super::flags::read;
use crate::config::NumberedVf;
use crate::host::{
    Changes, Host, Kernel, Link, PhysicalFunction, SriovError, ThisKernel, VfReport, VfSettings,
};

pub(super) const AFTER_SRIOV: &str = "\
A network card is taken up before it gets virtual functions, as they need it. --vfs 0 removes \
them and puts back what --vfs N has changed besides. The number cannot change while one of them \
is in use. If anything fails, all is as it was.";

/// `sluice sriov`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Sriov {
    /// The physical function, such as 0000:02:00.0
    #[arg(value_name = "PF")]
    pub pf: HostBdf,

    /// Show what there is, as is done anyway at the end
    #[arg(value_enum, conflicts_with_all = ["vfs", "vf"])]
    action: Option<SriovAction>,

    /// How many virtual functions there are to be
    #[arg(long, value_name = "N")]
    pub vfs: Option<u16>,

    /// Settings of virtual function I (from 0): its MAC address; its VLAN; whether it is trusted
    /// (on|off) and kept to its own address (on|off); Mbit/s it may send; its link
    /// (auto|enable|disable); repeatable
    #[arg(
        long,
        value_name = "I[,mac=…][,vlan=…][,trust=…][,spoofcheck=…][,rate=…][,link=…]"
    )]
    vf: Vec<String>,
}

/// What to do besides.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum SriovAction {
    /// Show what there is.
    Show,
}

impl Sriov {
    /// The settings of virtual functions.
    pub fn settings(&self) -> Result<Vec<NumberedVf>, CliError> {
        let read = read("--vf", &self.vf)?;
        Ok(read.into_iter().map(|given| given.value).collect())
    }
}

/// Makes, changes or removes VFs as the flags say, and shows what there is then.
pub fn sriov(flags: &Sriov, vfs: &[NumberedVf]) -> Result<String, SriovError> {
    sriov_on(&Host::this_machine(), Arc::new(ThisKernel), flags, vfs)
}

fn sriov_on(
    host: &Host,
    kernel: Arc<dyn Kernel>,
    flags: &Sriov,
    vfs: &[NumberedVf],
) -> Result<String, SriovError> {
    let changes = Changes::begin(host, kernel)?;
    if flags.vfs.is_some() || !vfs.is_empty() {
        let settings: Vec<_> = vfs.iter().map(|vf| (vf.number, vf.settings)).collect();
        changes.set_vfs(flags.pf, flags.vfs, &settings)?;
    }
    let physical = host.physical_function(flags.pf)?;
    let link = changes.link(&physical)?;
    let reports = changes.vf_reports(&physical)?;
    Ok(show(&physical, link.as_ref(), &reports))
}

fn show(physical: &PhysicalFunction, link: Option<&Link>, reports: &[VfReport]) -> String {
    let mut text = format!("{}", physical.function);
    match &physical.function.driver {
        Some(driver) => text += &format!(", driver {driver}"),
        None => text += ", no driver",
    }
    if let (Some(interface), Some(link)) = (&physical.interface, link) {
        let state = match (link.up, link.carrier) {
            (true, true) => "up",
            (true, false) => "up, no carrier",
            (false, _) => "down",
        };
        text += &format!(", interface {interface} ({state})");
    }
    let takers = match physical.autoprobe {
        true => "the host's drivers take new ones",
        false => "the host's drivers leave new ones alone",
    };
    let (made, total) = (physical.made(), physical.total);
    let _ = writeln!(text, "\n{made} of {total} virtual functions; {takers}");
    if !reports.is_empty() {
        text += &table(reports);
    }
    text
}

const HEADER: [&str; 11] = [
    "VF",
    "address",
    "driver",
    "group",
    "MAC",
    "VLAN",
    "trust",
    "spoofcheck",
    "rate",
    "link",
    "in use by",
];

fn table(reports: &[VfReport]) -> String {
    let rows = reports
        .iter()
        .enumerate()
        .map(|(number, vf)| row(number, vf));
    let rows: Vec<_> = std::iter::once(HEADER.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEADER.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, &width)| format!("{cell:width$}  "))
            .collect();
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn row(number: usize, vf: &VfReport) -> [String; 11] {
    const NONE: &str = "-";
    fn or_none<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
    }
    let on_off = |on: bool| if on { "on" } else { "off" };
    let VfSettings {
        mac,
        vlan,
        trust,
        spoofcheck,
        rate,
        link,
    } = vf.settings;
    [
        number.to_string(),
        vf.function.address.to_string(),
        or_none(vf.function.driver.as_ref()),
        or_none(vf.function.group),
        // All zeros: the VF's driver chooses.
        or_none(mac.filter(|mac| mac.0 != [0; 6])),
        or_none(vlan.map(|vlan| vlan.id).filter(|id| *id != 0)),
        or_none(trust.map(on_off)),
        or_none(spoofcheck.map(on_off)),
        or_none(rate.map(|rate| rate.max).filter(|max| *max != 0)),
        or_none(link),
        or_none(vf.in_use.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden::assert_golden;
    use crate::host::fake_kernel::{FakeKernel, PF, vf};

    #[test]
    fn shows_what_there_is() {
        let kernel = FakeKernel::with_pf();
        let show = |flags: &Sriov| {
            let vfs = flags.settings().unwrap();
            sriov_on(&kernel.host(), kernel.clone(), flags, &vfs).unwrap()
        };
        let mut flags = Sriov {
            pf: PF.parse().unwrap(),
            action: Some(SriovAction::Show),
            vfs: None,
            vf: Vec::new(),
        };
        let mut text = show(&flags);
        flags.vfs = Some(3);
        flags.vf = vec![
            "0,mac=02:00:00:00:00:01,vlan=100,rate=200".into(),
            "2,trust=on,spoofcheck=off,link=disable".into(),
        ];
        text += "\n";
        text += &show(&flags);
        kernel.tree.bind(&vf(0), "vfio-pci");
        kernel
            .tree
            .write("proc/812/comm", "sluice\n")
            .link("proc/812/fd/9", "dev/vfio/40");
        flags.vfs = None;
        flags.vf.clear();
        text += "\n";
        text += &show(&flags);
        assert_golden("sriov.txt", &text);
    }
}
