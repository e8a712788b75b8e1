//! A host IOMMU as strict as the kernel's: no mapping over another, none unmapped in part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::host::{HostMapper, MapError};
use crate::vtd::tests::{HIGH, HIGH_RAM, RAM};

#[derive(Default)]
struct State {
    /// First address to length, guest-physical address, and whether it is writable.
    runs: BTreeMap<u64, (u64, u64, bool)>,
    failing_map: Option<u64>,
    failing_unmap: Option<u64>,
    calls: usize,
}

pub struct Host {
    memory: Arc<GuestMemoryMmap<()>>,
    state: Mutex<State>,
}

impl Host {
    pub fn new(memory: Arc<GuestMemoryMmap<()>>) -> Self {
        Self {
            memory,
            state: Mutex::default(),
        }
    }

    pub fn runs(&self) -> Vec<(u64, u64)> {
        let runs = &self.state.lock().unwrap().runs;
        runs.iter().map(|(&iova, &(len, ..))| (iova, len)).collect()
    }

    pub fn reach(&self, iova: u64) -> Option<(u64, bool)> {
        let runs = &self.state.lock().unwrap().runs;
        let (&start, &(len, gpa, writable)) = runs.range(..=iova).next_back()?;
        (iova - start < len).then(|| (gpa + (iova - start), writable))
    }

    pub fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    pub fn fail_map(&self, iova: u64) {
        self.state.lock().unwrap().failing_map = Some(iova);
    }

    pub fn fail_unmap(&self, iova: u64) {
        self.state.lock().unwrap().failing_unmap = Some(iova);
    }

    pub fn fail_nothing(&self) {
        let state = &mut *self.state.lock().unwrap();
        (state.failing_map, state.failing_unmap) = (None, None);
    }

    /// The guest-physical address of host memory, all in one region.
    fn gpa(&self, host: *mut u8, len: u64) -> u64 {
        for (start, size) in [(0, RAM as u64), (HIGH, HIGH_RAM as u64)] {
            let base = self.memory.get_host_address(GuestAddress(start)).unwrap() as u64;
            let host = host as u64;
            if (base..base + size).contains(&host) {
                assert!(host + len <= base + size, "past the end of RAM");
                return start + (host - base);
            }
        }
        panic!("{host:?} is not guest RAM");
    }
}

fn failed(operation: &'static str, iova: u64, len: u64) -> MapError {
    MapError {
        operation,
        iova,
        len,
        source: std::io::ErrorKind::OutOfMemory.into(),
    }
}

impl HostMapper for Host {
    // SAFETY: nothing is accessed; the pointer is only turned into a guest-physical address.
    unsafe fn map(
        &self,
        iova: u64,
        host: *mut u8,
        len: u64,
        writable: bool,
    ) -> Result<(), MapError> {
        let gpa = self.gpa(host, len);
        assert!(
            len > 0 && (iova | gpa | len) & 0xfff == 0,
            "not whole pages"
        );
        let state = &mut *self.state.lock().unwrap();
        state.calls += 1;
        if state.failing_map == Some(iova) {
            return Err(failed("map", iova, len));
        }
        let before = state.runs.range(..iova + len).next_back();
        let free = before.is_none_or(|(&start, &(len, ..))| start + len <= iova);
        assert!(free, "mapped over another mapping");
        state.runs.insert(iova, (len, gpa, writable));
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), MapError> {
        let state = &mut *self.state.lock().unwrap();
        state.calls += 1;
        if state.failing_unmap == Some(iova) {
            return Err(failed("unmap", iova, len));
        }
        let (whole, ..) = state.runs.remove(&iova).expect("a mapping begins there");
        assert_eq!(whole, len, "in part");
        Ok(())
    }
}
