//! A device opened by a file of its own, `/dev/vfio/devices/vfioN`
//! (Documentation/driver-api/vfio.rst, "VFIO device cdev"; linux/vfio.h).
//!
//! KVM is told of the file first, as the kernel wants it; then the file is bound to an iommufd,
//! which it stays until it is closed, and attached to an address space of it. If a step fails
//! those before it are undone: KVM would otherwise keep the device open until the end of the
//! machine.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use iommu::host::Iommufd;
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_TYPE, vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd,
    vfio_device_detach_iommufd_pt,
};

nix::ioctl_readwrite_bad!(
    vfio_device_bind,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 18),
    vfio_device_bind_iommufd
);
nix::ioctl_readwrite_bad!(
    vfio_device_attach,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 19),
    vfio_device_attach_iommufd_pt
);
nix::ioctl_write_ptr_bad!(
    vfio_device_detach,
    nix::request_code_none!(VFIO_TYPE, VFIO_BASE + 20),
    vfio_device_detach_iommufd_pt
);

/// Whoever runs the guest, which must know of the device files that it is given: KVM's VFIO
/// device.
pub trait Hypervisor: Send + Sync {
    /// The guest is given this device.
    fn add(&self, device: BorrowedFd<'_>) -> io::Result<()>;

    /// It no longer has it.
    fn remove(&self, device: BorrowedFd<'_>) -> io::Result<()>;
}

/// A step on the way into an address space, and what the kernel said of it.
#[derive(Debug)]
pub(super) enum Refused {
    Told(io::Error),
    Bound(io::Error),
    Attached(io::Error),
}

/// What is asked of the kernel. A trait, so that each step can fail in a test.
trait Calls {
    fn bind(&self, device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<()>;
    fn attach(&self, device: BorrowedFd<'_>, space: u32) -> io::Result<()>;
    fn detach(&self, device: BorrowedFd<'_>) -> io::Result<()>;
}

struct Kernel;

impl Calls for Kernel {
    fn bind(&self, device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> io::Result<()> {
        let mut request = vfio_device_bind_iommufd {
            // Without the token, which older kernels do not know.
            argsz: std::mem::offset_of!(vfio_device_bind_iommufd, token_uuid_ptr) as u32,
            iommufd: iommufd.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: `request` is the ioctl's own structure and says how much of it is meant.
        unsafe { vfio_device_bind(device.as_raw_fd(), &mut request) }?;
        Ok(())
    }

    fn attach(&self, device: BorrowedFd<'_>, space: u32) -> io::Result<()> {
        let mut request = vfio_device_attach_iommufd_pt {
            // Without the PASID, as above.
            argsz: std::mem::offset_of!(vfio_device_attach_iommufd_pt, pasid) as u32,
            pt_id: space,
            ..Default::default()
        };
        // SAFETY: as above.
        unsafe { vfio_device_attach(device.as_raw_fd(), &mut request) }?;
        Ok(())
    }

    fn detach(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        let request = vfio_device_detach_iommufd_pt {
            argsz: std::mem::offset_of!(vfio_device_detach_iommufd_pt, pasid) as u32,
            ..Default::default()
        };
        // SAFETY: as above; the kernel only reads it.
        unsafe { vfio_device_detach(device.as_raw_fd(), &request) }?;
        Ok(())
    }
}

/// A device file in an address space. Dropped, the device leaves it and is closed.
pub(super) struct Cdev {
    // Before what it is in.
    joined: Joined<Kernel>,
    _iommufd: Arc<Iommufd>,
}

impl Cdev {
    /// Binds and attaches a device. With `hypervisor`, that is told of it.
    pub fn join(
        file: File,
        iommufd: &Arc<Iommufd>,
        hypervisor: Option<Arc<dyn Hypervisor>>,
    ) -> Result<Self, Refused> {
        let told = Told::tell(file, hypervisor)?;
        Ok(Self {
            joined: Joined::join(Kernel, told, iommufd.as_fd(), iommufd.space())?,
            _iommufd: Arc::clone(iommufd),
        })
    }
}

impl AsRawFd for Cdev {
    fn as_raw_fd(&self) -> RawFd {
        self.joined.told.file.as_raw_fd()
    }
}

/// A device file that the hypervisor knows of.
struct Told {
    file: File,
    hypervisor: Option<Arc<dyn Hypervisor>>,
}

impl Told {
    fn tell(file: File, hypervisor: Option<Arc<dyn Hypervisor>>) -> Result<Self, Refused> {
        if let Some(hypervisor) = &hypervisor {
            hypervisor.add(file.as_fd()).map_err(Refused::Told)?;
        }
        Ok(Self { file, hypervisor })
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let removed = self
            .hypervisor
            .as_ref()
            .map(|h| h.remove(self.file.as_fd()));
        if let Some(Err(error)) = removed {
            tracing::warn!(%error, "KVM keeps a device that is given back");
        }
    }
}

/// A device file that is attached.
struct Joined<C: Calls> {
    calls: C,
    told: Told,
}

impl<C: Calls> Joined<C> {
    fn join(calls: C, told: Told, iommufd: BorrowedFd<'_>, space: u32) -> Result<Self, Refused> {
        let device = told.file.as_fd();
        calls.bind(device, iommufd).map_err(Refused::Bound)?;
        calls.attach(device, space).map_err(Refused::Attached)?;
        Ok(Self { calls, told })
    }
}

impl<C: Calls> Drop for Joined<C> {
    fn drop(&mut self) {
        // Closing it does the same, later.
        if let Err(error) = self.calls.detach(self.told.file.as_fd()) {
            tracing::warn!(%error, "a device stays in its address space until it is closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Notes what is asked of it, and refuses one thing.
    #[derive(Clone, Default)]
    struct Witness {
        seen: Arc<Mutex<Vec<&'static str>>>,
        refuses: &'static str,
    }

    impl Witness {
        fn note(&self, what: &'static str) -> io::Result<()> {
            self.seen.lock().unwrap().push(what);
            if self.refuses == what {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            Ok(())
        }
    }

    impl Hypervisor for Witness {
        fn add(&self, _: BorrowedFd<'_>) -> io::Result<()> {
            self.note("add")
        }

        fn remove(&self, _: BorrowedFd<'_>) -> io::Result<()> {
            self.note("remove")
        }
    }

    impl Calls for Witness {
        fn bind(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
            self.note("bind")
        }

        fn attach(&self, _: BorrowedFd<'_>, space: u32) -> io::Result<()> {
            assert_eq!(space, 7);
            self.note("attach")
        }

        fn detach(&self, _: BorrowedFd<'_>) -> io::Result<()> {
            self.note("detach")
        }
    }

    fn life(refuses: &'static str) -> (Option<Refused>, Vec<&'static str>) {
        let witness = Witness {
            refuses,
            ..Default::default()
        };
        let null = || File::open("/dev/null").unwrap();
        let told = Told::tell(null(), Some(Arc::new(witness.clone())));
        let joined = told.and_then(|told| Joined::join(witness.clone(), told, null().as_fd(), 7));
        let refused = joined.err();
        let seen = witness.seen.lock().unwrap().clone();
        (refused, seen)
    }

    #[test]
    fn each_step_is_undone_if_a_later_one_fails() {
        let (refused, seen) = life("");
        assert!(refused.is_none());
        assert_eq!(seen, ["add", "bind", "attach", "detach", "remove"]);
        let (refused, seen) = life("add");
        assert!(matches!(refused, Some(Refused::Told(_))));
        assert_eq!(seen, ["add"]);
        let (refused, seen) = life("bind");
        assert!(matches!(refused, Some(Refused::Bound(_))));
        assert_eq!(seen, ["add", "bind", "remove"]);
        let (refused, seen) = life("attach");
        assert!(matches!(refused, Some(Refused::Attached(_))));
        assert_eq!(seen, ["add", "bind", "attach", "remove"]);
    }

    #[test]
    fn what_cannot_be_undone_ends_nothing_else() {
        for refuses in ["detach", "remove"] {
            let (refused, seen) = life(refuses);
            assert!(refused.is_none());
            assert_eq!(seen, ["add", "bind", "attach", "detach", "remove"]);
        }
    }

    #[test]
    fn what_is_no_device_fails_and_does_not_panic() {
        let null = File::open("/dev/null").unwrap();
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(nix::libc::ENOTTY));
        };
        refused(Kernel.bind(null.as_fd(), null.as_fd()));
        refused(Kernel.attach(null.as_fd(), 1));
        refused(Kernel.detach(null.as_fd()));
    }
}
