//! Resource descriptors that the table crate has not (ACPI 6.5 §6.4).

use acpi_tables::{Aml, AmlSink};

/// An ISA interrupt: IRQ descriptor without flags, edge triggered and active high
/// (§6.4.2.1).
pub struct IsaIrq(pub u8);

impl Aml for IsaIrq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1u16.checked_shl(self.0.into()).unwrap_or(0));
    }
}

/// One of several level-triggered, active-high, shared interrupts: extended interrupt
/// descriptor (§6.4.3.6).
pub struct SharedIrqs<'a>(pub &'a [u32]);

impl SharedIrqs<'_> {
    /// Where in the descriptor the first interrupt number is.
    pub const FIRST: u8 = 5;
    const CONSUMER: u8 = 1 << 0;
    const SHARED: u8 = 1 << 3;
}

impl Aml for SharedIrqs<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x89);
        sink.word(2 + 4 * self.0.len() as u16);
        sink.byte(Self::CONSUMER | Self::SHARED);
        sink.byte(self.0.len() as u8);
        for &irq in self.0 {
            sink.dword(irq);
        }
    }
}
