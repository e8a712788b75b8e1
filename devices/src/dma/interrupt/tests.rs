use std::sync::{Arc, Mutex};

use iommu::vtd::{Deaf, FaultReason, Vtd, VtdConfig, offset};
use iommu::{Identity, Remapper};
use pci::Bdf;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::dma::GuestRam;
use crate::irq::MsiSink;

const NIC: Bdf = Bdf::new(0, 2, 0);
const ROOT: u64 = 0x1000;
const CONTEXTS: u64 = 0x2000;
const ENTRIES: u64 = 0x3000;
/// The top of four tables; the others follow.
const TABLES: u64 = 0x10000;
/// Pages that are mapped before and after the range.
const BELOW: u64 = 0x20000;
const ABOVE: u64 = 0x21000;

#[derive(Default)]
struct Sent(Mutex<Vec<MsiMessage>>);

impl MsiSink for Sent {
    fn send(&self, message: MsiMessage) {
        self.0.lock().unwrap().push(message);
    }
}

struct Rig {
    memory: Arc<GuestRam>,
    vtd: Arc<Vtd>,
    sent: Arc<Sent>,
    dma: Dma,
}

impl Rig {
    /// A requester behind nothing that matters.
    fn new() -> Self {
        Self::with(|_| Arc::new(Identity))
    }

    /// One behind a VT-d, which is off.
    fn behind() -> Self {
        Self::with(|vtd| vtd)
    }

    fn with(remapper: impl FnOnce(Arc<Vtd>) -> Arc<dyn Remapper>) -> Self {
        let memory = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
        let config = VtdConfig {
            interrupt_remapping: true,
            ..VtdConfig::BASIC
        };
        let vtd = Arc::new(Vtd::new(config, memory.clone(), Arc::new(Deaf)));
        let sent = Arc::<Sent>::default();
        let dma = Dma::new(memory.clone(), remapper(vtd.clone()), sent.clone());
        dma.set_bdf(NIC);
        dma.set_bus_master(true);
        Self {
            memory,
            vtd,
            sent,
            dma,
        }
    }

    fn poke(&self, at: u64, value: u64) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    /// Bit 25 of GCMD: with 256 entries, none of them present.
    fn remap_interrupts(&self) {
        self.vtd.write(offset::IRTA, 8, ENTRIES | 7);
        self.vtd.write(offset::GCMD, 4, 1 << 24);
        self.vtd.write(offset::GCMD, 4, 1 << 25);
    }

    /// An entry for vector 0x31 at APIC 5, of a requester's.
    fn entry(&self, index: u64, requester: Bdf) {
        let source = u64::from(requester.requester_id());
        self.poke(ENTRIES + index * 16 + 8, 1 << 18 | source);
        self.poke(ENTRIES + index * 16, 5 << 40 | 0x31 << 16 | 1);
    }

    /// Translates: the NIC has the pages on both sides of the range, and one in it.
    fn translate(&self) {
        self.poke(ROOT, CONTEXTS | 1);
        let context = CONTEXTS + 16 * u64::from(NIC.requester_id());
        self.poke(context + 8, 1 << 8 | 2);
        self.poke(context, TABLES | 1);
        for (iova, gpa) in [
            (0xfedf_f000, BELOW),
            (0xfee0_0000, BELOW),
            (0xfef0_0000_u64, ABOVE),
        ] {
            // A lowest table for each 2 MiB.
            let lowest = TABLES + 0x3000 + (iova >> 21 & 7) * 0x1000;
            for (level, next) in [(3, TABLES + 0x1000), (2, TABLES + 0x2000)] {
                let at = TABLES + (3 - level) * 0x1000 + 8 * (iova >> (12 + 9 * level) & 0x1ff);
                self.poke(at, next | 3);
            }
            self.poke(TABLES + 0x2000 + 8 * (iova >> 21 & 0x1ff), lowest | 3);
            self.poke(lowest + 8 * (iova >> 12 & 0x1ff), gpa | 3);
        }
        self.vtd.write(offset::RTADDR, 8, ROOT);
        self.vtd.write(offset::GCMD, 4, 1 << 30);
        self.vtd.write(offset::GCMD, 4, 1 << 31);
    }

