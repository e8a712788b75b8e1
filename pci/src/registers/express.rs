//! The PCI Express capability (PCIe 6.0 §7.5.3).

use bitfield::bitfield;

bitfield! {
    /// PCI Express Capabilities (§7.5.3.2).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct ExpressCapabilities(pub u16);
    impl Debug;
    /// Capability Version.
    pub u8, version, set_version: 3, 0;
    /// Device/Port Type.
    pub u8, port_type, set_port_type: 7, 4;
    /// Slot Implemented.
    pub slot, set_slot: 8;
    /// Interrupt Message Number.
    pub u8, interrupt_message, set_interrupt_message: 13, 9;
}

bitfield! {
    /// Device Capabilities (§7.5.3.3).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct DeviceCapabilities(pub u32);
    impl Debug;
    /// Max_Payload_Size Supported: 0 is 128 bytes, each step doubles.
    pub u8, max_payload, set_max_payload: 2, 0;
    /// Extended Tag Field Supported.
    pub extended_tag, set_extended_tag: 5;
    /// Role-Based Error Reporting.
    pub role_based_errors, set_role_based_errors: 15;
    /// Function Level Reset Capability.
    pub function_level_reset, set_function_level_reset: 28;
}

bitfield! {
    /// Device Control (§7.5.3.4).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct DeviceControl(pub u16);
    impl Debug;
    /// Non-Fatal Error Reporting Enable.
    pub non_fatal_reporting, set_non_fatal_reporting: 1;
    /// Fatal Error Reporting Enable.
    pub fatal_reporting, set_fatal_reporting: 2;
    /// Enable Relaxed Ordering.
    pub relaxed_ordering, set_relaxed_ordering: 4;
    /// Max_Payload_Size.
    pub u8, max_payload, set_max_payload: 7, 5;
    /// Extended Tag Field Enable.
    pub extended_tag, set_extended_tag: 8;
    /// Enable No Snoop.
    pub no_snoop, set_no_snoop: 11;
    /// Max_Read_Request_Size.
    pub u8, max_read_request, set_max_read_request: 14, 12;
    /// Initiate Function Level Reset; reads as zero.
    pub initiate_reset, set_initiate_reset: 15;
}

bitfield! {
    /// Link Capabilities (§7.5.3.6).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct LinkCapabilities(pub u32);
    impl Debug;
    /// Max Link Speed: 1 is 2.5 GT/s, 2 is 5, 3 is 8, 4 is 16.
    pub u8, speed, set_speed: 3, 0;
    /// Maximum Link Width in lanes.
    pub u8, width, set_width: 9, 4;
    /// Data Link Layer Link Active Reporting Capable.
    pub active_reporting, set_active_reporting: 20;
    /// ASPM Optionality Compliance.
    pub aspm_optional, set_aspm_optional: 22;
    /// Port Number.
    pub u8, port_number, set_port_number: 31, 24;
}

bitfield! {
    /// Link Status (§7.5.3.8).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct LinkStatus(pub u16);
    impl Debug;
    /// Current Link Speed.
    pub u8, speed, set_speed: 3, 0;
    /// Negotiated Link Width.
    pub u8, width, set_width: 9, 4;
    /// Slot Clock Configuration.
    pub slot_clock, set_slot_clock: 12;
    /// Data Link Layer Link Active.
    pub active, set_active: 13;
}

bitfield! {
    /// Slot Capabilities (§7.5.3.9).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct SlotCapabilities(pub u32);
    impl Debug;
    /// Attention Button Present.
    pub attention_button, set_attention_button: 0;
    /// Power Controller Present.
    pub power_controller, set_power_controller: 1;
    /// Attention Indicator Present.
    pub attention_indicator, set_attention_indicator: 3;
    /// Power Indicator Present.
    pub power_indicator, set_power_indicator: 4;
    /// Hot-Plug Surprise: what is in the slot may go without notice.
    pub surprise, set_surprise: 5;
    /// Hot-Plug Capable.
    pub hot_plug, set_hot_plug: 6;
    /// Physical Slot Number.
    pub u16, number, set_number: 31, 19;
}

bitfield! {
    /// Slot Control (§7.5.3.10).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct SlotControl(pub u16);
    impl Debug;
    /// Attention Button Pressed Enable.
    pub attention_pressed_enable, set_attention_pressed_enable: 0;
    /// Presence Detect Changed Enable.
    pub presence_changed_enable, set_presence_changed_enable: 3;
    /// Command Completed Interrupt Enable.
    pub command_completed_enable, set_command_completed_enable: 4;
    /// Hot-Plug Interrupt Enable.
    pub hot_plug_interrupt, set_hot_plug_interrupt: 5;
    /// Attention Indicator Control: 1 is on, 2 blinking, 3 off.
    pub u8, attention_indicator, set_attention_indicator: 7, 6;
    /// Power Indicator Control: 1 is on, 2 blinking, 3 off.
    pub u8, power_indicator, set_power_indicator: 9, 8;
    /// Power Controller Control: set is power off.
    pub power_off, set_power_off: 10;
    /// Data Link Layer State Changed Enable.
    pub link_changed_enable, set_link_changed_enable: 12;
}

bitfield! {
    /// Slot Status (§7.5.3.11).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct SlotStatus(pub u16);
    impl Debug;
    /// Attention Button Pressed.
    pub attention_pressed, set_attention_pressed: 0;
    /// Presence Detect Changed.
    pub presence_changed, set_presence_changed: 3;
    /// Command Completed.
    pub command_completed, set_command_completed: 4;
    /// Presence Detect State: the slot is occupied.
    pub presence, set_presence: 6;
    /// Data Link Layer State Changed.
    pub link_changed, set_link_changed: 8;
}

bitfield! {
    /// Device Status (§7.5.3.5).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct DeviceStatus(pub u16);
    impl Debug;
    /// Non-Fatal Error Detected.
    pub non_fatal_error, set_non_fatal_error: 1;
    /// Fatal Error Detected.
    pub fatal_error, set_fatal_error: 2;
}

bitfield! {
    /// Device Control 2 (§7.5.3.16).
    #[derive(Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
    pub struct DeviceControl2(pub u16);
    impl Debug;
    /// Completion Timeout Value.
    pub u8, completion_timeout, set_completion_timeout: 3, 0;
    /// Completion Timeout Disable.
    pub completion_timeout_disable, set_completion_timeout_disable: 4;
    /// ARI Forwarding Enable.
    pub ari_forwarding, set_ari_forwarding: 5;
}
