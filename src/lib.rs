//! Sluice, a virtual machine monitor for device passthrough.

pub mod acpi;
pub mod boot;
pub mod cli;
pub mod config;
pub mod host;
pub mod interrupt;
pub mod machine;
pub mod memory;
pub mod vcpu;
