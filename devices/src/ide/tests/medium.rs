//! Media that fail, and the order in which a medium is asked.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vm_memory::VolatileSlice;

use super::libata::{Port, Tf};
use super::rig::{Rig, drive};
use crate::block::{BlockBackend, Failure};
use crate::ide::DriveKind;

/// A medium that records what it is asked, slowly, and can be full or broken.
#[derive(Default)]
struct Recorder {
    asked: Mutex<Vec<&'static str>>,
    full_after: Option<u64>,
    flush_fails: bool,
}

impl Recorder {
    fn ask(&self, what: &'static str) {
        std::thread::sleep(Duration::from_millis(5));
        self.asked.lock().unwrap().push(what);
    }
}

impl BlockBackend for Recorder {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn is_readonly(&self) -> bool {
        false
    }

    fn can_discard(&self) -> bool {
        false
    }

    fn read_vectored_at(&self, _: &[VolatileSlice<'_>], _: u64) -> Result<(), Failure> {
        self.ask("read");
        Ok(())
    }

    fn write_vectored_at(&self, _: &[VolatileSlice<'_>], _: u64) -> Result<(), Failure> {
        self.ask("write");
        match self.full_after {
            Some(done) => Err(Failure {
                done,
                source: io::ErrorKind::StorageFull.into(),
            }),
            None => Ok(()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.ask("flush");
        if self.flush_fails {
            return Err(io::Error::other("gone"));
        }
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        self.ask("discard");
        Ok(())
    }
}

fn rig(medium: Recorder) -> (Rig, Arc<Recorder>) {
    let medium = Arc::new(medium);
    let disk = drive(DriveKind::Disk, medium.clone());
    (Rig::new([[Some(disk), None], [None, None]]), medium)
}

#[test]
fn a_full_host_is_a_device_fault_at_the_right_sector() {
    let (rig, _medium) = rig(Recorder {
        full_after: Some(3 * 512),
        ..Recorder::default()
    });
    let port = Port::new(&rig, 0);
    let (host, status) = port.dma(&Tf::rw(0xca, 20, 8), false, &[(0x10000, 4096)]);
    assert_eq!((host & 6, status, port.get(1)), (4, 0x71, 4), "DF, ABRT");
    assert_eq!(port.get(3), 23);
    assert_eq!(port.pio_out(&Tf::rw(0xc5, 20, 8), 4096, &[0; 4096]), 0x71);
    assert_eq!((port.get(1), port.get(3)), (4, 23));
    assert_eq!(port.no_data(&Tf::rw(0xe7, 0, 0)), 0x50, "and lives on");
}

#[test]
fn a_flush_is_complete_when_the_medium_says_so() {
    let (rig, medium) = rig(Recorder::default());
    let port = Port::new(&rig, 0);
    port.dma(&Tf::rw(0xca, 0, 8), false, &[(0x10000, 4096)]);
    port.pio_out(&Tf::rw(0x30, 9, 1), 512, &[0; 512]);
    assert_eq!(*medium.asked.lock().unwrap(), ["write", "write"]);
    for (command, count) in [(0xe7, 3), (0xea, 4)] {
        assert_eq!(port.no_data(&Tf::rw(command, 0, 0)), 0x50);
        assert_eq!(medium.asked.lock().unwrap().len(), count);
    }
    // With the cache off, and with forced unit access: written, then flushed, then told.
    let off = Tf {
        feature: 0x82,
        ..Tf::rw(0xef, 0, 0)
    };
    port.no_data(&off);
    medium.asked.lock().unwrap().clear();
    port.pio_out(&Tf::rw(0xc5, 9, 2), 1024, &[0; 1024]);
    assert_eq!(*medium.asked.lock().unwrap(), ["write", "flush"]);
    port.dma(&Tf::rw(0x35, 0, 8).ext(), false, &[(0x10000, 4096)]);
    assert_eq!(
        *medium.asked.lock().unwrap(),
        ["write", "flush", "write", "flush"]
    );
}

#[test]
fn a_flush_that_fails_is_an_error() {
    let (rig, _medium) = rig(Recorder {
        flush_fails: true,
        ..Recorder::default()
    });
    let port = Port::new(&rig, 0);
    assert_eq!(port.no_data(&Tf::rw(0xea, 0, 0)), 0x51);
    assert_eq!(port.get(1), 4);
    let forced = Tf::rw(0x3d, 0, 1).ext();
    assert_eq!(port.dma(&forced, false, &[(0x10000, 512)]).1, 0x51);
}
