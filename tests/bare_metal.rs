//! Guests without an operating system, on this machine's `/dev/kvm`: each drives one part of
//! the machine the way its manual says and checks what it sees (`tests/guests/*.c`); the host
//! checks what came out.
//!
//! A guest is built with the machine's gcc when a test first asks for it. Where there is no
//! gcc, no `/dev/kvm`, or no right to make a TAP device, a test says so and passes.

#[path = "bare_metal/disk.rs"]
mod disk;
#[path = "bare_metal/guest.rs"]
mod guest;
#[path = "bare_metal/net.rs"]
mod net;
#[path = "bare_metal/payload.rs"]
mod payload;

#[path = "bare_metal/e1000.rs"]
mod e1000;
#[path = "bare_metal/hostile.rs"]
mod hostile;
#[path = "bare_metal/ide.rs"]
mod ide;
#[path = "bare_metal/lifecycle.rs"]
mod lifecycle;
#[path = "bare_metal/pci.rs"]
mod pci;
#[path = "bare_metal/platform.rs"]
mod platform;
#[path = "bare_metal/vtd.rs"]
mod vtd;
