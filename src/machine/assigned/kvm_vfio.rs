//! KVM's VFIO device (Documentation/virt/kvm/devices/vfio.rst), which is told what the guest
//! is given: groups by the type1 container, files of devices here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::sync::Arc;

use devices::vfio::Hypervisor;
use iommu::host::HypervisorVfio;
use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL, kvm_device_attr,
};
use kvm_ioctls::{DeviceFd, VmFd};

use crate::machine::vm::{VmError, vfio_device};

/// KVM's VFIO device, as either interface wants it.
pub struct KvmVfio {
    groups: Arc<HypervisorVfio>,
    files: DeviceFd,
}

impl KvmVfio {
    /// Makes the one that a VM has.
    pub fn new(vm: &VmFd) -> Result<Self, VmError> {
        let files = vfio_device(vm)?;
        // SAFETY: `files` owns the descriptor, and outlives the borrow.
        let copy = unsafe { BorrowedFd::borrow_raw(files.as_raw_fd()) }.try_clone_to_owned();
        let copy = copy.map_err(|source| VmError::Kernel {
            what: "copy its VFIO device",
            source,
        })?;
        // SAFETY: the copy is owned by nobody else, and is KVM's VFIO device as the first is.
        let groups = unsafe { DeviceFd::from_raw_fd(copy.into_raw_fd()) };
        Ok(Self {
            groups: Arc::new(HypervisorVfio::new_from_kvm(groups)),
            files,
        })
    }

    /// For a container.
    pub fn groups(&self) -> Arc<HypervisorVfio> {
        self.groups.clone()
    }

    fn set(&self, attribute: u32, device: BorrowedFd<'_>) -> io::Result<()> {
        let descriptor = device.as_raw_fd();
        let attribute = kvm_device_attr {
            group: KVM_DEV_VFIO_FILE,
            attr: attribute.into(),
            addr: (&raw const descriptor) as u64,
            flags: 0,
        };
        self.files.set_device_attr(&attribute).map_err(Into::into)
    }
}

impl Hypervisor for KvmVfio {
    fn add(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.set(KVM_DEV_VFIO_FILE_ADD, device)
    }

    fn remove(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        self.set(KVM_DEV_VFIO_FILE_DEL, device)
    }
}
