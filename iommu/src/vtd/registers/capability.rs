//! VT-d 4.1 §11.4.1–11.4.3: what the unit can do.

use bitfield::bitfield;

/// VER: architecture version 1.0, as every unit without scalable mode reports.
pub const VERSION: u32 = 0x10;

/// VER: architecture version 3.0, the first with scalable mode.
pub const SCALABLE_VERSION: u32 = 0x30;

bitfield! {
    /// CAP.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct Capability(pub u64);
    impl Debug;
    /// ND: 2 to the (4 + 2 × this) domains.
    pub u8, domains, set_domains: 2, 0;
    /// PLMR: protected low-memory region.
    pub protected_low, set_protected_low: 5;
    /// PHMR: protected high-memory region.
    pub protected_high, set_protected_high: 6;
    /// CM: not-present entries may be cached, so software announces every change.
    pub caching_mode, set_caching_mode: 7;
    /// SAGAW: bit 1 is 39 bits, bit 2 is 48, bit 3 is 57.
    pub u8, widths, set_widths: 12, 8;
    /// MGAW: one less than the widest address translated.
    pub u8, max_width, set_max_width: 21, 16;
    /// ZLR: reads of no length go to write-only pages too.
    pub zero_length_read, set_zero_length_read: 22;
    /// FRO: where the FRCDs are, in 16 bytes.
    pub u16, fault_offset, set_fault_offset: 33, 24;
    /// SSLPS: bit 0 is 2 MiB, bit 1 is 1 GiB.
    pub u8, large_pages, set_large_pages: 37, 34;
    /// PSI: page-selective invalidation.
    pub page_selective, set_page_selective: 39;
    /// NFR: one less than the FRCDs there are.
    pub u8, fault_records, set_fault_records: 47, 40;
    /// MAMV: largest address mask of a page-selective invalidation.
    pub u8, max_address_mask, set_max_address_mask: 53, 48;
    /// DWD: writes are drained.
    pub write_drain, set_write_drain: 54;
    /// DRD: reads are drained.
    pub read_drain, set_read_drain: 55;
    /// FS1GP: first-stage tables have 1 GiB pages.
    pub first_stage_giant, set_first_stage_giant: 56;
    /// FS5LP: first-stage tables may have five levels.
    pub first_stage_five, set_first_stage_five: 60;
    /// ESIRTPS: setting the interrupt table pointer invalidates the interrupt entry cache.
    pub sirtp_invalidates, set_sirtp_invalidates: 62;
    /// ESRTPS: setting the root table pointer invalidates all translation caches.
    pub srtp_invalidates, set_srtp_invalidates: 63;
}

bitfield! {
    /// ECAP. Of scalable mode, what is about requests with PASID, page requests, memory types
    /// and extended accessed flags is left out and reads as zero.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct ExtendedCapability(pub u64);
    impl Debug;
    /// C: walks of the tables are coherent with processor caches.
    pub coherent, set_coherent: 0;
    /// QI: queued invalidation.
    pub queue, set_queue: 1;
    /// DT: Device-TLBs.
    pub device_tlb, set_device_tlb: 2;
    /// IR: interrupt remapping.
    pub interrupt_remapping, set_interrupt_remapping: 3;
    /// EIM: 32-bit APIC ids.
    pub extended_interrupts, set_extended_interrupts: 4;
    /// PT: pass-through.
    pub pass_through, set_pass_through: 6;
    /// SC: SNP in page-table entries.
    pub snoop_control, set_snoop_control: 7;
    /// IRO: where IVA is, in 16 bytes.
    pub u16, iotlb_offset, set_iotlb_offset: 17, 8;
    /// MHMV: largest index mask of an interrupt entry invalidation.
    pub u8, max_handle_mask, set_max_handle_mask: 23, 20;
    /// NEST: first-stage tables in front of second-stage tables.
    pub nested, set_nested: 26;
    /// SRS: requests of supervisors.
    pub supervisor, set_supervisor: 31;
    /// SMTS: scalable mode.
    pub scalable, set_scalable: 43;
    /// SSTS: second-stage tables in scalable mode.
    pub second_stage, set_second_stage: 46;
    /// FSTS: first-stage tables.
    pub first_stage, set_first_stage: 47;
    /// SMPWC: PWSNP in PASID entries, walks are coherent with processor caches.
    pub scalable_coherent, set_scalable_coherent: 48;
    /// RPS: RID_PASID in context entries.
    pub rid_pasid, set_rid_pasid: 49;
    /// RPRIVS: RID_PRIV in context entries.
    pub rid_privilege, set_rid_privilege: 53;
}
