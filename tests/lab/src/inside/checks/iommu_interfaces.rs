//! The interfaces to the host's IOMMU: type1 groups, and iommufd with VFIO device files.

use super::Check;
use crate::error::{Result, fail};
use crate::inside::rig::Rig;
use std::path::Path;

/// Those that want a kernel with iommufd.
pub const ON_TAILORED: &[Check] = &[Check {
    name: "tailored-host-kernel",
    cpus: &[1],
    limit: 30,
    fixture: None,
    run: tailored_host_kernel,
}];

/// The tailored kernel has what it was built for.
fn tailored_host_kernel(_: &mut Rig, _: u32) -> Result<()> {
    for path in [
        "/dev/iommu",
        "/dev/vfio/vfio",
        "/dev/vfio/devices/vfio0",
        "/dev/kvm",
        "/sys/class/mtty/mtty/mdev_supported_types/mtty-2",
    ] {
        if !Path::new(path).exists() {
            return fail(format!("the tailored host kernel shows no {path}"));
        }
    }
    Ok(())
}
