//! What guests read and write: disk images with a file system, an ISO, and random bytes.

use crate::error::{Context, Error, Result};
use crate::process::output_of;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A raw image.
#[derive(Clone)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Whether the guest may not write.
    pub read_only: bool,
}

impl Disk {
    /// A sparse image of so many bytes.
    pub fn blank(path: PathBuf, bytes: u64) -> Result<Self> {
        File::create(&path)
            .and_then(|file| file.set_len(bytes))
            .path(&path)?;
        Ok(Self {
            path,
            read_only: false,
        })
    }

    /// A sparse image with an empty ext4 file system.
    pub fn with_ext4(path: PathBuf, bytes: u64) -> Result<Self> {
        let disk = Self::blank(path, bytes)?;
        output_of(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-E", "lazy_itable_init=0"])
                .arg(&disk.path),
        )?;
        Ok(disk)
    }

    /// An image of random bytes.
    pub fn random(path: PathBuf, bytes: usize) -> Result<Self> {
        fs::write(&path, random_bytes(bytes)?).path(&path)?;
        Ok(Self {
            path,
            read_only: true,
        })
    }

    /// Whether the file system on it is whole; if not, what e2fsck has to say.
    pub fn check_ext4(&self) -> Result<()> {
        output_of(Command::new("e2fsck").args(["-f", "-n"]).arg(&self.path)).map(drop)
    }
}

/// An ISO image holding one file of random bytes, and that file's SHA-256.
pub struct Iso {
    /// The image.
    pub path: PathBuf,
    /// The checksum of `DATA.BIN` on it.
    pub sha256: String,
}

impl Iso {
    /// Builds one.
    pub fn build(scratch: &Path, bytes: usize) -> Result<Self> {
        let tree = scratch.join("iso");
        fs::create_dir_all(&tree).path(&tree)?;
        let data = tree.join("data.bin");
        fs::write(&data, random_bytes(bytes)?).path(&data)?;
        let path = scratch.join("media.iso");
        output_of(
            Command::new("xorriso")
                .args(["-as", "mkisofs", "-quiet", "-R", "-o"])
                .arg(&path)
                .arg(&tree),
        )?;
        Ok(Self {
            path,
            sha256: sha256(&data)?,
        })
    }
}

/// Bytes nobody can guess, so that what comes back was really carried.
pub fn random_bytes(count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    Ok(bytes)
}

/// A file's SHA-256, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let said = output_of(Command::new("sha256sum").arg(path))?;
    first_word(&said).ok_or_else(|| Error::Other("sha256sum said nothing".into()))
}

/// The first word of what a checksum program says.
pub fn first_word(said: &str) -> Option<String> {
    said.split_whitespace().next().map(str::to_owned)
}
