//! Why a kernel cannot be booted.

use std::io;
use std::path::PathBuf;

use crate::memory::display_size;

/// Why a kernel cannot be booted. Each is one line that names the flag to blame.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be opened or read.
    #[error("{flag} {}: cannot {what} it", .path.display())]
    File {
        /// `--kernel` or `--initrd`.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// `open` or `read`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's file is of no kind we boot.
    #[error("--kernel {}: {why}", .path.display())]
    Unbootable {
        /// The file.
        path: PathBuf,
        /// Why not, and what would do.
        why: &'static str,
    },
    /// The loader refused the file.
    #[error("--kernel {}", .path.display())]
    Loader {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// The kernel needs more memory than the machine has below 4 GiB.
    #[error("--kernel {}: needs memory up to {} to start; use more --memory", .path.display(), display_size(*.end))]
    KernelTooLarge {
        /// The file.
        path: PathBuf,
        /// First address past what it needs.
        end: u64,
    },
    /// A segment lies where something else must.
    #[error("--kernel {}: a segment at {start:#x} lies where {what}; link it from 1 MiB up", .path.display())]
    Overlap {
        /// The file.
        path: PathBuf,
        /// Where the segment starts.
        start: u64,
        /// What must be there.
        what: &'static str,
    },
    /// The initrd does not fit beside the kernel.
    #[error("--initrd {}: its {size} bytes do not fit between the kernel's end at {kernel_end:#x} and {limit:#x}; use more --memory", .path.display())]
    InitrdTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// End of the kernel.
        kernel_end: u64,
        /// It must end below this.
        limit: u64,
    },
    /// The command line is too long for this kernel.
    #[error("--cmdline: it has {len} bytes and this kernel takes at most {max}")]
    CmdlineTooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Guest memory refused a write; the least memory a machine may have rules it out.
    #[error("boot data does not fit in guest memory; use more --memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
}
