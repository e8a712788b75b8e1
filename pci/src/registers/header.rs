//! The common header (PCIe 6.0 §7.5.1), and power management (§7.5.2).

use bitfield::bitfield;

bitfield! {
    /// Command register (§7.5.1.1.3).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct Command(pub u16);
    impl Debug;
    /// I/O Space Enable.
    pub io_space, set_io_space: 0;
    /// Memory Space Enable.
    pub memory_space, set_memory_space: 1;
    /// Bus Master Enable.
    pub bus_master, set_bus_master: 2;
    /// Parity Error Response.
    pub parity_error_response, set_parity_error_response: 6;
    /// SERR# Enable.
    pub serr, set_serr: 8;
    /// Interrupt Disable: the function must not assert INTx.
    pub interrupt_disable, set_interrupt_disable: 10;
}

impl Command {
    /// The bits that software can write in most functions.
    pub const WRITABLE: Self = Self(0x0547);
}

bitfield! {
    /// Status register (§7.5.1.1.4).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct Status(pub u16);
    impl Debug;
    /// Interrupt Status: an INTx interrupt is pending, sent or not.
    pub interrupt, set_interrupt: 3;
    /// Capabilities List: offset 34h points to one.
    pub capabilities, set_capabilities: 4;
    /// Master Data Parity Error.
    pub master_data_parity_error, set_master_data_parity_error: 8;
    /// Signaled Target Abort.
    pub signaled_target_abort, set_signaled_target_abort: 11;
    /// Received Target Abort.
    pub received_target_abort, set_received_target_abort: 12;
    /// Received Master Abort.
    pub received_master_abort, set_received_master_abort: 13;
    /// Signaled System Error.
    pub signaled_system_error, set_signaled_system_error: 14;
    /// Detected Parity Error.
    pub detected_parity_error, set_detected_parity_error: 15;
}

impl Status {
    /// The error bits, cleared by writing ones.
    pub const CLEARABLE: Self = Self(0xf900);
}

bitfield! {
    /// Bridge Control register (§7.5.1.3.13).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct BridgeControl(pub u16);
    impl Debug;
    /// Parity Error Response Enable.
    pub parity_error_response, set_parity_error_response: 0;
    /// SERR# Enable.
    pub serr, set_serr: 1;
    /// ISA Enable: of each KiB of I/O only the first 256 bytes are forwarded.
    pub isa, set_isa: 2;
    /// VGA Enable: the legacy VGA ranges are forwarded.
    pub vga, set_vga: 3;
    /// VGA 16-bit Decode: no aliases of the VGA ports at every KiB.
    pub vga_16bit, set_vga_16bit: 4;
    /// Secondary Bus Reset: a hot reset is held on the bus behind.
    pub secondary_bus_reset, set_secondary_bus_reset: 6;
}

bitfield! {
    /// Power Management Control/Status register (§7.5.2.2).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct PowerControl(pub u16);
    impl Debug;
    /// PowerState: 0 is D0, 3 is D3hot.
    pub u8, power_state, set_power_state: 1, 0;
    /// No_Soft_Reset: D3hot to D0 keeps the function's state.
    pub no_soft_reset, set_no_soft_reset: 3;
    /// PME_En.
    pub pme_enable, set_pme_enable: 8;
    /// PME_Status.
    pub pme_status, set_pme_status: 15;
}
