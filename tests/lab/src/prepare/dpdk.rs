//! DPDK's `dpdk-testpmd`, which drives network cards from a guest's user space. Debian's, with the libraries it is linked
//! with and two plugins: run by its own dynamic linker like QEMU, from wherever its directory is copied to.

use super::apt::{Apt, unpack_all};
use super::step;
use crate::error::{Context, Result, fail};
use crate::process::output_of;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "dpdk-dev";
const PROGRAM: &str = "dpdk-testpmd";
/// The driver of the lab's cards, and the kind of pool that packets come from.
const PLUGINS: [&str; 2] = ["librte_net_e1000.so.", "librte_mempool_ring.so."];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LINKER: &str = "ld-linux-x86-64.so.2";
/// The script in its directory that starts it.
const SCRIPT_NAME: &str = "testpmd";
const SCRIPT: &str = r#"#!/bin/sh
root=${0%/*}
exec "$root/lib/ld-linux-x86-64.so.2" --library-path "$root/lib" "$root/dpdk-testpmd" -d "$root/plugins" "$@"
"#;

/// The newest in `directory`, if there is one.
pub fn find(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|place| place.join(SCRIPT_NAME).is_file() && !is_staging(place))
        .max()
}

/// The one in `directory`, fetched if there is none.
pub fn find_or_fetch(directory: &Path, apt: &Apt) -> Result<PathBuf> {
    if let Some(found) = find(directory) {
        return Ok(found);
    }
    fs::create_dir_all(directory).path(directory)?;
    let staging = tempfile::tempdir_in(directory).path(directory)?;
    let [archives, root, kept] = ["archives", "root", "kept"].map(|name| staging.path().join(name));
    apt.update()?;
    step("downloading DPDK and its libraries", || {
        apt.download_with_dependencies(PACKAGE, &archives)
    })?;
    step("unpacking DPDK and its libraries", || {
        unpack_all(&archives, &root)?;
        keep(&root, &kept)
    })?;
    let place = directory.join(version(&archives)?);
    fs::rename(&kept, &place).path(&place)?;
    Ok(place)
}

/// Temporary directories begin with a dot.
fn is_staging(place: &Path) -> bool {
    place
        .file_name()
        .is_none_or(|name| name.to_string_lossy().starts_with('.'))
}

/// Copies the program, its plugins and what they are linked with, out of all that was unpacked.
fn keep(root: &Path, kept: &Path) -> Result<()> {
    let libraries = root.join(LIBRARIES);
    let (lib, plugins) = (kept.join("lib"), kept.join("plugins"));
    for directory in [&lib, &plugins] {
        fs::create_dir_all(directory).path(directory)?;
    }
    let program = root.join("usr/bin").join(PROGRAM);
    copy_into(kept, &program)?;
    copy_into(&lib, &libraries.join(LINKER))?;
    let mut linked = vec![program];
    for name in PLUGINS {
        let plugin = plugin(&libraries, name)?;
        copy_into(&plugins, &plugin)?;
        linked.push(plugin);
    }
    for file in &linked {
        let mut list = Command::new(libraries.join(LINKER));
        list.arg("--library-path").arg(&libraries).arg("--list");
        let said = output_of(list.arg(file))?;
        if said.contains("not found") {
            return fail(format!("{}: {said}", file.display()));
        }
        // The program's own name for its linker is the machine's, and is left out.
        let words = said.split_whitespace().map(Path::new);
        for library in words.filter(|word| word.starts_with(&libraries)) {
            copy_into(&lib, library)?;
        }
    }
    let script = kept.join(SCRIPT_NAME);
    fs::write(&script, SCRIPT).path(&script)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).path(&script)
}

/// By the full number of its interface, as in the names that are looked for in a directory of plugins.
fn plugin(libraries: &Path, prefix: &str) -> Result<PathBuf> {
    let is_full = |number: &str| {
        let parts: Vec<_> = number.split('.').map(str::parse::<u32>).collect();
        matches!(parts[..], [Ok(_), Ok(_)])
    };
    let found = fs::read_dir(libraries)
        .path(libraries)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name.strip_prefix(prefix).is_some_and(is_full));
    match found {
        Some(name) => Ok(libraries.join(name)),
        None => fail(format!("{PACKAGE} brings no {prefix}*")),
    }
}

fn copy_into(directory: &Path, file: &Path) -> Result<()> {
    let to = directory.join(file.file_name().unwrap_or_default());
    fs::copy(file, &to).map(drop).path(file)
}

/// That of the package among the archives, as in their names.
fn version(archives: &Path) -> Result<String> {
    let found = fs::read_dir(archives)
        .path(archives)?
        .flatten()
        .find_map(|entry| version_in(&entry.file_name().to_string_lossy()).map(str::to_owned));
    match found {
        Some(version) => Ok(version),
        None => fail(format!("no archive of {PACKAGE} was downloaded")),
    }
}

fn version_in(archive: &str) -> Option<&str> {
    let rest = archive.strip_prefix(PACKAGE)?.strip_prefix('_')?;
    Some(rest.split_once('_')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_tell_the_version() {
        assert_eq!(
            version_in("dpdk-dev_24.11.8-0+deb13u1_amd64.deb"),
            Some("24.11.8-0+deb13u1")
        );
        assert_eq!(version_in("dpdk_24.11.8-0+deb13u1_amd64.deb"), None);
        assert_eq!(version_in("partial"), None);
    }

    #[test]
    fn plugins_are_known_by_their_full_number() {
        let place = tempfile::tempdir().unwrap();
        for name in ["librte_x.so", "librte_x.so.25.0", "librte_x.so.25"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let found = plugin(place.path(), "librte_x.so.").unwrap();
        assert!(found.ends_with("librte_x.so.25.0"));
        assert!(plugin(place.path(), "librte_y.so.").is_err());
    }

    #[test]
    fn what_is_half_unpacked_is_not_found() {
        let cache = tempfile::tempdir().unwrap();
        for name in [".tmpX", "24.11.8"] {
            fs::create_dir(cache.path().join(name)).unwrap();
            fs::write(cache.path().join(name).join(SCRIPT_NAME), "").unwrap();
        }
        fs::create_dir(cache.path().join("25")).unwrap();
        assert_eq!(find(cache.path()), Some(cache.path().join("24.11.8")));
    }
}
