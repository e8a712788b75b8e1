//! The registers of an IDE channel, and the opcodes written to it: spec, no behaviour.
//!
//! ATA/ATAPI-7 (INCITS 397) volumes 1 and 2, ACS-2 for what came later, *Programming
//! Interface for Bus Master IDE Controller* rev. 1.0 (BMIDE), and the 82371SB (PIIX3)
//! datasheet.

use bitfield::bitfield;

/// Offsets in the command block (ATA/ATAPI-7 vol. 2 §5).
pub mod command_block {
    /// Data, 16 or 32 bits wide.
    pub const DATA: u64 = 0;
    /// Error when read, Features when written.
    pub const ERROR_FEATURES: u64 = 1;
    /// Sector Count; Interrupt Reason of a packet device.
    pub const COUNT: u64 = 2;
    /// LBA bits 7:0, sector number.
    pub const LBA_LOW: u64 = 3;
    /// LBA bits 15:8, cylinder low; byte count low of a packet device.
    pub const LBA_MID: u64 = 4;
    /// LBA bits 23:16, cylinder high; byte count high of a packet device.
    pub const LBA_HIGH: u64 = 5;
    /// Device/Head.
    pub const DEVICE: u64 = 6;
    /// Status when read, Command when written.
    pub const STATUS_COMMAND: u64 = 7;
}

/// Offsets within a channel's eight bus master registers (BMIDE §2).
pub mod bus_master_block {
    /// Command.
    pub const COMMAND: u64 = 0;
    /// Status.
    pub const STATUS: u64 = 2;
    /// Descriptor table pointer, four bytes.
    pub const TABLE: u64 = 4;
    /// Bytes for each channel.
    pub const LENGTH: u64 = 8;
}

bitfield! {
    /// Status (ATA/ATAPI-7 vol. 1 §5.14).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct Status(pub u8);
    impl Debug;
    /// BSY: the device has the registers.
    pub busy, set_busy: 7;
    /// DRDY: takes commands.
    pub ready, set_ready: 6;
    /// DF: device fault.
    pub fault, set_fault: 5;
    /// DSC (or SERV): seek complete.
    pub seek_complete, set_seek_complete: 4;
    /// DRQ: wants data moved through the data register.
    pub data_request, set_data_request: 3;
    /// ERR (CHK of a packet device): see the Error register.
    pub error, set_error: 0;
}

bitfield! {
    /// Error (ATA/ATAPI-7 vol. 1 §5.9).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct ErrorBits(pub u8);
    impl Debug;
    /// UNC: data could not be read.
    pub uncorrectable, set_uncorrectable: 6;
    /// IDNF: no such address.
    pub not_found, set_not_found: 4;
    /// ABRT: command aborted.
    pub aborted, set_aborted: 2;
}

impl ErrorBits {
    /// ABRT.
    pub const ABORTED: Self = Self(1 << 2);
    /// IDNF.
    pub const NOT_FOUND: Self = Self(1 << 4);
    /// UNC.
    pub const UNCORRECTABLE: Self = Self(1 << 6);
}

bitfield! {
    /// Device (ATA/ATAPI-7 vol. 1 §5.7). Bits 7 and 5 are obsolete and read as ones.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct Device(pub u8);
    impl Debug;
    /// LBA mode; CHS when clear.
    pub lba, _: 6;
    /// DEV: device 1 is selected.
    pub second, _: 4;
    /// LBA bits 27:24, or the head.
    pub head, set_head: 3, 0;
}

bitfield! {
    /// Device Control (ATA/ATAPI-7 vol. 1 §5.8).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct DeviceControl(pub u8);
    impl Debug;
    /// HOB: reads show what was written before the last write.
    pub high_order, set_high_order: 7;
    /// SRST: software reset.
    pub reset, _: 2;
    /// nIEN: INTRQ is not driven.
    pub interrupts_off, _: 1;
}

bitfield! {
    /// Interrupt Reason, the Sector Count register of a packet device (ATA/ATAPI-7 vol. 2 §5).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct InterruptReason(pub u8);
    impl Debug;
    /// I/O: towards the host.
    pub to_host, set_to_host: 1;
    /// C/D: a command packet or status, not data.
    pub command, set_command: 0;
}

bitfield! {
    /// Bus Master IDE Command (BMIDE §2.1).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct BusMasterCommand(pub u8);
    impl Debug;
    /// Direction: set to write memory (a disk read).
    pub to_memory, _: 3;
    /// Start; clearing it stops.
    pub start, _: 0;
}

impl BusMasterCommand {
    /// The bits that are there.
    pub const MASK: u8 = 0x09;
}

bitfield! {
    /// Bus Master IDE Status (BMIDE §2.2).
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct BusMasterStatus(pub u8);
    impl Debug;
    /// Simplex only: never set here, both channels work at once.
    pub simplex, _: 7;
    /// Software says drive 1 may use DMA; so does bit 5 for drive 0. Means nothing to us.
    pub drive_1_capable, _: 6;
    /// See above.
    pub drive_0_capable, _: 5;
    /// INTRQ was asserted; write one to clear.
    pub interrupt, set_interrupt: 2;
    /// Memory could not be reached; write one to clear.
    pub error, set_error: 1;
    /// A transfer is under way.
    pub active, set_active: 0;
}

