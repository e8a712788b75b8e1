//! For programs: an array with an object for each function. The names are described in the
//! README and do not change; every name is there for every function, `null` where there is
//! nothing.

use serde::Serialize;

use crate::host::{Bar, BarKind, BarPlace, Member, Surveyed};

pub fn render(devices: &[Surveyed]) -> serde_json::Result<String> {
    let all: Vec<_> = devices.iter().map(Device::from).collect();
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

#[derive(Serialize)]
struct Device<'a> {
    address: String,
    name: String,
    vendor: Option<&'static str>,
    device: Option<&'static str>,
    class: String,
    ids: Ids,
    driver: Option<&'a str>,
    numa_node: Option<u32>,
    iommu_group: Option<u32>,
    companions: Vec<Companion<'a>>,
    reset_methods: &'a [String],
    sriov: Option<SrIov>,
    physical_function: Option<String>,
    bars: Vec<Range>,
    assignable: bool,
    obstacle: Option<&'static str>,
    reason: Option<String>,
    remedy: Option<String>,
}

/// In hexadecimal, as in `lspci -n`.
#[derive(Serialize)]
struct Ids {
    vendor: String,
    device: String,
    subsystem_vendor: String,
    subsystem_device: String,
    class: String,
    revision: String,
}

#[derive(Serialize)]
struct Companion<'a> {
    /// A PCI address, or the name in sysfs of what is not PCI.
    address: String,
    driver: Option<&'a str>,
}

#[derive(Serialize)]
struct SrIov {
    total: u16,
    made: usize,
    virtual_functions: Vec<String>,
}

#[derive(Serialize)]
struct Range {
    /// `0` to `5`; `null` for the option ROM.
    bar: Option<u8>,
    /// `memory`, `ports` or `rom`.
    kind: &'static str,
    /// Bytes, or ports.
    size: u64,
    address: String,
    #[serde(rename = "64bit")]
    wide: bool,
    prefetchable: bool,
}

impl<'a> From<&'a Surveyed> for Device<'a> {
    fn from(surveyed: &'a Surveyed) -> Self {
        let function = &surveyed.function;
        let obstacle = surveyed.obstacle.as_ref();
        Self {
            address: function.address.to_string(),
            name: function.name(),
            vendor: function.vendor_name(),
            device: function.device_name(),
            class: function.class_name(),
            ids: Ids {
                vendor: format!("{:04x}", function.vendor),
                device: format!("{:04x}", function.device),
                subsystem_vendor: format!("{:04x}", function.subsystem.0),
                subsystem_device: format!("{:04x}", function.subsystem.1),
                class: format!("{:06x}", function.class),
                revision: format!("{:02x}", function.revision),
            },
            driver: function.driver.as_deref(),
            numa_node: function.numa_node,
            iommu_group: function.group,
            companions: surveyed.companions.iter().map(Companion::from).collect(),
            reset_methods: &function.reset_methods,
            sriov: function.sriov.as_ref().map(|sriov| SrIov {
                total: sriov.total,
                made: sriov.made.len(),
                virtual_functions: sriov.made.iter().map(ToString::to_string).collect(),
            }),
            physical_function: function.physical.map(|pf| pf.to_string()),
            bars: function.bars().map(Range::from).collect(),
            assignable: obstacle.is_none(),
            obstacle: obstacle.map(|why| why.code()),
            reason: obstacle.map(|why| why.reason()),
            remedy: obstacle.map(|why| why.remedy()),
        }
    }
}

impl<'a> From<&'a Member> for Companion<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            address: member.id(),
            driver: member.driver(),
        }
    }
}

impl From<Bar> for Range {
    fn from(bar: Bar) -> Self {
        let (kind, wide, prefetchable) = match bar.kind {
            BarKind::Ports => ("ports", false, false),
            BarKind::Memory { wide, prefetchable } => ("memory", wide, prefetchable),
        };
        let (number, kind) = match bar.place {
            BarPlace::Bar(number) => (Some(number), kind),
            BarPlace::Rom => (None, "rom"),
        };
        Self {
            bar: number,
            kind,
            size: bar.size,
            address: format!("{:#x}", bar.address),
            wide,
            prefetchable,
        }
    }
}
