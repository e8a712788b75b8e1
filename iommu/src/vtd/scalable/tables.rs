//! VT-d 4.1 §9.2, §9.4 to §9.7: the entries of scalable-mode root, context and PASID tables and
//! of first-stage page tables, and which of their bits are reserved.

use bitfield::bitfield;

use super::super::config::VtdConfig;
use super::super::memory::wide;

bitfield! {
    /// Half of a root entry: the lower one for devices 0 to 15 of a bus, the upper one for the
    /// others.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct HalfRootEntry(pub u64);
    impl Debug;
    /// LP, UP.
    pub present, _: 0;
}

impl HalfRootEntry {
    /// LCTP, UCTP: the context table.
    pub fn table(self) -> u64 {
        self.0 & !0xfff
    }

    /// A reserved bit is set.
    pub fn is_reserved(self, config: &VtdConfig) -> bool {
        self.0 & (0xffe | config.beyond_address()) != 0
    }
}

bitfield! {
    /// The lower half of a context entry; nothing is in the upper one.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct ContextLow(u128);
    impl Debug;
    present, _: 0;
    fault_disable, _: 1;
    u8, pdts, _: 11, 9;
    u32, rid_pasid, _: 83, 64;
    rid_priv, _: 84;
}

/// A context entry: one for each device and function.
#[derive(Clone, Copy)]
pub(super) struct ContextEntry {
    low: ContextLow,
    high: u128,
}

impl ContextEntry {
    pub fn new([a, b, c, d]: [u64; 4]) -> Self {
        Self {
            low: ContextLow(wide(a, b)),
            high: wide(c, d),
        }
    }

    /// P.
    pub fn present(self) -> bool {
        self.low.present()
    }

    /// FPD: qualified faults are not recorded. Means something in an absent entry too.
    pub fn fault_disable(self) -> bool {
        self.low.fault_disable()
    }

    /// PASIDDIRPTR: the PASID directory.
    pub fn directory(self) -> u64 {
        self.low.0 as u64 & !0xfff
    }

    /// PASIDs that there is room for: PDTS is a power of two of 128 directory entries, each for
    /// 64 PASIDs.
    pub fn pasids(self) -> u32 {
        1 << (13 + self.low.pdts())
    }

    /// RID_PASID: the PASID of requests without one.
    pub fn rid_pasid(self) -> u32 {
        self.low.rid_pasid()
    }

    /// RID_PRIV: they are a supervisor's.
    pub fn supervisor(self) -> bool {
        self.low.rid_priv()
    }

    /// A reserved bit is set. PASIDE and PRE are reserved where there are no requests with PASID
    /// and no page requests, DTE without Device-TLBs.
    pub fn is_reserved(self, config: &VtdConfig) -> bool {
        const DTE: u64 = 1 << 2;
        const RID_PRIV: u64 = 1 << 20;
        let dte = if config.device_tlb { 0 } else { DTE };
        let privilege = if config.has_first_stage() {
            0
        } else {
            RID_PRIV
        };
        let low = 0x1f8 | dte | config.beyond_address();
        let middle = !0x1f_ffff | privilege;
        self.low.0 & wide(low, middle) != 0 || self.high != 0
    }
}

bitfield! {
    /// An entry of a PASID directory: one for 64 PASIDs.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct DirectoryEntry(pub u64);
    impl Debug;
    /// P.
    pub present, _: 0;
    /// FPD, as in a context entry.
    pub fault_disable, _: 1;
}

impl DirectoryEntry {
    /// SMPTBLPTR: the PASID table.
    pub fn table(self) -> u64 {
        self.0 & !0xfff
    }

    /// A reserved bit is set.
    pub fn is_reserved(self, config: &VtdConfig) -> bool {
        self.0 & (0xffc | config.beyond_address()) != 0
    }
}

/// PGTT: how a PASID's addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TranslationType {
    FirstStage,
    SecondStage,
    Nested,
    PassThrough,
}

bitfield! {
    /// The lowest quarter of a PASID entry.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct PasidLow(u128);
    impl Debug;
    present, _: 0;
    fault_disable, _: 1;
    u8, aw, _: 4, 2;
    u8, pgtt, _: 8, 6;
    u16, did, _: 79, 64;
}

bitfield! {
    /// The third quadword of a PASID entry: the first stage.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct PasidFirst(u64);
    impl Debug;
    sre, _: 0;
    u8, fspm, _: 3, 2;
    wpe, _: 4;
}

/// An entry of a PASID table: 512 bits, of which the upper 320 are reserved.
#[derive(Clone, Copy)]
pub(super) struct PasidEntry {
    low: PasidLow,
    first: PasidFirst,
    rest: [u64; 5],
}

impl PasidEntry {
    pub fn new([a, b, c, rest @ ..]: [u64; 8]) -> Self {
        Self {
            low: PasidLow(wide(a, b)),
            first: PasidFirst(c),
            rest,
        }
    }

