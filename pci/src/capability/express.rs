//! The PCI Express capability, version 2 (PCIe 6.0 §7.5.3).
//!
//! Link training and payload sizes are told, not modelled: what the guest chooses is kept
//! and read back. Function-level reset is real.

use super::{Dword, Effect};
use crate::registers::{
    DeviceCapabilities, DeviceControl, DeviceControl2, ExpressCapabilities, LinkCapabilities,
    LinkStatus, SlotCapabilities, SlotControl, SlotStatus,
};
use crate::{ConfigWrite, Register};

/// Offsets in the capability.
pub(crate) mod offset {
    pub const DEVICE_CONTROL: u16 = 0x08;
    pub const DEVICE_STATUS: u16 = 0x0a;
    pub const LINK_CONTROL: u16 = 0x10;
    pub const LINK_STATUS: u16 = 0x12;
    pub const SLOT_CONTROL: u16 = 0x18;
    pub const SLOT_STATUS: u16 = 0x1a;
    pub const DEVICE_CONTROL_2: u16 = 0x28;
    pub const LINK_CONTROL_2: u16 = 0x30;
}

/// Indicator Control of a slot: on, and off (§7.5.3.10).
const INDICATOR_ON: u8 = 1;
const INDICATOR_OFF: u8 = 3;

/// Device/Port Type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum ExpressKind {
    /// PCI Express endpoint.
    Endpoint,
    /// Endpoint that may need I/O ports and INTx.
    LegacyEndpoint,
    /// Endpoint of the root complex, with no link.
    RootComplexEndpoint,
    /// Root port.
    RootPort,
}

/// A link's fastest speed and width.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Link {
    /// 1 is 2.5 GT/s, 2 is 5, 3 is 8, 4 is 16.
    pub speed: u8,
    /// Lanes.
    pub width: u8,
}

impl Link {
    /// Link Status of a port whose link is up.
    pub(crate) fn up(self) -> LinkStatus {
        let mut status = LinkStatus(0);
        status.set_speed(self.speed);
        status.set_width(self.width);
        status.set_slot_clock(true);
        status.set_active(true);
        status
    }
}

/// A slot behind a root port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Slot {
    /// Physical Slot Number.
    pub number: u16,
    /// Something is in it.
    pub occupied: bool,
    /// What is in it may come and go while the machine runs.
    pub hot_plug: bool,
}

/// The PCI Express capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Express {
    kind: ExpressKind,
    link: Link,
    slot: Option<Slot>,
    function_level_reset: bool,
}

impl Express {
    /// An endpoint with a 2.5 GT/s x1 link.
    pub fn endpoint() -> Self {
        Self::new(ExpressKind::Endpoint)
    }

    /// An endpoint with I/O ports or INTx, with a 2.5 GT/s x1 link.
    pub fn legacy_endpoint() -> Self {
        Self::new(ExpressKind::LegacyEndpoint)
    }

    /// An endpoint of the root complex: it sits on the root bus and has no link.
    pub fn root_complex_endpoint() -> Self {
        Self::new(ExpressKind::RootComplexEndpoint)
    }

    /// A root port over a slot, ARI-capable.
    pub fn root_port(slot: Slot) -> Self {
        Self {
            slot: Some(slot),
            ..Self::new(ExpressKind::RootPort)
        }
    }

    fn new(kind: ExpressKind) -> Self {
        Self {
            kind,
            link: Link { speed: 1, width: 1 },
            slot: None,
            function_level_reset: false,
        }
    }

    /// With this link.
    pub fn link(self, link: Link) -> Self {
        Self { link, ..self }
    }

    /// With function-level reset: a guest's order to reset comes back from a config write
    /// as [`crate::Changes::FUNCTION_RESET`].
    pub fn function_level_reset(self) -> Self {
        Self {
            function_level_reset: true,
            ..self
        }
    }

    fn is_port(self) -> bool {
        self.kind == ExpressKind::RootPort
    }

    fn has_link(self) -> bool {
        self.kind != ExpressKind::RootComplexEndpoint
    }

    pub(super) fn dwords(self) -> Vec<Dword> {
        let mut dwords = vec![self.capabilities(), self.device_capabilities()];
        dwords.push(device_control());
        dwords.extend(self.link_dwords());
        dwords.extend(self.slot_and_root());
        dwords.extend(self.second_device());
        dwords.extend(self.second_link());
        // Slot Capabilities 2, Slot Control 2 and Slot Status 2 (§7.5.3.21 on): nothing.
        dwords.extend([Dword::default(); 2]);
        dwords
    }

    fn capabilities(self) -> Dword {
        let mut capabilities = ExpressCapabilities(0);
        capabilities.set_version(2);
        capabilities.set_port_type(match self.kind {
            ExpressKind::Endpoint => 0,
            ExpressKind::LegacyEndpoint => 1,
            ExpressKind::RootPort => 4,
            ExpressKind::RootComplexEndpoint => 9,
        });
        capabilities.set_slot(self.slot.is_some());
        Dword::fixed(u32::from(capabilities.0) << 16)
    }

    fn device_capabilities(self) -> Dword {
        let mut device = DeviceCapabilities(0);
        device.set_max_payload(1);
        device.set_extended_tag(true);
        device.set_role_based_errors(true);
        device.set_function_level_reset(self.function_level_reset);
        Dword::fixed(device.0)
    }

