//! VT-d 4.1 §11.4.7 and §11.4.9: the control register of the unit's own interrupts.

use bitfield::bitfield;

bitfield! {
    /// FECTL and IECTL.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct EventControl(pub u32);
    impl Debug;
    /// IP: the message waits for IM to be cleared.
    pub pending, set_pending: 30;
    /// IM: no message is sent.
    pub masked, set_masked: 31;
}

impl EventControl {
    /// Masked, nothing pending.
    pub const RESET: Self = Self(1 << 31);
}
