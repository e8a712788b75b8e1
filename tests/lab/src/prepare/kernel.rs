//! Debian's stock 6.12 kernel: downloaded and unpacked, never installed.

use super::apt::Apt;
use super::step;
use crate::error::{Context, Result, fail};
use crate::process::output_of;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const PREFIX: &str = "linux-image-6.12.";

/// Modules the emulated host loads, before and after it has its root.
pub const HOST_MODULES: [&str; 16] = [
    "9pnet_virtio",
    "9p",
    "overlay",
    "igb",
    "vfio-pci",
    "vfio_iommu_type1",
    "kvm-amd",
    "tun",
    "e1000e",
    "nvme",
    "ext4",
    "isofs",
    "dummy",
    "veth",
    "bridge",
    "ahci",
];
/// Modules a nested guest may load.
pub const GUEST_MODULES: [&str; 18] = [
    "igbvf",
    "igb",
    "e1000",
    "e1000e",
    "ata_piix",
    "ata_generic",
    "sd_mod",
    "sr_mod",
    "ext4",
    "isofs",
    "nvme",
    "virtio_net",
    "xhci_pci",
    "usb_storage",
    "uas",
    "bochs",
    "vfio-pci",
    "vfio_iommu_type1",
];

/// An unpacked kernel package.
pub struct Kernel {
    root: PathBuf,
    release: String,
}

impl Kernel {
    /// The kernel of that release whose package was unpacked to `root`.
    pub(super) fn unpacked(root: PathBuf, release: String) -> Self {
        Self { root, release }
    }

    /// The newest kernel in `directory`, fetched if there is none.
    pub fn find_or_fetch(directory: &Path, apt: &Apt) -> Result<Self> {
        if let Some(found) = Self::newest_in(directory) {
            // It may have been unpacked when the lab loaded fewer modules.
            found.make_modules_ready()?;
            return Ok(found);
        }
        fs::create_dir_all(directory).path(directory)?;
        let candidates = newest_first(apt.names(PREFIX)?);
        let staging = tempfile::tempdir_in(directory).path(directory)?;
        let Some(package) = step("downloading the Debian 6.12 kernel", || {
            // A name may be known without being on offer any more: take the first that can be had.
            Ok(candidates
                .iter()
                .find(|name| apt.download(name, staging.path()).is_ok()))
        })?
        else {
            return fail(format!(
                "no package {PREFIX}*-amd64 can be downloaded (looked at {})",
                candidates.len()
            ));
        };
        step(&format!("unpacking {package}"), || {
            let unpacked = staging.path().join("root");
            let archive = only_entry(staging.path())?;
            output_of(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;
            // Where /usr is merged, as since Debian 13, packages have nothing in /lib.
            let lib = unpacked.join("lib");
            if !lib.exists() {
                symlink("usr/lib", &lib).path(&lib)?;
            }
            let release = only_name(&unpacked.join("lib/modules"))?;
            let kernel = Self {
                root: unpacked.clone(),
                release: release.clone(),
            };
            kernel.make_modules_ready()?;
            let place = directory.join(&release);
            fs::rename(&unpacked, &place).path(&place)?;
            Ok(Self {
                root: place,
                release,
            })
        })
    }

    fn newest_in(directory: &Path) -> Option<Self> {
        fs::read_dir(directory)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("lib/modules").is_dir())
            .filter_map(|root| {
                Some(Self {
                    release: root.file_name()?.to_str()?.to_owned(),
                    root,
                })
            })
            .filter(|kernel| kernel.image().is_file())
            .max_by_key(|kernel| version_of(&kernel.release))
    }

    /// Its release, as `uname -r` says it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The bootable image.
    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// Where its modules are (what `/lib/modules/RELEASE` would be).
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }

    /// The files of the named modules and of all they need, each after what it needs.
    pub fn module_files(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            let plan = output_of(Command::new("modprobe").arg("-d").arg(&self.root).args([
                "-S",
                &self.release,
                "--show-depends",
                name,
            ]))?;
            for file in plan
                .lines()
                .filter_map(|line| line.trim().strip_prefix("insmod "))
            {
                if seen.insert(file.trim().to_owned()) {
                    files.push(PathBuf::from(file.trim()));
                }
            }
        }
        Ok(files)
    }

    /// Decompresses what the lab loads (an emulated processor is slow at it) and indexes the tree.
    fn make_modules_ready(&self) -> Result<()> {
        if !self.modules().join("modules.dep").exists() {
            self.index_modules()?;
        }
        let wanted: Vec<&str> = HOST_MODULES.iter().chain(&GUEST_MODULES).copied().collect();
        let files = self.module_files(&wanted)?;
        let compressed: Vec<&PathBuf> = files
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "xz"))
            .collect();
        if compressed.is_empty() {
            return Ok(());
        }
        output_of(Command::new("xz").arg("-d").args(compressed))?;
        self.index_modules()
    }

    /// Tells modprobe what there is.
    pub(super) fn index_modules(&self) -> Result<()> {
        output_of(
            Command::new("depmod")
                .arg("-b")
                .arg(&self.root)
                .arg(&self.release),
        )
        .map(drop)
    }
}

/// Stock kernels only (no cloud or real-time builds), the newest first, signed before unsigned.
fn newest_first(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| {
        let flavour = name.strip_suffix("-unsigned").unwrap_or(name);
        flavour
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix("-amd64"))
            .is_some_and(|version| !version.contains('-'))
    });
    names.sort_by_key(|name| (version_of(name), !name.ends_with("-unsigned")));
    names.reverse();
    names
}

/// The numbers in a release, for comparing.
fn version_of(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

pub(super) fn only_entry(directory: &Path) -> Result<PathBuf> {
    Ok(directory.join(only_name(directory)?))
}

pub(super) fn only_name(directory: &Path) -> Result<String> {
    match fs::read_dir(directory).path(directory)?.flatten().next() {
        Some(entry) => Ok(entry.file_name().to_string_lossy().into_owned()),
        None => fail(format!("{}: empty", directory.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stock_kernel_comes_first() {
        let names = [
            "linux-image-6.12.95+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64-unsigned",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.120+deb12-rt-amd64",
            "linux-image-6.12.117+deb12-amd64-dbg",
        ];
        assert_eq!(
            newest_first(names.map(str::to_owned).to_vec()),
            [
                "linux-image-6.12.117+deb12-amd64",
                "linux-image-6.12.117+deb12-amd64-unsigned",
                "linux-image-6.12.95+deb12-amd64"
            ]
        );
    }
}
