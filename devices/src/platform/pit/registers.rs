//! Intel 8254 data sheet, "Programming the 8254", and ICH9 §13.3 and §13.7.1.

use bitfield::bitfield;

bitfield! {
    /// Control word.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct ControlWord(pub u8);
    impl Debug;
    /// Counts in BCD.
    pub bcd, _: 0;
    /// Mode as written; see [`ControlWord::mode`].
    pub raw_mode, _: 3, 1;
    /// Which bytes are read and written; 0 latches the count.
    pub access, _: 5, 4;
    /// Which counter; 3 reads back.
    pub counter, _: 7, 6;
}

impl ControlWord {
    /// Mode 0 to 5; for 2 and 3 the highest bit is "don't care".
    pub fn mode(self) -> u8 {
        match self.raw_mode() {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        }
    }
}

/// [`ControlWord::counter`] of the read-back command.
pub const READ_BACK: u8 = 3;

bitfield! {
    /// Read-back command.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct ReadBack(pub u8);
    impl Debug;
    /// Counters it is for, a bit each.
    pub counters, _: 3, 1;
    /// Clear: latch the status.
    pub no_status, _: 4;
    /// Clear: latch the count.
    pub no_count, _: 5;
}

bitfield! {
    /// Status byte of a counter. Bits 5:0 are those of its control word.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct CounterStatus(pub u8);
    impl Debug;
    /// The count written has not reached the counting element.
    pub null_count, set_null_count: 6;
    /// The output.
    pub output, set_output: 7;
}

bitfield! {
    /// NMI_SC, port 0x61 (ICH9 §13.7.1).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct SystemControlB(pub u8);
    impl Debug;
    /// Gate of counter 2.
    pub timer_2_gate, _: 0;
    /// Changes with every refresh.
    pub refresh_toggle, set_refresh_toggle: 4;
    /// Output of counter 2.
    pub timer_2_output, set_timer_2_output: 5;
}

impl SystemControlB {
    /// Bits that software writes: gate, speaker, and the NMI disables.
    pub const WRITABLE: u8 = 0x0f;
}
