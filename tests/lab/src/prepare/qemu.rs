//! The QEMU that emulates the host, and that Sluice is measured against: newer than the machine's release has, so it is
//! unpacked with every library it needs and run by its own dynamic linker, and nothing is installed.
//!
//! 10.0.2 was seen to end in an assertion of its software TLB (`iotlb_to_section`), which 11 has no more.

use super::apt::{Apt, unpack_all};
use super::mend::{Mended, mend};
use super::step;
use crate::error::{Context, Result, fail};
use crate::process::output_of;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "qemu-system-x86";
const OLDEST_MAJOR: u32 = 11;
/// How the directory of an unpacked one is called, before its version.
const PREFIX: &str = "mended-qemu-";
/// Where the program itself is in it.
const BINARY: &str = "usr/bin/qemu-system-x86_64";
/// The script in it that starts it.
const PROGRAM: &str = "qemu-system-x86_64";
const SCRIPT: &str = r#"#!/bin/sh
root=${0%/*}
exec "$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" \
    --library-path "$root/usr/lib/x86_64-linux-gnu" \
    "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
"#;

/// The program in `directory`, fetched if there is none, and mended.
pub fn find_or_fetch(directory: &Path, apt: &Apt) -> Result<PathBuf> {
    let program = match find(directory) {
        Some(found) => found,
        None => fetch(directory, apt)?,
    };
    if mend(&program.with_file_name(BINARY))? == Mended::Unknown {
        eprintln!(
            "lab: this build of QEMU is unknown: if guests hang, see tests/lab/src/prepare/mend.rs"
        );
    }
    Ok(program)
}

fn fetch(directory: &Path, apt: &Apt) -> Result<PathBuf> {
    fs::create_dir_all(directory).path(directory)?;
    let staging = tempfile::tempdir_in(directory).path(directory)?;
    let (archives, root) = (staging.path().join("archives"), staging.path().join("root"));
    apt.update()?;
    step("downloading QEMU and its libraries", || {
        apt.download_with_dependencies(PACKAGE, &archives)
    })?;
    step("unpacking QEMU and its libraries", || {
        unpack(&archives, &root)
    })?;
    let version = version_of(&root.join(PROGRAM))?;
    if major(&version).is_none_or(|major| major < OLDEST_MAJOR) {
        return fail(format!(
            "the archive's {PACKAGE} is {version}, and the lab needs {OLDEST_MAJOR} or newer"
        ));
    }
    let place = directory.join(format!("{PREFIX}{version}"));
    fs::rename(&root, &place).path(&place)?;
    Ok(place.join(PROGRAM))
}

fn find(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path().join(PROGRAM))
        .filter(|program| program.is_file())
        .max()
}

fn unpack(archives: &Path, root: &Path) -> Result<()> {
    unpack_all(archives, root)?;
    let program = root.join(PROGRAM);
    fs::write(&program, SCRIPT).path(&program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).path(&program)
}

fn version_of(program: &Path) -> Result<String> {
    let said = output_of(Command::new(program).arg("--version"))?;
    match version(&said) {
        Some(version) => Ok(version.to_owned()),
        None => fail(format!("{} does not tell its version", program.display())),
    }
}

fn version(said: &str) -> Option<&str> {
    said.split_whitespace().find(|word| major(word).is_some())
}

fn major(version: &str) -> Option<u32> {
    version.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_tells_its_version() {
        let said =
            "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright (c) 2003-2026";
        assert_eq!(version(said), Some("11.1.3"));
        assert_eq!(version(said).and_then(major), Some(11));
        assert_eq!(version(""), None);
    }
}
