//! A raw image: byte N of the disk is byte N of a file or a block device.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use vm_memory::VolatileSlice;

use super::open::{self, OpenError, Reason};
use super::{BlockBackend, Failure, SECTOR};

/// Pieces given to one system call: far below `IOV_MAX`, and no burden on the stack.
const VECTORS: usize = 128;

const NO_VECTOR: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// An open raw image, locked against other users: shared if read-only, else exclusively.
///
/// A file whose size is no multiple of 512 is taken as if zeros filled its last sector;
/// writing that sector makes the file longer. A sparse file stays sparse: nothing is
/// allocated before it is written, and a discarded range becomes a hole.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    path: PathBuf,
    len: u64,
    readonly: bool,
}

impl RawImage {
    /// Opens and locks an image.
    pub fn open(path: impl AsRef<Path>, readonly: bool) -> Result<Self, OpenError> {
        let path = path.as_ref();
        Self::open_plain(path, readonly).map_err(|reason| OpenError {
            path: path.to_owned(),
            reason,
        })
    }

    fn open_plain(path: &Path, readonly: bool) -> Result<Self, Reason> {
        let file = open::open(path, readonly)?;
        // The end of a block device is its size, as of a file (and as `BLKGETSIZE64` says).
        let bytes = (&file).seek(SeekFrom::End(0)).map_err(Reason::Io)?;
        if bytes == 0 {
            return Err(Reason::Empty);
        }
        let len = bytes.checked_next_multiple_of(SECTOR).unwrap_or(bytes);
        if len != bytes {
            tracing::warn!(
                path = %path.display(),
                bytes,
                "the image ends inside a sector; its rest reads as zeros"
            );
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            readonly,
        })
    }

    /// The image, as it was named when opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a block device and no file.
    pub fn is_block_device(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|m| m.file_type().is_block_device())
    }

    /// What a read at the end of the file means: the padding of its last sector reads as
    /// zeros; anything before it has been cut off under our feet.
    fn pad(&self, pieces: &[VolatileSlice<'_>], done: usize, offset: u64) -> io::Result<()> {
        let wanted: usize = pieces.iter().map(VolatileSlice::len).sum();
        let end = offset.saturating_add(wanted as u64);
        let at = offset.saturating_add(done as u64);
        if end > self.len || self.len - at >= SECTOR {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut skip = done;
        for piece in pieces {
            let from = skip.min(piece.len());
            skip -= from;
            if let Ok(rest) = piece.offset(from) {
                rest.copy_from(&[0u8; SECTOR as usize][..rest.len().min(SECTOR as usize)]);
            }
        }
        Ok(())
    }
}

type VectoredCall =
    unsafe extern "C" fn(RawFd, *const libc::iovec, libc::c_int, libc::off64_t) -> libc::ssize_t;

/// Calls `preadv` or `pwritev` until every piece is done. Returns how many bytes were moved
/// and whether that was all; not all means the end of the file.
fn transfer(
    call: VectoredCall,
    file: &File,
    pieces: &[VolatileSlice<'_>],
    offset: u64,
) -> Result<(usize, bool), Failure> {
    let wanted: usize = pieces.iter().map(VolatileSlice::len).sum();
    let mut cursor = Cursor { pieces, within: 0 };
    cursor.advance(0);
    let mut done = 0usize;
    while done < wanted {
        let failure = |source| Failure {
            done: done as u64,
            source,
        };
        let position = i64::try_from(offset.saturating_add(done as u64))
            .map_err(|_| failure(io::ErrorKind::InvalidInput.into()))?;
        let mut vectors = [NO_VECTOR; VECTORS];
        let count = cursor.fill(&mut vectors);
        // SAFETY: the first `count` vectors lie within `pieces`, memory that is mapped while
        // they are borrowed and that others may change at any time; the kernel copes with that.
        let moved = unsafe {
            call(
                file.as_raw_fd(),
                vectors.as_ptr(),
                count as libc::c_int,
                position,
            )
        };
        match moved {
            0 => return Ok((done, false)),
            1.. => {
                done += moved as usize;
                cursor.advance(moved as usize);
            }
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                source => return Err(failure(source)),
            },
        }
    }
    Ok((done, true))
}

/// What is left of a list of pieces: `pieces` without the first `within` bytes.
struct Cursor<'a, 'm> {
    pieces: &'a [VolatileSlice<'m>],
    within: usize,
}

