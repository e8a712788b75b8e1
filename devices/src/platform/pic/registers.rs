//! 8259A data sheet, "Programming the 8259A", and ICH9 §13.4: command words.

use bitfield::bitfield;

bitfield! {
    /// Initialization command word 1 (port A0 = 0, bit 4 set).
    #[derive(Clone, Copy)]
    pub struct Icw1(pub u8);
    impl Debug;
    /// ICW4 will follow.
    pub icw4_follows, _: 0;
    /// No slaves, hence no ICW3.
    pub single, _: 1;
    /// Marks an ICW1.
    pub is_icw1, _: 4;
}

bitfield! {
    /// Initialization command word 4.
    #[derive(Clone, Copy)]
    pub struct Icw4(pub u8);
    impl Debug;
    /// Automatic end of interrupt.
    pub auto_eoi, _: 1;
    /// Special fully nested mode.
    pub special_fully_nested, _: 4;
}

bitfield! {
    /// Operation command word 2 (A0 = 0, bits 4:3 = 00).
    #[derive(Clone, Copy)]
    pub struct Ocw2(pub u8);
    impl Debug;
    /// The level it acts upon.
    pub level, _: 2, 0;
    /// What to do: see [`command`].
    pub command, _: 7, 5;
}

/// Commands of [`Ocw2`].
pub mod command {
    /// Stop rotating in automatic EOI mode.
    pub const CLEAR_ROTATE_ON_AUTO_EOI: u8 = 0;
    /// End the highest-priority interrupt in service.
    pub const EOI: u8 = 1;
    /// End the one named.
    pub const SPECIFIC_EOI: u8 = 3;
    /// Rotate in automatic EOI mode.
    pub const SET_ROTATE_ON_AUTO_EOI: u8 = 4;
    /// EOI, and what was ended gets the lowest priority.
    pub const ROTATE_ON_EOI: u8 = 5;
    /// Gives the lowest priority to the one named.
    pub const SET_PRIORITY: u8 = 6;
    /// Specific EOI, and what was ended gets the lowest priority.
    pub const ROTATE_ON_SPECIFIC_EOI: u8 = 7;
}

bitfield! {
    /// Operation command word 3 (A0 = 0, bits 4:3 = 01).
    #[derive(Clone, Copy)]
    pub struct Ocw3(pub u8);
    impl Debug;
    /// With `select`: reads of A0 = 0 give ISR, else IRR.
    pub read_in_service, _: 0;
    /// `read_in_service` counts.
    pub select, _: 1;
    /// The next read polls.
    pub poll, _: 2;
    /// Marks an OCW3.
    pub is_ocw3, _: 3;
    /// With `enable_special_mask`: the special mask mode.
    pub special_mask, _: 5;
    /// `special_mask` counts.
    pub enable_special_mask, _: 6;
}
