//! The files a guest boots from, held open for as long as it may reboot.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::BootError;

/// Kernel and initrd, open.
#[derive(Debug)]
pub struct Images {
    kernel: Image,
    initrd: Option<Image>,
}

/// One file.
#[derive(Debug)]
pub(super) struct Image {
    flag: &'static str,
    path: PathBuf,
    file: File,
}

/// The kinds of kernel file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    BzImage,
    Elf,
}

/// Where a bzImage has its magic (boot.rst, "header").
const SETUP_MAGIC: (u64, &[u8; 4]) = (0x202, b"HdrS");
const ELF_MAGIC: (u64, &[u8; 4]) = (0, b"\x7fELF");

impl Images {
    /// Opens the files.
    pub fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, BootError> {
        Ok(Self {
            kernel: Image::open("--kernel", kernel)?,
            initrd: initrd
                .map(|path| Image::open("--initrd", path))
                .transpose()?,
        })
    }

    pub(super) fn kernel(&self) -> &Image {
        &self.kernel
    }

    pub(super) fn initrd(&self) -> Option<&Image> {
        self.initrd.as_ref()
    }

    /// What kind of file the kernel is.
    pub(super) fn format(&self) -> Result<Format, BootError> {
        let has = |(offset, magic): (u64, &[u8; 4])| {
            let mut bytes = [0; 4];
            self.kernel.file.read_exact_at(&mut bytes, offset).is_ok() && bytes == *magic
        };
        if has(SETUP_MAGIC) {
            Ok(Format::BzImage)
        } else if has(ELF_MAGIC) {
            Ok(Format::Elf)
        } else {
            Err(self.kernel.unbootable(
                "is neither a bzImage nor an ELF file; give a kernel such as /boot/vmlinuz-VERSION",
            ))
        }
    }
}

impl Image {
    fn open(flag: &'static str, path: &Path) -> Result<Self, BootError> {
        let file = File::open(path).map_err(|source| BootError::File {
            flag,
            path: path.to_owned(),
            what: "open",
            source,
        })?;
        Ok(Self {
            flag,
            path: path.to_owned(),
            file,
        })
    }

    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The file, at its start.
    pub fn rewound(&self) -> Result<File, BootError> {
        let rewind = || {
            let mut file = self.file.try_clone()?;
            file.rewind()?;
            Ok(file)
        };
        rewind().map_err(|source| self.unreadable(source))
    }

    pub fn size(&self) -> Result<u64, BootError> {
        let meta = self.file.metadata();
        meta.map(|m| m.len())
            .map_err(|source| self.unreadable(source))
    }

    /// Fills `buf` from `offset`.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BootError> {
        let read = self.file.read_exact_at(buf, offset);
        read.map_err(|source| self.unreadable(source))
    }

    pub fn unreadable(&self, source: io::Error) -> BootError {
        BootError::File {
            flag: self.flag,
            path: self.path(),
            what: "read",
            source,
        }
    }

    pub fn unbootable(&self, why: &'static str) -> BootError {
        let path = self.path();
        BootError::Unbootable { path, why }
    }
}