    /// P.
    pub fn present(self) -> bool {
        self.low.present()
    }

    /// FPD, as in a context entry.
    pub fn fault_disable(self) -> bool {
        self.low.fault_disable()
    }

    /// AW: second-stage width, as in a legacy context entry.
    pub fn width(self) -> u8 {
        self.low.aw()
    }

    /// PGTT, if it is one that there is.
    pub fn translation_type(self) -> Option<TranslationType> {
        match self.low.pgtt() {
            1 => Some(TranslationType::FirstStage),
            2 => Some(TranslationType::SecondStage),
            3 => Some(TranslationType::Nested),
            4 => Some(TranslationType::PassThrough),
            _ => None,
        }
    }

    /// DID.
    pub fn domain(self) -> u16 {
        self.low.did()
    }

    /// SSPTPTR: the topmost second-stage table.
    pub fn second_table(self) -> u64 {
        self.low.0 as u64 & !0xfff
    }

    /// FSPTPTR: the topmost first-stage table. Nested, the second stage translates it.
    pub fn first_table(self) -> u64 {
        self.first.0 & !0xfff
    }

    /// FSPM: levels of first-stage tables, if it is a mode that there is.
    pub fn first_levels(self) -> Option<u8> {
        match self.first.fspm() {
            0 => Some(4),
            1 => Some(5),
            _ => None,
        }
    }

    /// SRE: supervisors may make requests.
    pub fn takes_supervisors(self) -> bool {
        self.first.sre()
    }

    /// WPE: R/W of first-stage entries is for supervisors too.
    pub fn protects_from_supervisors(self) -> bool {
        self.first.wpe()
    }

    /// A reserved bit is set. Of a stage that is not used the table is ignored. PGSNP is
    /// reserved without snoop control; SSADE, EAFE and the memory types are not offered. SSEE,
    /// ERE and SMEP are of execute requests, which there are none of. So is NXE, but it is
    /// ignored: Linux before 6.1 sets it whatever the unit offers.
    pub fn is_reserved(self, config: &VtdConfig) -> bool {
        const PGSNP: u64 = 1 << 24;
        const BEYOND_ANY_ADDRESS: u64 = u64::MAX << 52;
        use TranslationType::{FirstStage, Nested, SecondStage};
        let (beyond, kind) = (config.beyond_address(), self.translation_type());
        let second = match kind {
            Some(SecondStage | Nested) => beyond,
            _ => 0,
        };
        let first = match kind {
            Some(FirstStage) => beyond,
            // Guest-physical: how wide it may be is for the second stage to say.
            Some(Nested) => BEYOND_ANY_ADDRESS,
            _ => 0,
        };
        let snoop = if config.snoop_control { 0 } else { PGSNP };
        let low = 0xe20 | second;
        let middle = 0xffff_ffff_fe7f_0000 | snoop;
        self.low.0 & wide(low, middle) != 0
            || self.first.0 & (0xfc2 | first) != 0
            || self.rest != [0; 5]
    }
}

bitfield! {
    /// An entry of a first-stage page table, as a processor's.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct FirstEntry(pub u64);
    impl Debug;
    /// P.
    pub present, _: 0;
    /// R/W.
    pub write, _: 1;
    /// U/S.
    pub user, _: 2;
    /// A.
    pub accessed, set_accessed: 5;
    /// D, of a leaf.
    pub dirty, set_dirty: 6;
    /// PS: a leaf at levels 2 and 3.
    pub large, _: 7;
}

impl FirstEntry {
    /// Maps memory, not a further table. Level 1 holds 4 KiB pages, and bit 7 there is PAT.
    pub fn is_leaf(self, level: u8) -> bool {
        level == 1 || matches!(level, 2 | 3) && self.large()
    }

    /// ADDR, of a page `1 << shift` bytes long or of a table if that is 12.
    pub fn address(self, shift: u8) -> u64 {
        self.0 & ADDRESS & u64::MAX << shift
    }

    /// A reserved bit is set: PS above level 3; address bits below a large page, but for the
    /// lowest, which is PAT; address bits beyond HAW. Nested they are guest-physical, and how
    /// wide they may be is for the second stage to say.
    pub fn is_reserved(self, level: u8, shift: u8, nested: bool, config: &VtdConfig) -> bool {
        const PS: u64 = 1 << 7;
        const PAT: u64 = 1 << 12;
        let beyond = match nested {
            true => 0,
            false => config.beyond_address() & ADDRESS,
        };
        let own = match (self.is_leaf(level), level) {
            (true, 1) => 0,
            (true, _) => ADDRESS & !(u64::MAX << shift) & !PAT,
            (false, _) => PS,
        };
        self.0 & (beyond | own) != 0
    }
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
