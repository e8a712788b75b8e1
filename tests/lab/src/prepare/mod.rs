//! What the lab needs on the developer's machine: installed, downloaded and unpacked once, then found.
//!
//! Everything kept lives in one cache directory outside the repository; a second run neither downloads nor installs.

mod apt;
mod kernel;

pub use kernel::{GUEST_MODULES, Kernel};

use crate::error::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Instant;

/// What is ready for use once the machine is prepared.
pub struct Prepared {
    /// The kernel of the emulated host and of its guests.
    pub kernel: Kernel,
}

/// Makes the machine ready, saying each step that costs time.
pub fn prepare() -> Result<Prepared> {
    let cache = cache_directory()?;
    // Two runs at once must not both install: the second waits, then finds all in place.
    let lock = File::create(cache.join("lock")).path(&cache)?;
    let _held = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .path(&cache)?;
    let apt = apt::Apt::new(cache.join("apt"));
    apt.install_missing()?;
    let kernel = Kernel::find_or_fetch(&cache.join("kernel"), &apt)?;
    Ok(Prepared { kernel })
}

/// Runs one step of the preparation and prints one line for it, with the time it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    eprint!("lab: {what} ...");
    let result = work();
    let ending = if result.is_ok() { "" } else { " (failed)" };
    eprintln!(" {:.1} s{ending}", start.elapsed().as_secs_f64());
    result
}

fn cache_directory() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(|| std::env::temp_dir().join("cache"));
    let directory = base.join("sluice-lab");
    fs::create_dir_all(&directory).path(&directory)?;
    Ok(directory)
}
