//! VFIO: the driver that holds devices for guests, and the kernel's interfaces to the IOMMU.

use nix::unistd::{AccessFlags, access};

use super::Finding;
use crate::host::group::is_vfio;
use crate::host::{Host, names_in};

/// `vfio-pci` is there to take devices.
pub fn driver(host: &Host) -> Finding {
    const TOPIC: &str = "VFIO driver";
    let drivers = names_in(&host.root.join("sys/bus/pci/drivers")).unwrap_or_default();
    let there: Vec<_> = drivers.into_iter().filter(|name| is_vfio(name)).collect();
    if there.is_empty() {
        return Finding::fail(
            TOPIC,
            "vfio-pci is not loaded",
            "`modprobe vfio-pci` (a line \"vfio-pci\" in /etc/modules-load.d/vfio.conf does it at boot)",
        );
    }
    Finding::ok(TOPIC, format!("{} loaded", there.join(", ")))
}

/// There is a way to the IOMMU: iommufd with device nodes of their own, or type1.
pub fn interface(host: &Host) -> Finding {
    const TOPIC: &str = "VFIO interface";
    let mut ways = Vec::new();
    let mut closed = Vec::new();
    for (node, name) in [
        ("dev/iommu", "iommufd (/dev/iommu, /dev/vfio/devices)"),
        ("dev/vfio/vfio", "type1 (/dev/vfio/vfio)"),
    ] {
        let path = host.root.join(node);
        let is_whole = node != "dev/iommu" || host.has("sys/class/vfio-dev");
        if !path.exists() || !is_whole {
            continue;
        }
        match access(&path, AccessFlags::R_OK | AccessFlags::W_OK) {
            Ok(()) => ways.push(name),
            Err(_) => closed.push(format!("/{node}")),
        }
    }
    match (&ways[..], &closed[..]) {
        ([], []) => Finding::fail(
            TOPIC,
            "there is neither /dev/vfio/vfio nor /dev/iommu with device nodes",
            "`modprobe -a vfio-pci vfio_iommu_type1`; a kernel without CONFIG_VFIO_IOMMU_TYPE1 \
             and CONFIG_VFIO_DEVICE_CDEV cannot assign devices",
        ),
        ([], closed) => {
            let closed = closed.join(" and ");
            Finding::fail(
                TOPIC,
                format!("this user may not open {closed}"),
                format!("run as root, or give this user the file: `chown USER {closed}`"),
            )
        }
        (ways, []) => Finding::ok(TOPIC, ways.join(", ")),
        (ways, closed) => {
            let (ways, closed) = (ways.join(", "), closed.join(" and "));
            Finding::ok(TOPIC, format!("{ways}; this user may not open {closed}"))
        }
    }
}
