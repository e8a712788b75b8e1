//! From one kernel to the next as `kexec -s -l` and `kexec -e` would: kexec_file_load(2), then reboot(2).

use crate::error::{Context, Result, fail};
use nix::errno::Errno;
use nix::libc::{self, LINUX_REBOOT_CMD_KEXEC, SYS_kexec_file_load, c_int, c_ulong, syscall};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Loads the kernel and goes over to it; comes back only if it cannot.
pub fn start(kernel: &Path, initrd: &Path, cmdline: &str) -> Result<()> {
    let image = File::open(kernel).path(kernel)?;
    let disk = File::open(initrd).path(initrd)?;
    let Ok(words) = CString::new(cmdline) else {
        return fail("a kernel command line holds no zero byte");
    };
    let length = words.as_bytes_with_nul().len() as c_ulong;
    let (image, disk): (c_int, c_int) = (image.as_raw_fd(), disk.as_raw_fd());
    const NO_FLAGS: c_ulong = 0;
    // SAFETY: both descriptors are open, and `words` is `length` bytes that live through the call, which copies them.
    let loaded = unsafe {
        syscall(
            SYS_kexec_file_load,
            image,
            disk,
            length,
            words.as_ptr(),
            NO_FLAGS,
        )
    };
    Errno::result(loaded).context(format!("kexec_file_load of {}", kernel.display()))?;
    // SAFETY: no memory is passed; the call returns only if there is nothing to go over to.
    Errno::result(unsafe { libc::reboot(LINUX_REBOOT_CMD_KEXEC) })
        .context("going over to the other kernel")
        .map(drop)
}
