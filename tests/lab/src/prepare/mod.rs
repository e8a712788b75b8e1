//! What the lab needs on the developer's machine: installed, downloaded and unpacked once, then found.
//!
//! Everything kept lives in one cache directory outside the repository; a second run neither downloads nor installs.

mod apt;
mod dpdk;
mod kernel;
mod mend;
mod qemu;
mod tailored;

pub use kernel::{GUEST_MODULES, Kernel};

use crate::error::{Context, Error, Result};
use apt::Apt;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Which kernel an emulated host runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum HostKernel {
    /// Debian's own
    #[default]
    Stock,
    /// One with iommufd, VFIO device files and the mtty sample device, all built in
    Tailored,
}

/// What is ready for use once the machine is prepared.
pub struct Prepared {
    /// Debian's kernel: the guests', and most emulated hosts'.
    pub kernel: Kernel,
    /// The tailored one, if it was built here.
    pub tailored: Option<Kernel>,
    /// QEMU's program, which emulates the host.
    pub qemu: PathBuf,
    /// The directory with DPDK's program, if it was fetched.
    pub dpdk: Option<PathBuf>,
}

impl Prepared {
    /// The kernel for an emulated host.
    pub fn host_kernel(&self, which: HostKernel) -> Result<&Kernel> {
        match which {
            HostKernel::Stock => Ok(&self.kernel),
            HostKernel::Tailored => self.tailored.as_ref().ok_or_else(|| {
                Error::Other(
                    "the tailored host kernel is not built: `cargo lab prepare --host-kernel`, eight minutes, once"
                        .into(),
                )
            }),
        }
    }
}

/// Where packages come from.
struct Sources {
    /// What is installed on this machine.
    tools: Apt,
    /// What the emulated host is made of.
    parts: Apt,
}

/// Makes the machine ready, saying each step that costs time. The tailored kernel is used if it is there.
pub fn prepare() -> Result<Prepared> {
    prepare_with(
        |directory, _| Ok(dpdk::find(directory)),
        |directory, _| Ok(tailored::find(directory)),
    )
}

/// Makes the machine ready, with what only tests want.
pub fn prepare_for_tests() -> Result<Prepared> {
    prepare_with(find_or_fetch_dpdk, |directory, _| {
        Ok(tailored::find(directory))
    })
}

/// Makes the machine ready, with what only tests want and the tailored kernel.
pub fn prepare_with_tailored_kernel() -> Result<Prepared> {
    prepare_with(find_or_fetch_dpdk, |directory, sources| {
        fs::create_dir_all(directory).path(directory)?;
        let _held = hold(directory, "lock")?;
        tailored::find_or_build(directory, sources).map(Some)
    })
}

fn find_or_fetch_dpdk(directory: &Path, sources: &Sources) -> Result<Option<PathBuf>> {
    dpdk::find_or_fetch(directory, &sources.parts).map(Some)
}

fn prepare_with(
    dpdk: impl FnOnce(&Path, &Sources) -> Result<Option<PathBuf>>,
    tailored: impl FnOnce(&Path, &Sources) -> Result<Option<Kernel>>,
) -> Result<Prepared> {
    let cache = cache_directory()?;
    // Two runs at once must not both install: the second waits, then finds all in place.
    let held = hold(&cache, "lock")?;
    let sources = Sources {
        tools: Apt::of_this_machine(cache.join("apt")),
        parts: Apt::of_parts(cache.join("apt-parts")),
    };
    sources.tools.install_missing()?;
    let qemu = qemu::find_or_fetch(&cache.join("qemu"), &sources.parts)?;
    let kernel = Kernel::find_or_fetch(&cache.join("kernel"), &sources.parts)?;
    let dpdk = dpdk(&cache.join("dpdk"), &sources)?;
    // The build of a kernel keeps nobody waiting who does not want it.
    drop(held);
    let tailored = tailored(&cache.join("host-kernel"), &sources)?;
    Ok(Prepared {
        kernel,
        tailored,
        qemu,
        dpdk,
    })
}

fn hold(cache: &Path, name: &str) -> Result<Flock<File>> {
    let lock = File::create(cache.join(name)).path(cache)?;
    Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .path(cache)
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