    fn sent(&self) -> Vec<(u64, u32)> {
        let sent = std::mem::take(&mut *self.sent.0.lock().unwrap());
        sent.iter().map(|it| (it.address, it.data)).collect()
    }

    /// Requester, reason and index of the faults, cleared.
    fn faults(&self) -> Vec<(Bdf, u8, u64)> {
        let mut faults = Vec::new();
        for (at, [low, high]) in (offset::FRCD..).step_by(16).zip(self.vtd.state().frcd) {
            if high >> 63 != 0 {
                let requester = Bdf::from_requester_id(high as u16);
                faults.push((requester, (high >> 32) as u8, low >> 48));
                self.vtd.write(at + 8, 8, 1 << 63);
            }
        }
        faults
    }
}

/// The address of a request for an entry.
fn handle(index: u64) -> u64 {
    0xfee0_0010 | index << 5
}

#[test]
fn a_dword_is_an_interrupt_request() {
    for rig in [Rig::new(), Rig::behind()] {
        rig.dma
            .write(0xfee0_1008, &0x4041_u32.to_le_bytes())
            .unwrap();
        assert_eq!(rig.sent(), [(0xfee0_1008, 0x4041)]);
        rig.dma.write_obj(0xfeef_fffc, &7_u32).unwrap();
        assert_eq!(rig.sent(), [(0xfeef_fffc, 7)]);
        assert_eq!(rig.faults(), []);
        rig.dma.set_bus_master(false);
        let error = rig.dma.write_obj(0xfee0_1008, &7_u32);
        assert_eq!(error, Err(DmaError::NotMaster));
        assert_eq!(rig.sent(), []);
    }
}

#[test]
fn it_goes_through_the_guests_entries() {
    let rig = Rig::behind();
    rig.remap_interrupts();
    rig.entry(9, NIC);
    rig.entry(10, Bdf::new(0, 3, 0));
    rig.dma.write_obj(handle(9), &0xffff_ffff_u32).unwrap();
    assert_eq!(rig.sent(), [(0xfee0_5000, 0x31)]);
    // Subhandle 2 of 7.
    rig.dma.write_obj(handle(7) | 1 << 3, &2_u32).unwrap();
    assert_eq!(rig.sent(), [(0xfee0_5000, 0x31)]);
    for (address, reason, index) in [
        (handle(8) | 1 << 3, FaultReason::SourceInvalid, 10),
        (handle(11) | 1 << 3, FaultReason::EntryNotPresent, 13),
        (handle(300), FaultReason::IndexTooLarge, 300),
        (0xfee0_5000, FaultReason::CompatibilityBlocked, 0),
    ] {
        let error = rig.dma.write_obj(address, &2_u32).unwrap_err();
        assert!(matches!(error, DmaError::Blocked(fault) if fault.address == address));
        assert_eq!(rig.faults(), [(NIC, reason.code(), index)]);
        assert_eq!(rig.sent(), []);
    }
}

/// All that is not an aligned DWORD that is written. `recorded` says whether the IOMMU does.
fn illegal(rig: &Rig, recorded: bool) {
    let expected = match recorded {
        true => vec![(NIC, FaultReason::RequestReserved.code(), 0)],
        false => vec![],
    };
    for (at, len) in [
        (handle(9), 1),
        (handle(9), 2),
        (handle(9), 3),
        (handle(9), 5),
        (handle(9), 8),
        (handle(9), 256),
        (handle(9) + 2, 4),
        (0xfeef_ffff, 1),
    ] {
        let (write, read) = (
            rig.dma.write(at, &vec![0; len]),
            rig.dma.read(at, &mut vec![0; len]),
        );
        assert_eq!(rig.faults(), expected, "{len} bytes at {at:#x}");
        assert_eq!(write, Err(DmaError::NotAnInterrupt(at)), "{len}");
        assert_eq!(read, Err(DmaError::NotAnInterrupt(at)), "{len}");
    }
    let read = rig.dma.read_obj::<u32>(handle(9));
    assert_eq!(read, Err(DmaError::NotAnInterrupt(handle(9))));
    assert_eq!(rig.faults(), expected);
    // Of no length they are not.
    for at in [0xfee0_0000, handle(9)] {
        assert_eq!(rig.dma.read(at, &mut []), Ok(()));
        assert_eq!(rig.dma.write(at, &[]), Ok(()));
    }
    assert_eq!((rig.faults(), rig.sent()), (vec![], vec![]));
}

