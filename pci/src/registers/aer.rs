//! Advanced Error Reporting, as far as a root port signals errors (PCIe 6.0 §7.8.4).

use bitfield::bitfield;

bitfield! {
    /// The uncorrectable errors: their status, mask and severity registers are alike
    /// (§7.8.4.2 to §7.8.4.4).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct UncorrectableErrors(pub u32);
    impl Debug;
    /// Data Link Protocol Error.
    pub data_link_protocol, set_data_link_protocol: 4;
    /// Surprise Down Error.
    pub surprise_down, set_surprise_down: 5;
}

bitfield! {
    /// Root Error Command (§7.8.4.9).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct RootErrorCommand(pub u32);
    impl Debug;
    /// Correctable Error Reporting Enable.
    pub correctable, set_correctable: 0;
    /// Non-Fatal Error Reporting Enable.
    pub non_fatal, set_non_fatal: 1;
    /// Fatal Error Reporting Enable.
    pub fatal, set_fatal: 2;
}

bitfield! {
    /// Root Error Status (§7.8.4.10).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct RootErrorStatus(pub u32);
    impl Debug;
    /// ERR_COR Received.
    pub correctable, set_correctable: 0;
    /// ERR_FATAL/NONFATAL Received.
    pub uncorrectable, set_uncorrectable: 2;
    /// Multiple ERR_FATAL/NONFATAL Received.
    pub multiple_uncorrectable, set_multiple_uncorrectable: 3;
    /// First Uncorrectable Fatal.
    pub first_fatal, set_first_fatal: 4;
    /// Non-Fatal Error Messages Received.
    pub non_fatal, set_non_fatal: 5;
    /// Fatal Error Messages Received.
    pub fatal, set_fatal: 6;
}
