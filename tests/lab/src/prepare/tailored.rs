//! A kernel with what Debian's own leaves out: iommufd, VFIO device files and the sample mediated devices. Built from
//! Debian's source with `host-kernel.config`, everything in the image, and kept for as long as that file stays as it is.

use super::Sources;
use super::apt::Apt;
use super::kernel::{Kernel, only_entry, only_name};
use super::step;
use crate::error::{Context, Result};
use crate::process::output_of;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "linux-source-6.12";
const CONFIG: &str = include_str!("../../host-kernel.config");
/// What compiling a kernel takes beside a C compiler: a file that shows it is there, and the package that brings it.
const TOOLS: [(&str, &str); 7] = [
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/make", "make"),
    ("/usr/bin/flex", "flex"),
    ("/usr/bin/bison", "bison"),
    ("/usr/bin/bc", "bc"),
    ("/usr/bin/perl", "perl"),
    ("/usr/include/libelf.h", "libelf-dev"),
];

/// The kernel in `directory` that was built with this configuration, if there is one.
pub fn find(directory: &Path) -> Option<Kernel> {
    let root = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| of_this_config(&name.to_string_lossy()))
        })
        .max()?;
    let release = only_name(&root.join("lib/modules")).ok()?;
    Some(Kernel::unpacked(root, release)).filter(|kernel| kernel.image().is_file())
}

/// The kernel in `directory`, built if there is none: minutes.
pub fn find_or_build(directory: &Path, sources: &Sources) -> Result<Kernel> {
    if let Some(found) = find(directory) {
        return Ok(found);
    }
    fs::create_dir_all(directory).path(directory)?;
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(file, _)| !Path::new(file).exists())
        .map(|(_, package)| *package)
        .collect();
    sources.tools.install_packages(&missing)?;
    let staging = tempfile::tempdir_in(directory).path(directory)?;
    let (tree, version) = step(
        "downloading and unpacking the source of Debian's 6.12 kernel",
        || unpack_source(&sources.parts, staging.path()),
    )?;
    let root = staging.path().join("root");
    step("building the tailored kernel (about eight minutes)", || {
        build(&tree, &root)
    })?;
    let place = directory.join(format!("{}-{version}", config_hash()));
    fs::rename(&root, &place).path(&place)?;
    let release = only_name(&place.join("lib/modules"))?;
    let kernel = Kernel::unpacked(place, release);
    Ok(kernel)
}

/// Whether a directory's name says that what is in it was built with this configuration.
fn of_this_config(name: &str) -> bool {
    name.split_once('-')
        .is_some_and(|(hash, _)| hash == config_hash())
}

/// FNV-1a of the configuration: it need only differ when the file does.
fn config_hash() -> String {
    let hash = CONFIG
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// Downloads the source package and unpacks the tree in it; gives the tree and the package's version.
fn unpack_source(apt: &Apt, staging: &Path) -> Result<(PathBuf, String)> {
    let (package, unpacked, tree) = (
        staging.join("deb"),
        staging.join("package"),
        staging.join("tree"),
    );
    for directory in [&package, &tree] {
        fs::create_dir(directory).path(directory)?;
    }
    apt.update()?;
    apt.download(SOURCE, &package)?;
    let archive = only_entry(&package)?;
    let version = output_of(
        Command::new("dpkg-deb")
            .arg("-f")
            .arg(&archive)
            .arg("Version"),
    )?;
    output_of(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;
    let tarball = unpacked.join(format!("usr/src/{SOURCE}.tar.xz"));
    output_of(
        Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .args(["--strip-components=1", "-xf"])
            .arg(tarball),
    )?;
    Ok((tree, version.trim().to_owned()))
}

/// Compiles `tree` and lays the result out as a kernel package would.
fn build(tree: &Path, root: &Path) -> Result<()> {
    let config = tree.join("lab.config");
    fs::write(&config, CONFIG).path(&config)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let make = |target: &str| {
        let mut command = Command::new("nice");
        command
            .arg("make")
            .arg("-C")
            .arg(tree)
            .arg(format!("-j{jobs}"))
            .arg("-s")
            .arg(target);
        output_of(command.env("KCONFIG_ALLCONFIG", &config))
    };
    make("allnoconfig")?;
    make("bzImage")?;
    let release = make("kernelrelease")?.trim().to_owned();
    let (boot, modules) = (root.join("boot"), root.join("lib/modules").join(&release));
    for directory in [&boot, &modules] {
        fs::create_dir_all(directory).path(directory)?;
    }
    let copy = |from: &str, to: PathBuf| fs::copy(tree.join(from), &to).map(drop).path(&to);
    copy(
        "arch/x86/boot/bzImage",
        boot.join(format!("vmlinuz-{release}")),
    )?;
    // So that modprobe knows what is built in and finds nothing to do.
    for list in ["modules.builtin", "modules.builtin.modinfo"] {
        copy(list, modules.join(list))?;
    }
    let order = modules.join("modules.order");
    fs::write(&order, "").path(&order)?;
    Kernel::unpacked(root.to_owned(), release).index_modules()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_known_by_its_configuration() {
        assert!(of_this_config(&format!(
            "{}-6.12.117-1~deb12u1",
            config_hash()
        )));
        assert!(!of_this_config("0123456789abcdef-6.12.117-1~deb12u1"));
        assert!(!of_this_config(".tmpAbCdEf"));
    }
}
