//! The platform devices of a Q35/ICH9 machine whose local APICs live in KVM and whose other
//! interrupt controllers and timers are ours.
//!
//! | device | where | manual |
//! | --- | --- | --- |
//! | [`ioapic`] | 0xFEC0_0000 | Intel 82093AA; ICH9 §13.5 |
//! | [`pic`] | ports 0x20, 0xA0, 0x4D0 | Intel 8259A; ICH9 §13.4 |
//! | [`pit`] | ports 0x40–0x43, 0x61 | Intel 8254; ICH9 §13.3 |
//! | [`serial`] | port 0x3F8 | National PC16550D |
//! | [`rtc`] | ports 0x70–0x77 | Motorola MC146818A; ICH9 §13.6 |
//! | [`i8042`] | ports 0x60, 0x64 | PC/AT Technical Reference |
//! | [`reset_control`] | port 0xCF9 | ICH9 §13.7.5 |
//! | [`misc_ports`] | ports 0x80, 0x92, 0xED, 0x402 | ICH9 §13.7 |
//! | [`lpc`] | 00:1f.0 | ICH9 §13.1 |
//! | [`vtd`] | 0xFED9_0000 | VT-d specification |
//! | [`acpi_pm`] | PMBASE, ports 0xB2–0xB3 | ICH9 §13.8 |
//!
//! Devices on ISA ports speak bytes ([`ports::BytePorts`]) and say which ports they take
//! ([`ports::PortRange`]). Interrupt inputs are joined by [`wire::SharedLine`], and the
//! board's interrupt wires are [`intx::IntxRouter`]'s.

pub mod acpi_pm;
pub mod i8042;
pub mod intx;
pub mod ioapic;
pub mod lpc;
pub mod misc_ports;
pub mod pic;
pub mod pit;
pub mod ports;
pub mod power;
pub mod reset_control;
pub mod rtc;
pub mod serial;
pub mod vtd;
pub mod wire;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;
