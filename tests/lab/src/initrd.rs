//! The two initial RAM disks: the emulated host's, which finds its root over 9p, and the nested guest's, which is a
//! plain busybox userland with the stock drivers and a shell on the serial console.

use crate::cpio::Archive;
use crate::error::{Context, Error, Result};
use crate::prepare::{GUEST_MODULES, Kernel};
use crate::process::output_of;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the host loads before it can see its root; the rest it loads from there.
const ROOT_MODULES: [&str; 3] = ["9pnet_virtio", "9p", "overlay"];

/// Builds the emulated host's initrd.
pub fn host(kernel: &Kernel, to: &Path) -> Result<()> {
    let mut archive = Archive::new(Vec::new());
    let mut build = || {
        for directory in [
            "bin", "modules", "proc", "sys", "dev", "lower", "upper", "root",
        ] {
            archive.directory(directory).path(to)?;
        }
        archive.program("bin/busybox", &busybox()?).path(to)?;
        archive
            .program("init", include_bytes!("../scripts/host-init"))
            .path(to)?;
        let mut order = String::new();
        for file in kernel.module_files(&ROOT_MODULES)? {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            archive
                .file(&format!("modules/{name}"), &fs::read(&file).path(&file)?)
                .path(to)?;
            order.push_str(&name);
            order.push('\n');
        }
        archive.file("modules/order", order.as_bytes()).path(to)
    };
    build()?;
    fs::write(to, archive.finish().path(to)?).path(to)
}

/// Builds the nested guest's initrd.
pub fn guest(kernel: &Kernel, to: &Path) -> Result<()> {
    let staging = tempfile::tempdir().context("cannot make a temporary directory")?;
    let root = staging.path();
    put(root, "bin/busybox", &busybox()?)?;
    put(root, "init", include_bytes!("../scripts/guest-init"))?;
    put(root, "bin/dhcp", include_bytes!("../scripts/dhcp"))?;
    put_modules(kernel, root)?;
    put_program(root, &which("lspci")?, "bin/lspci")?;
    let names = Path::new("/usr/share/misc/pci.ids");
    put(
        root,
        "usr/share/misc/pci.ids",
        &fs::read(names).path(names)?,
    )?;
    let this = std::env::current_exe().context("cannot find the lab's own program")?;
    put_program(root, &this, "bin/lab")?;

    let mut archive = Archive::new(Vec::new());
    add_tree(&mut archive, root, "").path(to)?;
    fs::write(to, archive.finish().path(to)?).path(to)
}

/// An initrd with another directory in its root, called `name`, or with what is in that if the name is empty. The kernel
/// unpacks one archive after the other.
pub fn with_directory(initrd: &Path, directory: &Path, name: &str, to: &Path) -> Result<()> {
    let mut archive = Archive::new(fs::read(initrd).path(initrd)?);
    add_tree(&mut archive, directory, name).path(directory)?;
    fs::write(to, archive.finish().path(to)?).path(to)
}

fn busybox() -> Result<Vec<u8>> {
    let path = which("busybox")?;
    fs::read(&path).path(&path)
}

fn which(program: &str) -> Result<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .map(|directory| Path::new(directory).join(program))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Other(format!("{program} is not installed")))
}

fn put(root: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = root.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).path(parent)?;
    }
    fs::write(&path, content).path(&path)
}

/// Copies the modules and what they need, keeping their places, and indexes them for modprobe.
fn put_modules(kernel: &Kernel, root: &Path) -> Result<()> {
    let inside = format!("lib/modules/{}", kernel.release());
    let modules = kernel.modules();
    for name in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        let file = modules.join(name);
        put(
            root,
            &format!("{inside}/{name}"),
            &fs::read(&file).path(&file)?,
        )?;
    }
    for file in kernel.module_files(&GUEST_MODULES)? {
        let place = file.strip_prefix(&modules).unwrap_or(&file);
        put(
            root,
            &format!("{inside}/{}", place.display()),
            &fs::read(&file).path(&file)?,
        )?;
    }
    output_of(
        Command::new("depmod")
            .arg("-b")
            .arg(root)
            .arg(kernel.release()),
    )
    .map(drop)
}

/// Copies a program without its debug information, and the shared libraries it is linked with.
pub fn put_program(root: &Path, from: &Path, name: &str) -> Result<()> {
    put(root, name, &fs::read(from).path(from)?)?;
    // Where there is no strip the guest merely carries a bigger file.
    let _ = Command::new("strip").arg(root.join(name)).output();
    let libraries = output_of(Command::new("ldd").arg(from))?;
    for library in linked_libraries(&libraries) {
        put(
            root,
            library.trim_start_matches('/'),
            &fs::read(library).path(Path::new(library))?,
        )?;
    }
    Ok(())
}

/// The absolute paths in what `ldd` says.
fn linked_libraries(said: &str) -> BTreeSet<&str> {
    said.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .collect()
}

/// Adds a directory under a name, or what is in it to the root if the name is empty.
fn add_tree(archive: &mut Archive<Vec<u8>>, directory: &Path, inside: &str) -> std::io::Result<()> {
    if !inside.is_empty() {
        archive.directory(inside)?;
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        let file = path.file_name().unwrap_or_default();
        let name = Path::new(inside).join(file).to_string_lossy().into_owned();
        if path.is_dir() {
            add_tree(archive, &path, &name)?;
        } else if name.ends_with(".ko") {
            archive.file(&name, &fs::read(&path)?)?;
        } else {
            archive.program(&name, &fs::read(&path)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            linked_libraries(said).into_iter().collect::<Vec<_>>(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn a_directory_is_added_behind_an_initrd() {
        let place = tempfile::tempdir().unwrap();
        let [initrd, more, both] = ["initrd", "more", "both"].map(|name| place.path().join(name));
        fs::write(&initrd, "four").unwrap();
        fs::create_dir_all(more.join("lib")).unwrap();
        fs::write(more.join("lib/x.so"), "x").unwrap();
        with_directory(&initrd, &more, "dpdk", &both).unwrap();
        let written = String::from_utf8(fs::read(&both).unwrap()).unwrap();
        let of_the_new: Vec<_> = written.split("070701").collect();
        assert_eq!(of_the_new[0], "four");
        let names = ["dpdk\0", "dpdk/lib\0", "dpdk/lib/x.so\0", "TRAILER!!!\0"];
        assert_eq!(of_the_new.len(), 1 + names.len());
        for (entry, name) in of_the_new[1..].iter().zip(names) {
            assert!(entry.contains(name), "{entry}");
        }
    }
}