    fn link_dwords(self) -> [Dword; 2] {
        if !self.has_link() {
            return [Dword::default(); 2];
        }
        let mut capabilities = LinkCapabilities(0);
        capabilities.set_speed(self.link.speed);
        capabilities.set_width(self.link.width);
        capabilities.set_aspm_optional(true);
        capabilities.set_active_reporting(self.is_port());
        capabilities.set_port_number(self.slot.map_or(0, |slot| slot.number as u8));
        // ASPM Control, Common Clock and Extended Synch; for ports also Link Disable. RCB
        // is fixed at 64 bytes and Retrain Link reads as zero (§7.5.3.7).
        let control = if self.is_port() { 0x00d3 } else { 0x00cb };
        let status = u32::from(self.link_status().0) << 16;
        [Dword::fixed(capabilities.0), Dword::new(status, control, 0)]
    }

    /// What Link Status says with the slot as it is.
    fn link_status(self) -> LinkStatus {
        let up = self.slot.is_none_or(|slot| slot.occupied);
        if !up || !self.has_link() {
            return LinkStatus(0);
        }
        let mut status = self.link.up();
        status.set_active(self.is_port());
        status
    }

    /// What Slot Status says with the slot as it is.
    fn slot_status(self) -> SlotStatus {
        let mut status = SlotStatus(0);
        status.set_presence(self.slot.is_some_and(|slot| slot.occupied));
        status
    }

    /// Without hot-plug none of the controls exist (§7.5.3.10). With it an empty slot has no
    /// power, until software turns it on for what came.
    fn slot_control_and_status(self, slot: Slot) -> Dword {
        let status = u32::from(self.slot_status().0) << 16;
        if !slot.hot_plug {
            return Dword::new(status, 0, 0);
        }
        let mut control = SlotControl(0);
        control.set_power_off(!slot.occupied);
        control.set_attention_indicator(INDICATOR_OFF);
        control.set_power_indicator(if slot.occupied {
            INDICATOR_ON
        } else {
            INDICATOR_OFF
        });
        // Every enable but the MRL sensor's, which there is none of; both indicators; the
        // power controller; and Auto Slot Power Limit Disable. The events of Slot Status
        // are cleared by writing ones (§7.5.3.11).
        Dword::new(status | u32::from(control.0), 0x37fb, 0x011b_0000)
    }

    fn slot_and_root(self) -> [Dword; 4] {
        let Some(slot) = self.slot else {
            return [Dword::default(); 4];
        };
        let mut capabilities = SlotCapabilities(0);
        capabilities.set_number(slot.number);
        capabilities.set_attention_button(slot.hot_plug);
        capabilities.set_power_controller(slot.hot_plug);
        capabilities.set_attention_indicator(slot.hot_plug);
        capabilities.set_power_indicator(slot.hot_plug);
        capabilities.set_surprise(slot.hot_plug);
        capabilities.set_hot_plug(slot.hot_plug);
        [
            Dword::fixed(capabilities.0),
            self.slot_control_and_status(slot),
            // Root Control: the three error enables and PME Interrupt Enable (§7.5.3.12).
            Dword::new(0, 0x000f, 0),
            // Root Status: PME Status is cleared by writing one (§7.5.3.14).
            Dword::new(0, 0, 1 << 16),
        ]
    }

    fn second_device(self) -> [Dword; 2] {
        // Completion Timeout Disable Supported; for ports ARI Forwarding Supported.
        let ari = u32::from(self.is_port()) << 5;
        let mut writable = DeviceControl2(0);
        writable.set_completion_timeout_disable(true);
        writable.set_ari_forwarding(self.is_port());
        [
            Dword::fixed(1 << 4 | ari),
            Dword::new(0, u32::from(writable.0), 0),
        ]
    }

    fn second_link(self) -> [Dword; 2] {
        if !self.has_link() {
            return [Dword::default(); 2];
        }
        // Every speed up to the fastest, from bit 1 (§7.5.3.18).
        let speed = u32::from(self.link.speed.clamp(1, 6));
        let speeds = (1 << (speed + 1)) - 2;
        [Dword::fixed(speeds), Dword::new(speed, 0x000f, 0)]
    }

    /// Initiate Function Level Reset is an order, not a bit (§7.5.3.4).
    pub(super) fn settle(self, write: ConfigWrite, at: u16) -> Effect {
        let device_control = Register::containing(at + offset::DEVICE_CONTROL);
        let ordered = DeviceControl(write.value() as u16).initiate_reset();
        if self.function_level_reset && write.register() == device_control && ordered {
            return Effect::FunctionReset;
        }
        Effect::Plain
    }
}

fn device_control() -> Dword {
    let mut control = DeviceControl(0);
    control.set_relaxed_ordering(true);
    control.set_no_snoop(true);
    control.set_max_read_request(2);
    // All but Phantom Functions, Aux Power PM and the reset order; the four error bits of
    // Device Status are cleared by writing ones (§7.5.3.4, §7.5.3.5).
    Dword::new(u32::from(control.0), 0x79ff, 0x000f_0000)
}

/// Max_Payload_Size, Link Control and Link Control 2, with the bits that belong to the
/// link rather than to the function (§6.6.2).
pub(super) fn link_registers(at: u16) -> [(Register, u32); 3] {
    let register = |offset| Register::containing(at + offset);
    [
        (register(offset::DEVICE_CONTROL), 0x00e0),
        (register(offset::LINK_CONTROL), 0xffff),
        (register(offset::LINK_CONTROL_2), 0xffff),
    ]
}