impl BusMasterStatus {
    /// Bits that take what is written.
    pub const PLAIN: u8 = 0x60;
    /// Bits that a one clears.
    pub const CLEARED_BY_ONE: u8 = 0x06;
}

/// Registers in the function's config space (82371SB §2.3).
pub mod config {
    /// IDETIM of both channels, 16 bits each at 0x40 and 0x42.
    pub const IDE_TIMING: u16 = 0x40;
    /// IDE Decode Enable, bit 15 of a channel's IDETIM.
    pub const DECODE_ENABLE: u16 = 1 << 15;
    /// SIDETIM: timing of the second drives.
    pub const SECOND_DRIVE_TIMING: u16 = 0x44;
    /// UDMACTL at 0x48 and UDMATIM at 0x4a, which the 82371AB added.
    pub const ULTRA_DMA: u16 = 0x48;
}

/// Command opcodes (ATA/ATAPI-7 vol. 1 §6, annex on command codes; ACS-2 §7).
pub mod opcode {
    #![allow(missing_docs)]
    pub const NOP: u8 = 0x00;
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    pub const DEVICE_RESET: u8 = 0x08;
    pub const RECALIBRATE_FIRST: u8 = 0x10;
    pub const RECALIBRATE_LAST: u8 = 0x1f;
    pub const READ_SECTORS: u8 = 0x20;
    pub const READ_SECTORS_ONCE: u8 = 0x21;
    pub const READ_SECTORS_EXT: u8 = 0x24;
    pub const READ_DMA_EXT: u8 = 0x25;
    pub const READ_NATIVE_MAX_EXT: u8 = 0x27;
    pub const READ_MULTIPLE_EXT: u8 = 0x29;
    pub const WRITE_SECTORS: u8 = 0x30;
    pub const WRITE_SECTORS_ONCE: u8 = 0x31;
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    pub const WRITE_DMA_EXT: u8 = 0x35;
    pub const WRITE_MULTIPLE_EXT: u8 = 0x39;
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    pub const READ_VERIFY: u8 = 0x40;
    pub const READ_VERIFY_ONCE: u8 = 0x41;
    pub const READ_VERIFY_EXT: u8 = 0x42;
    pub const SEEK_FIRST: u8 = 0x70;
    pub const SEEK_LAST: u8 = 0x7f;
    pub const EXECUTE_DEVICE_DIAGNOSTIC: u8 = 0x90;
    pub const INITIALIZE_DEVICE_PARAMETERS: u8 = 0x91;
    pub const STANDBY_IMMEDIATE_OLD: u8 = 0x94;
    pub const IDLE_IMMEDIATE_OLD: u8 = 0x95;
    pub const STANDBY_OLD: u8 = 0x96;
    pub const IDLE_OLD: u8 = 0x97;
    pub const CHECK_POWER_MODE_OLD: u8 = 0x98;
    pub const SLEEP_OLD: u8 = 0x99;
    pub const PACKET: u8 = 0xa0;
    pub const IDENTIFY_PACKET_DEVICE: u8 = 0xa1;
    pub const READ_MULTIPLE: u8 = 0xc4;
    pub const WRITE_MULTIPLE: u8 = 0xc5;
    pub const SET_MULTIPLE_MODE: u8 = 0xc6;
    pub const READ_DMA: u8 = 0xc8;
    pub const READ_DMA_ONCE: u8 = 0xc9;
    pub const WRITE_DMA: u8 = 0xca;
    pub const WRITE_DMA_ONCE: u8 = 0xcb;
    pub const WRITE_MULTIPLE_FUA_EXT: u8 = 0xce;
    pub const STANDBY_IMMEDIATE: u8 = 0xe0;
    pub const IDLE_IMMEDIATE: u8 = 0xe1;
    pub const STANDBY: u8 = 0xe2;
    pub const IDLE: u8 = 0xe3;
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    pub const SLEEP: u8 = 0xe6;
    pub const FLUSH_CACHE: u8 = 0xe7;
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    pub const IDENTIFY_DEVICE: u8 = 0xec;
    pub const SET_FEATURES: u8 = 0xef;
    pub const READ_NATIVE_MAX: u8 = 0xf8;
}

/// Subcommands of SET FEATURES (ATA/ATAPI-7 vol. 1 §6.50).
pub mod feature {
    #![allow(missing_docs)]
    pub const ENABLE_WRITE_CACHE: u8 = 0x02;
    pub const SET_TRANSFER_MODE: u8 = 0x03;
    pub const DISABLE_READ_LOOK_AHEAD: u8 = 0x55;
    pub const KEEP_OVER_SOFT_RESET: u8 = 0x66;
    pub const DISABLE_WRITE_CACHE: u8 = 0x82;
    pub const ENABLE_READ_LOOK_AHEAD: u8 = 0xaa;
    pub const REVERT_AT_SOFT_RESET: u8 = 0xcc;
}