impl Cursor<'_, '_> {
    /// Describes as much as fits in `vectors`; returns how many it took.
    fn fill(&self, vectors: &mut [libc::iovec]) -> usize {
        let mut skip = self.within;
        let mut count = 0;
        for (vector, piece) in vectors.iter_mut().zip(self.pieces) {
            let guard = piece.ptr_guard_mut();
            *vector = libc::iovec {
                iov_base: guard.as_ptr().wrapping_add(skip).cast(),
                iov_len: guard.len().saturating_sub(skip),
            };
            skip = 0;
            count += 1;
        }
        count
    }

    /// Drops `moved` bytes, and then pieces that are empty, so that the next call to the
    /// kernel moves something.
    fn advance(&mut self, moved: usize) {
        self.within += moved;
        while let Some((first, rest)) = self.pieces.split_first()
            && self.within >= first.len()
        {
            self.within -= first.len();
            self.pieces = rest;
        }
    }
}

impl BlockBackend for RawImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn is_readonly(&self) -> bool {
        self.readonly
    }

    fn can_discard(&self) -> bool {
        !self.readonly
    }

    fn read_vectored_at(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Failure> {
        let (done, complete) = transfer(libc::preadv64, &self.file, pieces, offset)?;
        if complete {
            return Ok(());
        }
        self.pad(pieces, done, offset).map_err(|source| Failure {
            done: done as u64,
            source,
        })
    }

    fn write_vectored_at(&self, pieces: &[VolatileSlice<'_>], offset: u64) -> Result<(), Failure> {
        let total: usize = pieces.iter().map(VolatileSlice::len).sum();
        let failure = |done: usize, kind: io::ErrorKind| Failure {
            done: done as u64,
            source: kind.into(),
        };
        if self.readonly {
            return Err(failure(0, io::ErrorKind::ReadOnlyFilesystem));
        }
        // A file would grow; the disk does not.
        if offset
            .checked_add(total as u64)
            .is_none_or(|end| end > self.len)
        {
            return Err(failure(0, io::ErrorKind::InvalidInput));
        }
        match transfer(libc::pwritev64, &self.file, pieces, offset)? {
            (_, true) => Ok(()),
            (done, false) => Err(failure(done, io::ErrorKind::WriteZero)),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let len = len.min(self.len.saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        let (Ok(start), Ok(length)) = (i64::try_from(offset), i64::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        use nix::errno::Errno;
        match fallocate(&self.file, hole, start, length) {
            Ok(()) => Ok(()),
            // No holes here, or a block device whose blocks are larger than our sectors.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV | Errno::EINVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn read(image: &RawImage, offset: u64, lens: &[usize]) -> Result<Vec<u8>, Failure> {
        let mut bufs: Vec<Vec<u8>> = lens.iter().map(|&n| vec![0xcc; n]).collect();
        let slices: Vec<_> = bufs
            .iter_mut()
            .map(|b| VolatileSlice::from(b.as_mut_slice()))
            .collect();
        image.read_vectored_at(&slices, offset)?;
        Ok(bufs.concat())
    }

    #[test]
    fn scatters_and_gathers() {
        let bytes: Vec<u8> = (0..4096u32).map(|i| (i / 7) as u8).collect();
        let file = image(&bytes);
        let raw = RawImage::open(file.path(), false).unwrap();
        assert_eq!(raw.len(), 4096);
        let lens: Vec<usize> = (0..1500).map(|i| (i % 3) * (i % 2)).collect();
        let total: usize = lens.iter().sum();
        assert_eq!(read(&raw, 100, &lens).unwrap(), bytes[100..100 + total]);

        let (mut a, mut b) = (vec![1u8; 3], vec![2u8; 700]);
        let pieces = [
            VolatileSlice::from(a.as_mut_slice()),
            VolatileSlice::from(b.as_mut_slice()),
        ];
        raw.write_vectored_at(&pieces, 509).unwrap();
        let now = std::fs::read(file.path()).unwrap();
        assert_eq!(now[..509], bytes[..509]);
        assert_eq!(now[509..512], [1; 3]);
        assert_eq!(now[512..1212], [2; 700]);
        assert_eq!(now[1212..], bytes[1212..]);
    }

    #[test]
    fn pads_the_last_sector_and_only_that() {
        let file = image(&[7; 700]);
        let raw = RawImage::open(file.path(), false).unwrap();
        assert_eq!(raw.len(), 1024);
        let tail = read(&raw, 512, &[100, 412]).unwrap();
        assert_eq!((&tail[..188], &tail[188..]), (&[7; 188][..], &[0; 324][..]));
        assert!(read(&raw, 1024, &[1]).is_err(), "beyond the disk");
        file.as_file().set_len(100).unwrap();
        assert_eq!(read(&raw, 0, &[1024]).unwrap_err().done, 100, "cut short");
    }

    #[test]
    fn refuses_to_grow_and_to_write_when_read_only() {
        let file = image(&[0; 1024]);
        let mut buf = [1u8; 512];
        {
            let raw = RawImage::open(file.path(), false).unwrap();
            let pieces = [VolatileSlice::from(&mut buf[..])];
            assert!(raw.write_vectored_at(&pieces, 1024).is_err());
            assert!(raw.write_vectored_at(&pieces, u64::MAX).is_err());
            raw.flush().unwrap();
        }
        let raw = RawImage::open(file.path(), true).unwrap();
        let pieces = [VolatileSlice::from(&mut buf[..])];
        assert!(raw.write_vectored_at(&pieces, 0).is_err());
        assert!(!raw.can_discard());
        assert_eq!(file.as_file().metadata().unwrap().len(), 1024);
    }

    #[test]
    fn discarding_makes_a_hole() {
        let file = image(&vec![9; 1 << 20]);
        let raw = RawImage::open(file.path(), false).unwrap();
        raw.discard(4096, 512 << 10).unwrap();
        raw.discard(u64::MAX, 5).unwrap();
        assert_eq!(read(&raw, 4096, &[4]).unwrap(), [0; 4]);
        assert_eq!(read(&raw, 0, &[4]).unwrap(), [9; 4]);
        assert!(file.as_file().metadata().unwrap().blocks() * 512 <= 600 << 10);
        assert_eq!(file.as_file().metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn one_writer_or_many_readers() {
        let file = image(&[0; 512]);
        let writer = RawImage::open(file.path(), false).unwrap();
        for readonly in [false, true] {
            let error = RawImage::open(file.path(), readonly).unwrap_err();
            assert!(matches!(error.reason, Reason::InUse), "{error}");
            let line = error.to_string();
            assert!(line.contains("in use by another sluice"), "{line}");
            assert!(line.contains(file.path().to_str().unwrap()) && !line.contains('\n'));
        }
        drop(writer);
        let _a = RawImage::open(file.path(), true).unwrap();
        let _b = RawImage::open(file.path(), true).unwrap();
        assert!(matches!(
            RawImage::open(file.path(), false).unwrap_err().reason,
            Reason::InUse
        ));
    }

    #[test]
    fn says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| RawImage::open(path, false).unwrap_err().to_string();
        assert!(open(&dir.path().join("gone")).contains("no such file"));
        assert!(open(dir.path()).contains("is a directory"));
        assert!(open(Path::new("/dev/null")).contains("a character device"));
        assert!(open(image(&[]).path()).contains("is empty"));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(open(&pipe).contains("is a pipe"));
    }
}
