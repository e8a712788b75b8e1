//! National PC16550D data sheet, §8: registers.

use bitfield::bitfield;

/// Offsets of the registers from the base port.
pub mod offset {
    /// Receiver buffer (read), transmitter holding (write); divisor low with DLAB.
    pub const DATA: u16 = 0;
    /// Interrupt enable; divisor high with DLAB.
    pub const IER: u16 = 1;
    /// Interrupt identification (read), FIFO control (write).
    pub const IIR_FCR: u16 = 2;
    /// Line control.
    pub const LCR: u16 = 3;
    /// Modem control.
    pub const MCR: u16 = 4;
    /// Line status.
    pub const LSR: u16 = 5;
    /// Modem status.
    pub const MSR: u16 = 6;
    /// Scratch.
    pub const SCR: u16 = 7;
}

bitfield! {
    /// Interrupt enable register (§8.6).
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    pub struct InterruptEnable(pub u8);
    impl Debug;
    /// Received data, and the FIFO's timeout.
    pub received, _: 0;
    /// Transmitter holding register empty.
    pub transmitter_empty, _: 1;
    /// Receiver line status.
    pub line_status, _: 2;
    /// Modem status.
    pub modem_status, _: 3;
}

/// Interrupt identification (§8.5, table IV), highest priority first.
pub mod cause {
    /// Receiver line status.
    pub const LINE_STATUS: u8 = 0x06;
    /// Received data available.
    pub const RECEIVED: u8 = 0x04;
    /// Characters wait below the trigger level and none has come for a while.
    pub const TIMEOUT: u8 = 0x0c;
    /// Transmitter holding register empty.
    pub const TRANSMITTER_EMPTY: u8 = 0x02;
    /// Modem status.
    pub const MODEM_STATUS: u8 = 0x00;
    /// No interrupt pending.
    pub const NONE: u8 = 0x01;
    /// FIFOs are on.
    pub const FIFOS: u8 = 0xc0;
}

bitfield! {
    /// FIFO control register (§8.4).
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    pub struct FifoControl(pub u8);
    impl Debug;
    /// FIFOs on.
    pub enable, _: 0;
    /// Empty the receiver's.
    pub reset_receiver, _: 1;
    /// Empty the transmitter's.
    pub reset_transmitter, _: 2;
    /// Trigger level of the receiver's.
    pub trigger, _: 7, 6;
}

impl FifoControl {
    /// How many characters make a received-data interrupt.
    pub fn trigger_level(self) -> usize {
        match self.trigger() {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }
}

bitfield! {
    /// Line control register (§8.1).
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    pub struct LineControl(pub u8);
    impl Debug;
    /// Divisor latch access.
    pub divisor_latch, _: 7;
}

bitfield! {
    /// Modem control register (§8.7).
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    pub struct ModemControl(pub u8);
    impl Debug;
    /// Data terminal ready.
    pub dtr, _: 0;
    /// Request to send.
    pub rts, _: 1;
    /// First user output.
    pub out1, _: 2;
    /// Second user output; on a PC it gates the interrupt.
    pub out2, _: 3;
    /// Loop the transmitter into the receiver.
    pub loopback, _: 4;
}

bitfield! {
    /// Line status register (§8.3).
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    pub struct LineStatus(pub u8);
    impl Debug;
    /// A character waits.
    pub data_ready, set_data_ready: 0;
    /// One was lost.
    pub overrun, set_overrun: 1;
    /// The line was held low for a whole character.
    pub break_interrupt, set_break_interrupt: 4;
    /// The transmitter takes a character, or with FIFOs sixteen.
    pub transmitter_empty, set_transmitter_empty: 5;
    /// And has sent all it had.
    pub transmitter_idle, set_transmitter_idle: 6;
}

bitfield! {
    /// Modem status register (§8.8).
    #[derive(Clone, Copy, Default, PartialEq, Eq)]
    pub struct ModemStatus(pub u8);
    impl Debug;
    /// Ring indicator went off.
    pub trailing_ring, set_trailing_ring: 2;
    /// Changes of CTS, DSR, (trailing) RI and DCD since the last read.
    pub u8, changes, set_changes: 3, 0;
    /// Clear to send.
    pub cts, set_cts: 4;
    /// Data set ready.
    pub dsr, set_dsr: 5;
    /// Ring indicator.
    pub ri, set_ri: 6;
    /// Carrier detect.
    pub dcd, set_dcd: 7;
    /// CTS, DSR, RI and DCD.
    pub u8, lines, set_lines: 7, 4;
}
