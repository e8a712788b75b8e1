//! VT-d 4.1 §11.4.9: the invalidation queue.

use bitfield::bitfield;

bitfield! {
    /// IQA.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct QueueAddress(pub u64);
    impl Debug;
    u8, qs, _: 2, 0;
    /// DW: descriptors are 256 bits.
    pub wide, set_wide: 11;
}

impl QueueAddress {
    /// IQA, DW and QS, the bits software may write.
    pub const WRITABLE: u64 = !0x7f8;

    /// IQA: where the queue is.
    pub fn address(self) -> u64 {
        self.0 & !0xfff
    }

    /// Bytes of the queue: QS is the power of two of 4 KiB pages.
    pub fn size(self) -> u64 {
        0x1000 << self.qs()
    }

    /// Bytes of a descriptor.
    pub fn stride(self) -> u64 {
        if self.wide() { 32 } else { 16 }
    }
}

/// IQH and IQT: byte offsets into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QueuePointer(pub u64);

impl QueuePointer {
    /// QT, the bits software may write.
    pub const WRITABLE: u64 = 0x7_fff0;
}

/// IQERCD.IQEI: why the queue stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum QueueError {
    /// The tail is past the end of the queue.
    InvalidTail = 1,
    /// The descriptor could not be read.
    Fetch = 2,
    /// No such descriptor.
    InvalidType = 3,
    /// A reserved field is set, or a field has a reserved value.
    Reserved = 4,
    /// 256-bit descriptors where there are none.
    InvalidWidth = 5,
    /// The tail is not a multiple of a 256-bit descriptor's length.
    MisalignedTail = 6,
}

bitfield! {
    /// IQERCD, without who did not answer (ITESID, ICESID): nobody is asked.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct QueueErrorRecord(pub u64);
    impl Debug;
    /// IQEI.
    pub u8, info, set_info: 3, 0;
}
