//! What Sluice has changed on the host, written down under `/run/sluice` before each change,
//! so that it can be put back: by the process that made it, by a later command, or, if that
//! process was killed, by the next one that changes anything.
//!
//! Each file is a list of changes, one JSON object a line ([`Step`]), in the order in which
//! they were made; they are taken back from the last to the first. The names:
//!
//! | file | what |
//! | --- | --- |
//! | `lock` | held (flock) by who is changing the host; empty |
//! | `change-PID-N` | changes of a process, which holds a lock on the file for as long as it may take them back. No lock: that process is gone, and they are to be taken back |
//! | `bound-BDF` | what `sluice release` puts back |
//! | `sriov-BDF` | what `sluice sriov BDF --vfs 0` puts back besides the VFs |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use pci::HostBdf;
use serde::{Deserialize, Serialize};

use super::names_in;
use super::vf::VfSettings;

/// How things were before a change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// A function's driver, and the one preferred for it (`driver_override`).
    Driver {
        #[serde(with = "as_text")]
        function: HostBdf,
        driver: Option<String>,
        preferred: Option<String>,
    },
    /// What was set for a VF.
    VfSettings {
        #[serde(with = "as_text")]
        pf: HostBdf,
        number: u32,
        settings: VfSettings,
    },
    /// How many VFs there were.
    Vfs {
        #[serde(with = "as_text")]
        pf: HostBdf,
        number: u16,
    },
    /// Whether the host's drivers took new VFs.
    Autoprobe {
        #[serde(with = "as_text")]
        pf: HostBdf,
        on: bool,
    },
    /// A PF's network interface was down.
    Down {
        #[serde(with = "as_text")]
        pf: HostBdf,
    },
    /// No change, but a note: this VF is in use by whoever holds the file.
    Uses {
        #[serde(with = "as_text")]
        pf: HostBdf,
        #[serde(with = "as_text")]
        vf: HostBdf,
    },
}

impl Step {
    /// The PF, if this is a change to it that other VFs of the same PF depend on.
    pub fn shared(&self) -> Option<HostBdf> {
        match self {
            Self::Vfs { pf, .. } | Self::Autoprobe { pf, .. } | Self::Down { pf } => Some(*pf),
            _ => None,
        }
    }

    /// Whether this says that a VF of `pf` is in use.
    pub fn uses(&self, of: HostBdf) -> bool {
        matches!(self, Self::Uses { pf, .. } if *pf == of)
    }
}

/// The folder of records could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not allowed, most likely.
    #[error("cannot keep a record of changes in {}; changing the host takes root", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// A file of it.
    #[error("cannot use the record {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Another process has the lock and does not let go.
    #[error(
        "another sluice has been changing this host for {seconds} s (it holds {}); try again when \
         it is done", lock.display()
    )]
    Busy {
        /// How long it was waited for.
        seconds: u64,
        /// What it holds.
        lock: PathBuf,
    },
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

