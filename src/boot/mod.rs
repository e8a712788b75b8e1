//! Direct kernel boot: puts kernel, initrd and command line into guest memory and says how
//! the first vCPU enters.
//!
//! Two protocols: Linux's 64-bit boot protocol for a bzImage (`bzimage.rs`,
//! Documentation/arch/x86/boot.rst) and PVH for an ELF file (`pvh.rs`, Xen's
//! docs/misc/pvh.pandoc). [`load`] can be called again at every reset: it reads the same
//! open files, so a reboot starts what the first boot did, and rewrites everything the
//! protocols promise, including zeroed BSS.

mod bzimage;
mod elf;
mod entry;
mod error;
mod image;
mod place;
mod pvh;

pub use entry::{Entry, Protocol};
pub use error::BootError;
pub use image::Images;

use devices::dma::GuestRam;

use crate::memory::Layout;
use image::Format;

/// Loads `images` with the kernel command line `cmdline` into `ram`, laid out as `layout`.
/// `rsdp` is where the ACPI tables' root pointer lies.
pub fn load(
    images: &Images,
    cmdline: &str,
    ram: &GuestRam,
    layout: &Layout,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let plan = Plan {
        images,
        cmdline,
        ram,
        layout,
        rsdp,
    };
    let protocol = match images.format()? {
        Format::BzImage => bzimage::load(&plan)?,
        Format::Elf => pvh::load(&plan)?,
    };
    entry::prepare(protocol, ram)
}

/// What is to be loaded where.
struct Plan<'a> {
    images: &'a Images,
    cmdline: &'a str,
    ram: &'a GuestRam,
    layout: &'a Layout,
    rsdp: u64,
}

#[cfg(test)]
mod kvm_tests;
#[cfg(test)]
mod tests;