#[test]
fn what_is_not_one_is_blocked_and_recorded_where_interrupts_are_remapped() {
    illegal(&Rig::new(), false);
    let rig = Rig::behind();
    illegal(&rig, false);
    rig.translate();
    illegal(&rig, false);
    rig.remap_interrupts();
    rig.entry(9, NIC);
    illegal(&rig, true);
}

#[test]
fn a_transfer_is_memorys_up_to_the_range_and_after_it() {
    let rig = Rig::behind();
    rig.translate();
    let words = [1_u32, 2];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let load = |at| rig.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
    rig.dma.write(0xfedf_fffc, &bytes).unwrap();
    assert_eq!(
        (load(BELOW + 0xffc), rig.sent()),
        (1, vec![(0xfee0_0000, 2)])
    );
    rig.dma.write(0xfeef_fffc, &bytes).unwrap();
    assert_eq!((load(ABOVE), rig.sent()), (2, vec![(0xfeef_fffc, 1)]));
    // No request has bytes of two pages.
    rig.dma.write(0xfee0_1ffc, &bytes).unwrap();
    assert_eq!(rig.sent(), [(0xfee0_1ffc, 1), (0xfee0_2000, 2)]);
    // What comes before an illegal one is done, and nothing after it.
    let error = rig.dma.write(0xfedf_fff8, &[3; 16]);
    assert_eq!(error, Err(DmaError::NotAnInterrupt(0xfee0_0000)));
    assert_eq!(load(BELOW + 0xffc), 0x0303_0303);
    assert_eq!(load(BELOW), 0, "what is mapped in the range is not reached");
    let mut read = [0; 8];
    let error = rig.dma.read(0xfedf_fffc, &mut read);
    assert_eq!(error, Err(DmaError::NotAnInterrupt(0xfee0_0000)));
    assert_eq!(read, [3, 3, 3, 3, 0, 0, 0, 0]);
    assert_eq!((rig.faults(), rig.sent()), (vec![], vec![]));
}

#[test]
fn pieces_end_before_the_range() {
    let rig = Rig::behind();
    rig.translate();
    let mut given = 0;
    let error = rig.dma.for_each_piece(
        &rig.dma.begin(),
        0xfedf_fff0,
        0x20,
        Access::Write,
        |piece| given += piece.len(),
    );
    assert_eq!(error, Err(DmaError::Interrupts(0xfee0_0000)));
    assert_eq!(given, 0x10);
}

/// Both ends of the range and of all addresses, and around them.
fn places() -> impl Strategy<Value = u64> {
    let near = prop_oneof![
        Just(0_u64),
        Just(INTERRUPT_RANGE.start),
        Just(INTERRUPT_RANGE.end)
    ];
    (near, -5_i64..5).prop_map(|(near, by)| near.wrapping_add_signed(by))
}

proptest! {
    #[test]
    fn all_that_has_bytes_in_the_range_concerns_it(
        iova in places(),
        len in prop_oneof![1_usize..12, Just(1 << 20), (1_usize << 20) + 1..(1 << 20) + 12],
    ) {
        let mut bytes = (0..len as u64).map(|n| iova.wrapping_add(n));
        prop_assert_eq!(concern(iova, len), bytes.any(|at| INTERRUPT_RANGE.contains(&at)));
    }
}
