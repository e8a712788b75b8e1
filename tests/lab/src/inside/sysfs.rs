//! PCI devices of the emulated host as its kernel shows them.

use crate::error::{Context, Result, fail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A device's directory.
pub fn device(address: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address)
}

/// Writes one attribute.
pub fn write(path: impl AsRef<Path>, value: &str) -> Result<()> {
    fs::write(&path, value).context(format!("writing {value:?} to {}", path.as_ref().display()))
}

/// The driver a device is bound to.
pub fn driver(address: &str) -> Option<String> {
    let link = fs::read_link(device(address).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Takes a device from whatever driver it has and gives it to `wanted`.
pub fn bind(address: &str, wanted: &str) -> Result<()> {
    unbind(address)?;
    write(device(address).join("driver_override"), wanted)?;
    write("/sys/bus/pci/drivers_probe", address)?;
    match driver(address) {
        Some(now) if now == wanted => Ok(()),
        now => fail(format!(
            "{address}: {wanted} did not take it (driver: {})",
            now.as_deref().unwrap_or("none")
        )),
    }
}

/// Takes a device from its driver, if it has one, and forgets any preference.
pub fn unbind(address: &str) -> Result<()> {
    if let Some(now) = driver(address) {
        write(
            Path::new("/sys/bus/pci/drivers").join(now).join("unbind"),
            address,
        )?;
    }
    write(device(address).join("driver_override"), "\n")
}

/// The network interface a device's driver made.
pub fn interface(address: &str) -> Result<String> {
    let directory = device(address).join("net");
    match fs::read_dir(&directory).path(&directory)?.flatten().next() {
        Some(entry) => Ok(entry.file_name().to_string_lossy().into_owned()),
        None => fail(format!("{address}: no network interface")),
    }
}

/// Waits until `done`, looking often.
pub fn wait_until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > patience {
            return fail(format!("{what}: not within {} s", patience.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