/// Held while the host is being changed.
pub(super) struct HostLock(#[allow(dead_code)] Flock<File>);

impl Records {
    /// The records in `dir`, which is made if it is not there.
    pub fn open(dir: PathBuf) -> Result<Self, RecordError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        match made {
            Ok(()) => Ok(Self { dir }),
            Err(e) => Err(RecordError::Folder(dir, e)),
        }
    }

    /// Takes the lock, waiting for whoever has it as often as `wait` says.
    pub fn lock(
        &self,
        seconds: u64,
        mut wait: impl FnMut() -> bool,
    ) -> Result<HostLock, RecordError> {
        let path = self.dir.join("lock");
        let mut file = self.create(&path)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(HostLock(lock)),
                Err((back, Errno::EWOULDBLOCK)) if wait() => file = back,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let lock = path;
                    return Err(RecordError::Busy { seconds, lock });
                }
                Err((_, e)) => return Err(RecordError::File(path, e.into())),
            }
        }
    }

    /// Begins a list of changes of this process.
    pub fn begin(&self) -> Result<Journal, RecordError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("change-{}-{number}", std::process::id());
        let path = self.dir.join(name);
        let file = self.create(&path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Journal { path, file }),
            Err((_, e)) => Err(RecordError::File(path, e.into())),
        }
    }

    /// The changes of processes: those whose process is gone, and those whose process lives,
    /// with its number. To be called with the lock held.
    pub fn changes(&self) -> Result<(Vec<Journal>, Vec<Other>), RecordError> {
        let names = names_in(&self.dir).map_err(|e| RecordError::Folder(self.dir.clone(), e))?;
        let (mut orphans, mut live) = (Vec::new(), Vec::new());
        for name in names {
            let Some(process) = name.strip_prefix("change-") else {
                continue;
            };
            let path = self.dir.join(&name);
            let file = self.create(&path)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => orphans.push(Journal { path, file }),
                Err((file, Errno::EWOULDBLOCK)) => {
                    let pid = process.split('-').next().and_then(|pid| pid.parse().ok());
                    let pid = pid.unwrap_or(0);
                    live.push(Other { path, file, pid });
                }
                Err((_, e)) => return Err(RecordError::File(path, e.into())),
            }
        }
        Ok((orphans, live))
    }

    /// What is kept under a name for a later command; nothing if there is no such record.
    pub fn kept(&self, name: &str) -> Result<Vec<Step>, RecordError> {
        let path = self.dir.join(name);
        match File::open(&path) {
            Ok(mut file) => read(&mut file).map_err(|e| RecordError::File(path, e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(RecordError::File(path, e)),
        }
    }

    /// Keeps changes under a name, instead of what was kept there.
    pub fn keep(&self, name: &str, steps: &[Step]) -> Result<(), RecordError> {
        let path = self.dir.join(name);
        let kept = self
            .create_file(&path)
            .and_then(|mut file| write(&mut file, steps));
        kept.map_err(|e| RecordError::File(path, e))
    }

    /// Forgets what is kept under a name.
    pub fn forget(&self, name: &str) -> Result<(), RecordError> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(RecordError::File(path, e)),
            _ => Ok(()),
        }
    }

    fn create(&self, path: &Path) -> Result<File, RecordError> {
        self.create_file(path).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => RecordError::Folder(self.dir.clone(), e),
            _ => RecordError::File(path.to_owned(), e),
        })
    }

    fn create_file(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
    }
}

/// Changes that can be taken back by whoever holds this.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Flock<File>,
}

impl Journal {
    /// Writes down how things are, before they are changed.
    pub fn note(&mut self, step: &Step) -> Result<(), RecordError> {
        let noted = line(step).and_then(|line| {
            self.file.seek(io::SeekFrom::End(0))?;
            self.file.write_all(&line)
        });
        noted.map_err(|e| RecordError::File(self.path.clone(), e))
    }

    /// All that is written down, also by others ([`Other::take_over`]).
    pub fn steps(&mut self) -> Result<Vec<Step>, RecordError> {
        read(&mut self.file).map_err(|e| RecordError::File(self.path.clone(), e))
    }

    /// There is nothing to take back any more.
    pub fn close(self) -> Result<(), RecordError> {
        fs::remove_file(&self.path).map_err(|e| RecordError::File(self.path.clone(), e))
    }
}

/// Changes that another process may take back.
pub(super) struct Other {
    path: PathBuf,
    file: File,
    /// That process.
    pub pid: u32,
}

impl Other {
    /// It is this journal.
    pub fn is(&self, journal: &Journal) -> bool {
        self.path == journal.path
    }

    pub fn steps(&mut self) -> Result<Vec<Step>, RecordError> {
        read(&mut self.file).map_err(|e| RecordError::File(self.path.clone(), e))
    }

    /// Leaves changes to that process: it takes them back after its own. It reads its file
    /// when it does so, with the lock held.
    pub fn take_over(&mut self, steps: &[Step]) -> Result<(), RecordError> {
        let mut all = steps.to_vec();
        all.extend(self.steps()?);
        write(&mut self.file, &all).map_err(|e| RecordError::File(self.path.clone(), e))
    }
}

