//! A device's only way to guest memory, and to interrupts by message: through the IOMMU, under
//! its own requester id, and only while it is a bus master.

mod drain;
mod interrupt;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use iommu::{Access, Fault, Remapper};
use pci::{Bdf, MsiMessage};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use self::drain::Transfers;
use crate::irq::MsiSink;

pub use self::drain::{Drain, UnderWay};

/// Guest RAM.
pub type GuestRam = GuestMemoryMmap<()>;

/// Why a DMA did not happen. A device shows it as its own bus error and carries on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// Bus master enable is off.
    #[error("not a bus master")]
    NotMaster,
    /// The IOMMU blocked it.
    #[error(transparent)]
    Blocked(#[from] Fault),
    /// The address is not RAM.
    #[error("no memory at {0:#x}")]
    NoMemory(u64),
    /// What is written there is no memory's: [`Dma::write`] takes it.
    #[error("interrupt requests, and no memory, at {0:#x}")]
    Interrupts(u64),
    /// It is in the interrupt address range, and no interrupt request.
    #[error("no interrupt request at {0:#x}")]
    NotAnInterrupt(u64),
}

struct Requester {
    memory: Arc<GuestRam>,
    remapper: Arc<dyn Remapper>,
    msi: Arc<dyn MsiSink>,
    bdf: AtomicU16,
    master: AtomicBool,
    /// None where nobody waits for them.
    transfers: Option<Transfers>,
}

impl Requester {
    fn bdf(&self) -> Bdf {
        Bdf::from_requester_id(self.bdf.load(Ordering::Relaxed))
    }
}

/// A function's DMA engine and message source. Clones are the same requester.
#[derive(Clone)]
pub struct Dma(Arc<Requester>);

impl Dma {
    /// A requester that is not yet a bus master.
    pub fn new(memory: Arc<GuestRam>, remapper: Arc<dyn Remapper>, msi: Arc<dyn MsiSink>) -> Self {
        Self::make(memory, remapper, msi, None)
    }

    /// The same, whose transfers are waited for when translations change.
    pub fn drained(
        memory: Arc<GuestRam>,
        remapper: Arc<dyn Remapper>,
        msi: Arc<dyn MsiSink>,
        drain: &Drain,
    ) -> Self {
        let dma = Self::make(memory, remapper, msi, Some(Transfers::default()));
        drain.add(Arc::downgrade(&dma.0));
        dma
    }

    fn make(
        memory: Arc<GuestRam>,
        remapper: Arc<dyn Remapper>,
        msi: Arc<dyn MsiSink>,
        transfers: Option<Transfers>,
    ) -> Self {
        Self(Arc::new(Requester {
            memory,
            remapper,
            msi,
            bdf: AtomicU16::new(0),
            master: AtomicBool::new(false),
            transfers,
        }))
    }

    /// Sets the requester id ([`crate::bus::PciDevice::set_bdf`]).
    pub fn set_bdf(&self, bdf: Bdf) {
        self.0.bdf.store(bdf.requester_id(), Ordering::Relaxed);
    }

    /// The requester id.
    pub fn bdf(&self) -> Bdf {
        self.0.bdf()
    }

    /// Follows the Bus Master Enable bit (PCIe 6.0 §7.5.1.1.3).
    pub fn set_bus_master(&self, on: bool) {
        self.0.master.store(on, Ordering::Release);
    }

    /// Sends an interrupt message; dropped when not a bus master or when blocked.
    pub fn send_msi(&self, message: MsiMessage) {
        if !self.0.master.load(Ordering::Acquire) {
            return;
        }
        // Who sends it is not told.
        let _ = self.request_interrupt(message);
    }

    fn request_interrupt(&self, message: MsiMessage) -> Result<(), Fault> {
        let resolved = self.0.remapper.remap(self.bdf(), message)?;
        self.0.msi.send(resolved);
        Ok(())
    }

    /// Transfers begin, and end when it is dropped. That is to be soon: who takes a translation
    /// away waits for it.
    pub fn begin(&self) -> UnderWay<'_> {
        UnderWay::new(self.0.transfers.as_ref())
    }

    /// Calls `each` with the pieces of guest memory that `len` bytes at `iova` are, in
    /// order. Pieces already given stay given when a later one fails, and are the device's until
    /// `under_way` ends. In the interrupt address range there are none
    /// ([`DmaError::Interrupts`]).
    pub fn for_each_piece<'a>(
        &'a self,
        _under_way: &UnderWay<'_>,
        iova: u64,
        len: usize,
        access: Access,
        each: impl FnMut(VolatileSlice<'a>),
    ) -> Result<(), DmaError> {
        match interrupt::concern(iova, len) {
            false => self.pieces(iova, len, access, each),
            true => self.pieces_before_interrupts(iova, len, access, each),
        }
    }

    /// The pieces of what is not in the interrupt address range.
    fn pieces<'a>(
        &'a self,
        iova: u64,
        len: usize,
        access: Access,
        mut each: impl FnMut(VolatileSlice<'a>),
    ) -> Result<(), DmaError> {
        let r = &*self.0;
        if !r.master.load(Ordering::Acquire) {
            return Err(DmaError::NotMaster);
        }
        let (mut iova, mut left) = (iova, len);
        while left > 0 {
            let to = r
                .remapper
                .translate(self.bdf(), iova, left as u64, access)?;
            let run = left
                .min(usize::try_from(to.len).unwrap_or(usize::MAX))
                .max(1);
            for piece in r.memory.get_slices(GuestAddress(to.gpa), run) {
                each(piece.map_err(|_| DmaError::NoMemory(to.gpa))?);
            }
            iova = iova.wrapping_add(run as u64);
            left -= run;
        }
        Ok(())
    }

    /// Reads memory at `iova` into `buf`.
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), DmaError> {
        let mut done = 0;
        let len = buf.len();
        self.for_each_piece(&self.begin(), iova, len, Access::Read, |piece| {
            piece.copy_to(&mut buf[done..]);
            done += piece.len();
        })
    }

    /// Writes `buf` to memory at `iova`, or sends the interrupt requests that it is there. What
    /// comes before one is in memory then.
    pub fn write(&self, iova: u64, buf: &[u8]) -> Result<(), DmaError> {
        match interrupt::concern(iova, buf.len()) {
            false => self.write_memory(iova, buf),
            true => self.write_interrupts(iova, buf),
        }
    }

    fn write_memory(&self, iova: u64, buf: &[u8]) -> Result<(), DmaError> {
        let mut done = 0;
        let _under_way = self.begin();
        self.pieces(iova, buf.len(), Access::Write, |piece| {
            piece.copy_from(&buf[done..done + piece.len()]);
            done += piece.len();
        })
    }

    /// Reads a plain value, such as a descriptor.
    pub fn read_obj<T: ByteValued + Default>(&self, iova: u64) -> Result<T, DmaError> {
        let mut value = T::default();
        self.read(iova, value.as_mut_slice())?;
        Ok(value)
    }

    /// Writes a plain value.
    pub fn write_obj<T: ByteValued>(&self, iova: u64, value: &T) -> Result<(), DmaError> {
        self.write(iova, value.as_slice())
    }
}
