//! The ways in which Sluice changes its host: attributes of sysfs, modules, and network
//! interfaces. Behind a trait, so that a test can have any of them fail.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::netlink::{self, Link};
use super::vf::VfSetting;

/// The host's kernel, as far as it is asked to change something.
pub trait Kernel: Send + Sync {
    /// Writes an attribute of sysfs, in one write.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Loads a module and what it needs.
    fn load_module(&self, name: &str) -> io::Result<()>;

    /// Tells about a network interface.
    fn link(&self, interface: &str) -> io::Result<Link>;

    /// Takes a network interface up or down.
    fn set_up(&self, interface: &str, up: bool) -> io::Result<()>;

    /// Sets something of a VF of the device below a network interface.
    fn set_vf(&self, interface: &str, number: u32, setting: VfSetting) -> io::Result<()>;

    /// Lets time pass.
    fn pause(&self, time: Duration);
}

/// The kernel that Sluice runs on.
pub struct ThisKernel;

impl Kernel for ThisKernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(text.as_bytes())
    }

    fn load_module(&self, name: &str) -> io::Result<()> {
        let output = Command::new("modprobe")
            .arg(name)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(said.trim().to_owned()))
    }

    fn link(&self, interface: &str) -> io::Result<Link> {
        netlink::link(interface)
    }

    fn set_up(&self, interface: &str, up: bool) -> io::Result<()> {
        netlink::set_up(interface, up)
    }

    fn set_vf(&self, interface: &str, number: u32, setting: VfSetting) -> io::Result<()> {
        netlink::set_vf(interface, number, setting)
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
