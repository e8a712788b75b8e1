//! Files that are memory of a device, such as a BAR in sysfs: mapped, and touched eight bytes at a time.

use crate::error::{Context, Result, fail};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;

const WORD: usize = size_of::<u64>();

/// All of a file, mapped for writing.
pub struct Mapped {
    words: NonNull<u64>,
    bytes: NonZeroUsize,
}

impl Mapped {
    /// Maps a file, which is a number of whole pages.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .path(path)?;
        let length = fs::metadata(path).path(path)?.len();
        let Some(bytes) = usize::try_from(length).ok().and_then(NonZeroUsize::new) else {
            return fail(format!("{}: {length} bytes to map", path.display()));
        };
        let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping, at a place of the kernel's choosing.
        let words = unsafe { mmap(None, bytes, both, MapFlags::MAP_SHARED, &file, 0) }
            .map_err(std::io::Error::from)
            .context(format!("mapping {}", path.display()))?;
        Ok(Self {
            words: words.cast(),
            bytes,
        })
    }

    /// The first so many bytes, or all there are.
    pub fn read(&self, count: usize) -> Vec<u8> {
        (0..count.min(self.bytes.get()) / WORD)
            .flat_map(|index| {
                // SAFETY: the word lies in the mapping, which is aligned to a page.
                unsafe { self.words.add(index).read_volatile() }.to_ne_bytes()
            })
            .collect()
    }

    /// Writes whole words, as many as fit, to the start.
    pub fn write(&self, content: &[u8]) {
        let words = content[..content.len().min(self.bytes.get())].chunks_exact(WORD);
        for (index, word) in words.enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap_or_default());
            // SAFETY: as for reading; the mapping is writable.
            unsafe { self.words.add(index).write_volatile(word) };
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `open` and is this object's alone.
        let _ = unsafe { munmap(self.words.cast(), self.bytes.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_is_in_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let content: Vec<u8> = (0..4096).map(|n| (n % 251) as u8).collect();
        Mapped::open(file.path()).unwrap().write(&content);
        assert_eq!(Mapped::open(file.path()).unwrap().read(4096), content);
        assert_eq!(&fs::read(file.path()).unwrap()[..4096], content);
    }
}
