//! ICH9 §13.1: the configuration registers of the LPC bridge, and §10.1: those that its root
//! complex base address shows.

use bitfield::bitfield;

/// Offsets in configuration space.
pub mod offset {
    /// PMBASE, dword: base of the power management ports.
    pub const PMBASE: u16 = 0x40;
    /// ACPI_CNTL, byte: whether they are decoded.
    pub const ACPI_CNTL: u16 = 0x44;
    /// GPIOBASE, dword.
    pub const GPIOBASE: u16 = 0x48;
    /// PIRQA_ROUT to PIRQD_ROUT, a byte each.
    pub const PIRQ_A_ROUTE: u16 = 0x60;
    /// SIRQ_CNTL, byte.
    pub const SIRQ_CNTL: u16 = 0x64;
    /// PIRQE_ROUT to PIRQH_ROUT, a byte each.
    pub const PIRQ_E_ROUTE: u16 = 0x68;
    /// LPC_IBDF, word: requester id of the I/O APIC.
    pub const LPC_IBDF: u16 = 0x6c;
    /// LPC_HnBDF, eight words: requester ids of HPET timers.
    pub const LPC_HPET_BDF: u16 = 0x70;
    /// LPC_I/O_DEC and LPC_EN, a word each.
    pub const LPC_IO_DEC: u16 = 0x80;
    /// GEN1_DEC to GEN4_DEC, a dword each.
    pub const GENERIC_DECODE: u16 = 0x84;
    /// GEN_PMCON_1 and 2, words.
    pub const GEN_PMCON_1: u16 = 0xa0;
    /// GEN_PMCON_3, byte.
    pub const GEN_PMCON_3: u16 = 0xa4;
    /// FWH_SEL1, dword.
    pub const FWH_SEL_1: u16 = 0xd0;
    /// FWH_SEL2, word.
    pub const FWH_SEL_2: u16 = 0xd4;
    /// FWH_DEC_EN1, word.
    pub const FWH_DEC_EN: u16 = 0xd8;
    /// BIOS_CNTL, byte.
    pub const BIOS_CNTL: u16 = 0xdc;
    /// RCBA, dword: root complex base address.
    pub const RCBA: u16 = 0xf0;
}

/// Registers that only remember what firmware wrote: offset, value at reset, writable bits.
pub const REMEMBERED: [(u16, u32, u32); 17] = [
    // No GPIO block: the base is hardwired to zero, an I/O base.
    (offset::GPIOBASE, 0x0000_0001, 0),
    (offset::SIRQ_CNTL, 0x0000_0010, 0x0000_00c3),
    (offset::LPC_IBDF, 0x0000_00f8, 0x0000_ffff),
    (offset::LPC_HPET_BDF, 0x00f8_00f8, 0xffff_ffff),
    (offset::LPC_HPET_BDF + 4, 0x00f8_00f8, 0xffff_ffff),
    (offset::LPC_HPET_BDF + 8, 0x00f8_00f8, 0xffff_ffff),
    (offset::LPC_HPET_BDF + 12, 0x00f8_00f8, 0xffff_ffff),
    (offset::LPC_IO_DEC, 0x0000_0000, 0x3f0f_1377),
    (offset::GENERIC_DECODE, 0, 0x00fc_fffd),
    (offset::GENERIC_DECODE + 4, 0, 0x00fc_fffd),
    (offset::GENERIC_DECODE + 8, 0, 0x00fc_fffd),
    (offset::GENERIC_DECODE + 12, 0, 0x00fc_fffd),
    // The power button is not held; there is no SMM whose enables could be locked.
    (offset::GEN_PMCON_1, 0x0000_0200, 0x0000_0423),
    (offset::GEN_PMCON_3, 0, 0x0000_0039),
    (offset::FWH_SEL_1, 0x0011_2233, 0xffff_ffff),
    (offset::FWH_SEL_2, 0x0000_4567, 0x0000_ffff),
    (offset::FWH_DEC_EN, 0x0000_ffcf, 0x0000_7fff),
];

bitfield! {
    /// PMBASE (§13.1.13).
    #[derive(Clone, Copy)]
    pub struct PmBase(pub u32);
    impl Debug;
    /// Base in units of 128 ports.
    pub u16, base, _: 15, 7;
}

impl PmBase {
    /// Bits that software writes.
    pub const WRITABLE: u32 = 0xff80;
}

bitfield! {
    /// ACPI_CNTL (§13.1.14). SCI_IRQ_SEL is hardwired to IRQ 9.
    #[derive(Clone, Copy)]
    pub struct AcpiControl(pub u8);
    impl Debug;
    /// PMBASE is decoded.
    pub enable, _: 7;
}

impl AcpiControl {
    /// Bits that software writes.
    pub const WRITABLE: u32 = 0x80;
}

bitfield! {
    /// PIRQx_ROUT (§13.1.17).
    #[derive(Clone, Copy)]
    pub struct PirqRoute(pub u8);
    impl Debug;
    /// The 8259 input.
    pub u8, irq, _: 3, 0;
    /// Not routed to the 8259.
    pub disabled, _: 7;
}

impl PirqRoute {
    /// Four of them at reset: not routed.
    pub const RESET: u32 = 0x8080_8080;
    /// Bits that software writes of four.
    pub const WRITABLE: u32 = 0x8f8f_8f8f;

    /// The 8259 input, where there is one that a PIRQ can take: not those of the timer,
    /// keyboard, cascade, RTC and FPU.
    pub fn target(self) -> Option<u8> {
        (!self.disabled() && !matches!(self.irq(), 0..=2 | 8 | 13)).then(|| self.irq())
    }
}

bitfield! {
    /// RCBA.
    #[derive(Clone, Copy)]
    pub struct RootComplexBase(pub u32);
    impl Debug;
    /// Decoded.
    pub enable, _: 0;
    /// Base in units of 16 KiB.
    pub u32, base, _: 31, 14;
}

impl RootComplexBase {
    /// Bits that software writes.
    pub const WRITABLE: u32 = 0xffff_c001;
}

/// The dwords of the root complex register block that are not zero (§10.1), all hardwired.
pub const ROOT_COMPLEX: [(u64, u32); 6] = [
    // D31IR and D30IR, D29IR and D28IR, D27IR, D26IR, D25IR: INTA# to PIRQA# and so on.
    (0x3140, 0x0000_3210),
    (0x3144, 0x3210_3210),
    (0x3148, 0x0000_3210),
    (0x314c, 0x0000_3210),
    (0x3150, 0x0000_3210),
    // GCS: boot from LPC, and NO_REBOOT strapped, as there is no TCO watchdog.
    (0x3410, 0x0000_0c20),
];