fn line(step: &Step) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(step)?;
    line.push(b'\n');
    Ok(line)
}

fn read(file: &mut File) -> io::Result<Vec<Step>> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    // What ends in no newline was being written when its process was killed: that change
    // was not made yet.
    let lines = text
        .split_inclusive('\n')
        .filter_map(|l| l.strip_suffix('\n'));
    lines.map(|l| Ok(serde_json::from_str(l)?)).collect()
}

fn write(file: &mut File, steps: &[Step]) -> io::Result<()> {
    let lines = steps.iter().map(line).collect::<io::Result<Vec<_>>>()?;
    let bytes = lines.concat();
    file.rewind()?;
    file.write_all(&bytes)?;
    file.set_len(bytes.len() as u64)
}

/// A PCI address as people write it.
mod as_text {
    use pci::HostBdf;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(address: &HostBdf, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(address)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<HostBdf, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bdf(text: &str) -> HostBdf {
        text.parse().unwrap()
    }

    fn driver(address: &str) -> Step {
        Step::Driver {
            function: bdf(address),
            driver: Some("igb".into()),
            preferred: None,
        }
    }

    fn down() -> Step {
        Step::Down {
            pf: bdf("0000:01:00.0"),
        }
    }

    #[test]
    fn a_line_says_what_was_changed() {
        let text = |step| String::from_utf8(line(&step).unwrap()).unwrap();
        assert_eq!(
            text(driver("02:10.0")),
            "{\"driver\":{\"function\":\"0000:02:10.0\",\"driver\":\"igb\",\"preferred\":null}}\n"
        );
        assert_eq!(text(down()), "{\"down\":{\"pf\":\"0000:01:00.0\"}}\n");
    }

    #[test]
    fn one_process_at_a_time_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("sluice")).unwrap();
        let lock = records.lock(9, || false).unwrap();
        let mut waits = 0;
        let busy = records.lock(9, || {
            waits += 1;
            waits < 3
        });
        assert!(matches!(busy, Err(RecordError::Busy { seconds: 9, .. })) && waits == 3);
        drop(lock);
        records.lock(9, || false).unwrap();
    }

    #[test]
    fn what_a_process_left_is_told_from_what_it_may_still_take_back() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().to_owned()).unwrap();
        let mut mine = records.begin().unwrap();
        mine.note(&driver("02:10.0")).unwrap();
        let (orphans, mut live) = records.changes().unwrap();
        assert!(orphans.is_empty());
        assert_eq!(live[0].pid, std::process::id());
        live[0].take_over(&[down()]).unwrap();
        assert_eq!(mine.steps().unwrap(), [down(), driver("02:10.0")]);
        mine.note(&driver("02:10.2")).unwrap();
        // As if this process were gone.
        let path = mine.path.clone();
        drop(mine);
        fs::write(dir.path().join("bound-x"), "").unwrap();
        let (mut orphans, live) = records.changes().unwrap();
        assert!(live.is_empty());
        let steps = orphans[0].steps().unwrap();
        assert_eq!(steps.len(), 3);
        orphans.remove(0).close().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_line_cut_short_is_a_change_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().to_owned()).unwrap();
        records.keep("bound-x", &[driver("02:10.0")]).unwrap();
        let path = dir.path().join("bound-x");
        let mut text = fs::read(&path).unwrap();
        text.extend(b"{\"down\":{\"pf\":\"0000");
        fs::write(&path, text).unwrap();
        assert_eq!(records.kept("bound-x").unwrap(), [driver("02:10.0")]);
        records.keep("bound-x", &[]).unwrap();
        assert_eq!(records.kept("bound-x").unwrap(), []);
        records.forget("bound-x").unwrap();
        records.forget("bound-x").unwrap();
        assert_eq!(records.kept("bound-x").unwrap(), []);
    }
}
