//! PC/AT Technical Reference, 1984, "Keyboard Controller": its registers and commands.

use bitfield::bitfield;

bitfield! {
    /// Status register.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct Status(pub u8);
    impl Debug;
    /// The output buffer holds a byte for the processor.
    pub output_full, set_output_full: 0;
    /// The self test has passed.
    pub system, set_system: 2;
    /// The last write was to the command port.
    pub last_was_command, set_last_was_command: 3;
    /// The keyboard's lock is open.
    pub not_locked, set_not_locked: 4;
    /// The keyboard did not answer.
    pub timeout, set_timeout: 6;
}

bitfield! {
    /// Command byte: cell 0 of the controller's RAM.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub struct CommandByte(pub u8);
    impl Debug;
    /// A full output buffer raises IRQ 1.
    pub keyboard_interrupt, _: 0;
    /// Shown as the system flag of the status.
    pub system, set_system: 2;
    /// The keyboard's clock is held.
    pub keyboard_disabled, set_keyboard_disabled: 4;
    /// And the auxiliary device's.
    pub auxiliary_disabled, set_auxiliary_disabled: 5;
}

/// Commands to port 0x64.
pub mod command {
    /// Read a cell of RAM; the command's low five bits say which.
    pub const READ_RAM: u8 = 0x20;
    /// The last of them.
    pub const READ_RAM_LAST: u8 = 0x3f;
    /// Write a cell of RAM.
    pub const WRITE_RAM: u8 = 0x60;
    /// The last of them.
    pub const WRITE_RAM_LAST: u8 = 0x7f;
    /// Hold the auxiliary port.
    pub const DISABLE_AUXILIARY: u8 = 0xa7;
    /// Release it.
    pub const ENABLE_AUXILIARY: u8 = 0xa8;
    /// Test its lines.
    pub const TEST_AUXILIARY: u8 = 0xa9;
    /// Test the controller.
    pub const SELF_TEST: u8 = 0xaa;
    /// Test the keyboard port's lines.
    pub const TEST_KEYBOARD: u8 = 0xab;
    /// Hold the keyboard port.
    pub const DISABLE_KEYBOARD: u8 = 0xad;
    /// Release it.
    pub const ENABLE_KEYBOARD: u8 = 0xae;
    /// Read the input port.
    pub const READ_INPUT_PORT: u8 = 0xc0;
    /// Read the output port.
    pub const READ_OUTPUT_PORT: u8 = 0xd0;
    /// Write it.
    pub const WRITE_OUTPUT_PORT: u8 = 0xd1;
    /// Pretend that a byte came from the keyboard.
    pub const LOOP_KEYBOARD: u8 = 0xd2;
    /// Or from the auxiliary device.
    pub const LOOP_AUXILIARY: u8 = 0xd3;
    /// Send a byte to the auxiliary device.
    pub const WRITE_AUXILIARY: u8 = 0xd4;
    /// Force address line 20 low.
    pub const DISABLE_A20: u8 = 0xdd;
    /// Let go of it.
    pub const ENABLE_A20: u8 = 0xdf;
    /// Pulse lines of the output port; the low four bits spare theirs.
    pub const PULSE: u8 = 0xf0;
}

/// Output port at reset: not reset, A20, and the clock and data lines of the ports.
pub const OUTPUT_PORT: u8 = 0xcf;
/// Output port: low resets the processor.
pub const NOT_RESET: u8 = 1 << 0;
/// Output port: address line 20 is not forced low.
pub const A20: u8 = 1 << 1;
