//! What a unit is made to offer, and how its capability registers say so.

use super::faults::RECORDS;
use super::registers::{Capability, ExtendedCapability, SCALABLE_VERSION, VERSION, offset};

/// The widest I/O virtual addresses that a unit translates. Narrower ones are offered too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub enum Width {
    /// 39 bits, three levels of tables.
    Bits39,
    /// 48 bits, four levels.
    Bits48,
    /// 57 bits, five levels.
    Bits57,
}

impl Width {
    /// Bits of address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Bits39 => 39,
            Self::Bits48 => 48,
            Self::Bits57 => 57,
        }
    }

    /// Levels of tables.
    pub const fn levels(self) -> u8 {
        match self {
            Self::Bits39 => 3,
            Self::Bits48 => 4,
            Self::Bits57 => 5,
        }
    }

    /// The width that the AW field of a context entry names (VT-d 4.1 §9.3).
    pub(super) const fn from_field(aw: u8) -> Option<Self> {
        match aw {
            1 => Some(Self::Bits39),
            2 => Some(Self::Bits48),
            3 => Some(Self::Bits57),
            _ => None,
        }
    }

    /// SAGAW: a bit for each width up to this one.
    const fn sagaw(self) -> u8 {
        match self {
            Self::Bits39 => 0b0010,
            Self::Bits48 => 0b0110,
            Self::Bits57 => 0b1110,
        }
    }
}

/// What a unit is made to offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VtdConfig {
    /// Widest I/O virtual address.
    pub width: Width,
    /// Bits of a guest-physical address, 32 to 52: HAW, which the DMAR table reports too.
    pub host_width: u8,
    /// Interrupts can be remapped.
    pub interrupt_remapping: bool,
    /// 32-bit APIC ids; means nothing without interrupt remapping.
    pub eim: bool,
    /// Software must announce mappings it adds, not only those it removes. Needed by whoever
    /// shadows the tables.
    pub caching_mode: bool,
    /// The SNP bit of page-table entries is allowed. It changes nothing: all DMA is coherent.
    pub snoop_control: bool,
    /// Functions may have Device-TLBs: their invalidations are taken, and context entries may
    /// have translation type 01b.
    pub device_tlb: bool,
    /// When the sink has heard of a change, no device still has an access under way that was
    /// translated before: DWD and DRD. The unit does not see accesses end, so it is for
    /// whoever made the sink to say.
    pub draining: bool,
    /// The queue may have 256-bit descriptors. They come with scalable mode, whatever this is.
    pub wide_descriptors: bool,
    /// Scalable mode: PASID tables, with second-stage tables and pass-through in their
    /// entries. There are no requests with PASID; those without take that of their context
    /// entry.
    pub scalable: bool,
    /// First-stage tables in scalable mode, alone or nested. Software need not announce what
    /// it adds to them, with caching mode either, so whoever shadows tables should not offer
    /// them. Means nothing without scalable mode or with a width of less than 48 bits.
    pub first_stage: bool,
}

impl VtdConfig {
    /// Nothing but what every unit has: what others differ from.
    pub const BASIC: Self = Self {
        width: Width::Bits48,
        host_width: 46,
        interrupt_remapping: false,
        eim: false,
        caching_mode: false,
        snoop_control: false,
        device_tlb: false,
        draining: false,
        wide_descriptors: false,
        scalable: false,
        first_stage: false,
    };

    /// HAW, within what the tables have room for.
    pub fn address_bits(&self) -> u8 {
        self.host_width.clamp(32, 52)
    }

    /// Address bits that a table pointer may not have.
    pub(super) fn beyond_address(&self) -> u64 {
        u64::MAX << self.address_bits()
    }

    /// 32-bit APIC ids are offered.
    pub(super) fn extended_interrupts(&self) -> bool {
        self.interrupt_remapping && self.eim
    }

    /// The queue may have 256-bit descriptors.
    pub(super) fn takes_wide_descriptors(&self) -> bool {
        self.wide_descriptors || self.scalable
    }

    /// First-stage tables are offered. Their addresses are canonical ones of 48 or 57 bits.
    pub(super) fn has_first_stage(&self) -> bool {
        self.scalable && self.first_stage && self.width >= Width::Bits48
    }

    /// VER.
    pub(super) fn version(&self) -> u32 {
        if self.scalable {
            SCALABLE_VERSION
        } else {
            VERSION
        }
    }

    /// CAP.
    pub fn capability(&self) -> Capability {
        let mut cap = Capability::default();
        cap.set_domains(6); // 2^16
        cap.set_protected_low(true);
        cap.set_protected_high(true);
        cap.set_caching_mode(self.caching_mode);
        cap.set_widths(self.width.sagaw());
        cap.set_max_width(self.width.bits() - 1);
        cap.set_zero_length_read(true);
        cap.set_fault_offset((offset::FRCD >> 4) as u16);
        cap.set_large_pages(0b11);
        cap.set_page_selective(true);
        cap.set_fault_records(RECORDS as u8 - 1);
        cap.set_max_address_mask(MAX_ADDRESS_MASK);
        cap.set_write_drain(self.draining);
        cap.set_read_drain(self.draining);
        cap.set_sirtp_invalidates(self.interrupt_remapping);
        cap.set_srtp_invalidates(true);
        if self.has_first_stage() {
            cap.set_first_stage_giant(true);
            cap.set_first_stage_five(self.width == Width::Bits57);
        }
        cap
    }

    /// ECAP.
    pub fn extended_capability(&self) -> ExtendedCapability {
        let mut ecap = ExtendedCapability::default();
        ecap.set_coherent(true);
        ecap.set_queue(true);
        ecap.set_device_tlb(self.device_tlb);
        ecap.set_interrupt_remapping(self.interrupt_remapping);
        ecap.set_extended_interrupts(self.extended_interrupts());
        ecap.set_pass_through(true);
        ecap.set_snoop_control(self.snoop_control);
        ecap.set_iotlb_offset((offset::IVA >> 4) as u16);
        if self.interrupt_remapping {
            ecap.set_max_handle_mask(MAX_HANDLE_MASK);
        }
        if self.scalable {
            ecap.set_scalable(true);
            ecap.set_second_stage(true);
            ecap.set_scalable_coherent(true);
            ecap.set_rid_pasid(true);
        }
        if self.has_first_stage() {
            ecap.set_first_stage(true);
            ecap.set_nested(true);
            ecap.set_supervisor(true);
            ecap.set_rid_privilege(true);
        }
        ecap
    }
}

/// CAP.MAMV: a page-selective invalidation covers at most 1 GiB.
pub(super) const MAX_ADDRESS_MASK: u8 = 18;

/// ECAP.MHMV: an index-selective invalidation covers at most 2^15 interrupt entries.
pub(super) const MAX_HANDLE_MASK: u8 = 15;
