//! A PCI Express root port: a type 1 header over a link with one slot. The identity is
//! the X58 I/O hub's, known to every system that knows PCI Express.
//!
//! The slot is not hot-plug capable yet: what is in it is there from power-on.

use std::sync::Mutex;

use crate::capability::express_offset;
use crate::lock::locked;
use crate::registers::{DeviceControl2, SlotControl};
use crate::{
    Acs, Aer, Bridge, Capability, CapabilityError, Changes, ClassCode, ConfigSpaceState,
    ConfigWrite, Express, ExtendedCapability, Forwarded, Function, Ids, InterruptPin, Link, Msi,
    PciBridge, PowerManagement, Register, Slot, Window,
};

/// "7500/5520/5500/X58 I/O Hub PCI Express Root Port 0".
const IDS: Ids = Ids {
    vendor: 0x8086,
    device: 0x3420,
    revision: 2,
    class: ClassCode {
        base: 0x06,
        sub: 0x04,
        interface: 0,
    },
    subsystem_vendor: 0x8086,
    subsystem: 0,
};

/// What a root port is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootPortConfig {
    /// Physical slot number; unique in the machine.
    pub slot: u16,
    /// Something is in the slot.
    pub occupied: bool,
    /// The fastest link, best no slower than that of what is behind it.
    pub link: Link,
}

impl RootPortConfig {
    /// An occupied slot on a 16 GT/s x16 link.
    pub fn occupied(slot: u16) -> Self {
        Self {
            slot,
            occupied: true,
            link: Link {
                speed: 4,
                width: 16,
            },
        }
    }
}

struct State {
    bridge: PciBridge,
    /// Where the PCI Express capability is.
    express: u16,
}

/// A root port. It never interrupts by itself: there is no event it could tell of.
///
/// **Reset** closes windows and clears bus numbers; the slot keeps what is in it.
pub struct RootPort {
    state: Mutex<State>,
}

/// A [`RootPort`] as data.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct RootPortState {
    /// Secondary bus number.
    pub secondary: u8,
    /// Subordinate bus number.
    pub subordinate: u8,
    /// The ranges passed downstream.
    pub forwarded: Vec<Forwarded>,
    /// Its config space.
    pub config: ConfigSpaceState,
}

impl RootPort {
    /// A root port as at power-on.
    pub fn new(config: RootPortConfig) -> Result<Self, CapabilityError> {
        let mut bridge = PciBridge::new(IDS);
        let space = bridge.space_mut();
        space.set_interrupt_pin(InterruptPin::IntA);
        space.add_capability(Capability::Subsystem {
            vendor: IDS.subsystem_vendor,
            device: IDS.subsystem,
        })?;
        space.add_capability(Capability::Msi(Msi::new(1).maskable()))?;
        let slot = Slot {
            number: config.slot,
            occupied: config.occupied,
        };
        let express = Express::root_port(slot).link(config.link);
        let express = space.add_capability(Capability::Express(express))?;
        space.add_capability(Capability::PowerManagement(PowerManagement {
            no_soft_reset: true,
        }))?;
        space.add_extended_capability(&ExtendedCapability::Aer(Aer { root: true }))?;
        space.add_extended_capability(&ExtendedCapability::Acs(Acs::ISOLATING))?;
        let express = u16::from(express);
        Ok(Self {
            state: Mutex::new(State { bridge, express }),
        })
    }

    /// The port as data.
    pub fn state(&self) -> RootPortState {
        let state = locked(&self.state);
        RootPortState {
            secondary: state.bridge.secondary(),
            subordinate: state.bridge.subordinate(),
            forwarded: state.bridge.forwarded(),
            config: state.bridge.space().state(),
        }
    }
}

impl State {
    fn slot_control(&self) -> SlotControl {
        let at = self.express + express_offset::SLOT_CONTROL;
        SlotControl(self.bridge.space().get_u16(at))
    }

    fn device_control_2(&self) -> DeviceControl2 {
        let at = self.express + express_offset::DEVICE_CONTROL_2;
        DeviceControl2(self.bridge.space().get_u16(at))
    }

    /// ARI decides which functions answer.
    fn write(&mut self, write: ConfigWrite) -> Changes {
        let slot = self.slot_control();
        let ari = self.device_control_2().ari_forwarding();
        let mut changes = self.bridge.write(write);
        changes.set(Changes::SLOT, slot != self.slot_control());
        if ari != self.device_control_2().ari_forwarding() {
            changes |= Changes::DECODE;
        }
        changes
    }
}

impl Function for RootPort {
    fn read_config(&self, register: Register) -> u32 {
        locked(&self.state).bridge.space().read(register)
    }

    fn write_config(&self, write: ConfigWrite) -> Changes {
        locked(&self.state).write(write)
    }

    fn windows(&self) -> Vec<Window> {
        Vec::new()
    }

    fn reset(&self) {
        locked(&self.state).bridge.reset();
    }

    fn as_bridge(&self) -> Option<&dyn Bridge> {
        Some(self)
    }
}

impl Bridge for RootPort {
    fn secondary(&self) -> u8 {
        locked(&self.state).bridge.secondary()
    }

    fn subordinate(&self) -> u8 {
        locked(&self.state).bridge.subordinate()
    }

    fn forwarded(&self) -> Vec<Forwarded> {
        locked(&self.state).bridge.forwarded()
    }

    fn is_link(&self) -> bool {
        true
    }

    fn forwards_ari(&self) -> bool {
        locked(&self.state).device_control_2().ari_forwarding()
    }

    fn holds_reset(&self) -> bool {
        locked(&self.state).bridge.control().secondary_bus_reset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_bytes;

    fn port() -> RootPort {
        RootPort::new(RootPortConfig::occupied(7)).unwrap()
    }

    fn read(port: &RootPort, offset: u16, len: usize) -> u32 {
        let mut bytes = [0; 4];
        read_bytes(offset, &mut bytes[..len], |r| port.read_config(r));
        u32::from_le_bytes(bytes)
    }

    fn find(port: &RootPort, id: u32) -> u16 {
        let mut at = read(port, 0x34, 1) as u16;
        while at != 0 && read(port, at, 1) != id {
            at = read(port, at + 1, 1) as u16;
        }
        assert_ne!(at, 0, "capability {id:#x}");
        at
    }

    #[test]
    fn is_a_root_port_with_an_occupied_slot() {
        let port = port();
        assert_eq!(read(&port, 0, 4), 0x3420_8086);
        assert_eq!(read(&port, 0x0a, 2), 0x0604);
        assert_eq!(read(&port, 0x0e, 1), 1);
        let express = find(&port, 0x10);
        assert_eq!(read(&port, express + 2, 2), 0x0142, "root port, slot, v2");
        assert_eq!(read(&port, express + 0x14, 4) >> 19, 7);
        assert_eq!(read(&port, express + 0x1a, 2), 0x0040, "presence");
        assert_eq!(read(&port, express + 0x12, 2), 0x3104, "link up");
        assert_eq!(read(&port, express + 0x2c, 4), 0x1e, "up to 16 GT/s");
        for id in [0x01, 0x05, 0x0d] {
            find(&port, id);
        }
        assert_eq!(read(&port, 0x100, 2), 1);
    }

    #[test]
    fn ari_changes_who_answers() {
        let port = port();
        let at = find(&port, 0x10) + 0x28;
        let on = ConfigWrite::new(Register::containing(at), 0x20, 1);
        assert!(!port.forwards_ari());
        assert_eq!(port.write_config(on), Changes::DECODE);
        assert!(port.forwards_ari());
        port.reset();
        assert!(!port.forwards_ari());
    }
}
