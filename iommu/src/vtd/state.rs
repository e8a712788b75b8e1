//! What the unit says of itself: for inspection, tests, and later snapshots.

use serde::Serialize;

use super::Vtd;
use super::faults::RECORDS;
use super::registers::offset;

/// The registers that are not constant, raw, under the manual's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct VtdState {
    pub gsts: u32,
    pub rtaddr: u64,
    pub ccmd: u64,
    pub fsts: u32,
    pub fectl: u32,
    pub fedata: u32,
    pub feaddr: u32,
    pub feuaddr: u32,
    pub pmen: u32,
    pub plmbase: u32,
    pub plmlimit: u32,
    pub phmbase: u64,
    pub phmlimit: u64,
    pub iqh: u64,
    pub iqt: u64,
    pub iqa: u64,
    pub ics: u32,
    pub iectl: u32,
    pub iedata: u32,
    pub ieaddr: u32,
    pub ieuaddr: u32,
    pub iqercd: u64,
    pub irta: u64,
    pub iva: u64,
    pub iotlb: u64,
    /// The fault recording registers, low half first.
    pub frcd: [[u64; 2]; RECORDS],
    /// The root table in use: RTADDR as of the last SRTP.
    pub root_table: u64,
    /// The interrupt table in use: IRTA as of the last SIRTP.
    pub interrupt_table: u64,
}

impl VtdState {
    pub(super) fn of(vtd: &Vtd) -> Self {
        let regs = vtd.registers();
        let quad = |offset| regs.read(offset, &vtd.config);
        let low = |offset| quad(offset) as u32;
        let high = |offset: u64| (quad(offset & !7) >> 32) as u32;
        Self {
            gsts: high(offset::GSTS),
            rtaddr: quad(offset::RTADDR),
            ccmd: quad(offset::CCMD),
            fsts: high(offset::FSTS),
            fectl: low(offset::FECTL),
            fedata: high(offset::FEDATA),
            feaddr: low(offset::FEADDR),
            feuaddr: high(offset::FEUADDR),
            pmen: high(offset::PMEN),
            plmbase: low(offset::PLMBASE),
            plmlimit: high(offset::PLMLIMIT),
            phmbase: quad(offset::PHMBASE),
            phmlimit: quad(offset::PHMLIMIT),
            iqh: quad(offset::IQH),
            iqt: quad(offset::IQT),
            iqa: quad(offset::IQA),
            ics: high(offset::ICS),
            iectl: low(offset::IECTL),
            iedata: high(offset::IEDATA),
            ieaddr: low(offset::IEADDR),
            ieuaddr: high(offset::IEUADDR),
            iqercd: quad(offset::IQERCD),
            irta: quad(offset::IRTA),
            iva: quad(offset::IVA),
            iotlb: quad(offset::IOTLB),
            frcd: std::array::from_fn(|i| {
                let at = offset::FRCD + 16 * i as u64;
                [quad(at), quad(at + 8)]
            }),
            root_table: vtd.live.root().0,
            interrupt_table: vtd.live.interrupts().0,
        }
    }
}
