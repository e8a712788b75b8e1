//! MSI and MSI-X (PCIe 6.0 §7.7.1, §7.7.2).

use bitfield::bitfield;

bitfield! {
    /// MSI Message Control (§7.7.1.2).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct MsiControl(pub u16);
    impl Debug;
    /// MSI Enable.
    pub enable, set_enable: 0;
    /// Multiple Message Capable: log2 of the vectors wanted.
    pub u8, multiple_capable, set_multiple_capable: 3, 1;
    /// Multiple Message Enable: log2 of the vectors given.
    pub u8, multiple_enable, set_multiple_enable: 6, 4;
    /// 64-bit Address Capable.
    pub wide, set_wide: 7;
    /// Per-Vector Masking Capable.
    pub maskable, set_maskable: 8;
}

bitfield! {
    /// MSI-X Message Control (§7.7.2.2).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct MsixControl(pub u16);
    impl Debug;
    /// Table Size: the number of vectors less one.
    pub u16, table_size, set_table_size: 10, 0;
    /// Function Mask.
    pub function_mask, set_function_mask: 14;
    /// MSI-X Enable.
    pub enable, set_enable: 15;
}

bitfield! {
    /// Vector Control of an MSI-X table entry (§7.7.2.8).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct VectorControl(pub u32);
    impl Debug;
    /// Mask Bit.
    pub mask, set_mask: 0;
}
