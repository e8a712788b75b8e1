//! The emulated host, seen from the developer's machine: QEMU without KVM, a stock kernel, and as its root this very
//! machine's files, read-only over 9p.

mod machine;
mod monitor;
mod session;

pub use machine::Memory;
pub use session::{Console, Heard, Session, quoted};
