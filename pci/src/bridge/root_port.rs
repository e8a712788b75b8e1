//! A PCI Express root port: a type 1 header over a link with one slot. The identity is
//! the X58 I/O hub's, known to every system that knows PCI Express.
//!
//! What is in the slot is there from power-on, or, if the slot is hot-plug capable, comes and
//! goes ([`super::slot`]). Of errors the port reports its own ([`super::errors`]).

use std::sync::{Arc, Mutex, OnceLock};

use super::errors::ErrorRegisters;
use super::slot::SlotRegisters;
use crate::capability::express_offset;
use crate::lock::locked;
use crate::registers::{DeviceControl2, SlotControl, UncorrectableErrors};
use crate::{
    Acs, Aer, Bdf, Bridge, Capability, CapabilityError, Changes, ClassCode, ConfigSpaceState,
    ConfigWrite, Express, ExtendedCapability, Forwarded, Function, Ids, InterruptPin, Link, Msi,
    MsiMessage, PciBridge, PowerManagement, Register, Slot, Window,
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
    /// What is in the slot may come and go.
    pub hot_plug: bool,
    /// The fastest link, best no slower than that of what is behind it.
    pub link: Link,
}

impl RootPortConfig {
    /// An occupied slot on a 16 GT/s x16 link, for good.
    pub fn occupied(slot: u16) -> Self {
        Self {
            slot,
            occupied: true,
            hot_plug: false,
            link: Link {
                speed: 4,
                width: 16,
            },
        }
    }

    /// The same, empty.
    pub fn empty(slot: u16) -> Self {
        Self {
            occupied: false,
            ..Self::occupied(slot)
        }
    }

    /// What is in the slot may come and go.
    pub fn hot_plug(self) -> Self {
        Self {
            hot_plug: true,
            ..self
        }
    }
}

/// What a root port is connected to. It calls with its registers locked, so that nothing
/// overtakes: an implementation does not call back.
pub trait PortWires: Send + Sync {
    /// Takes an interrupt message of the port's own.
    fn send(&self, message: MsiMessage);

    /// Drives the port's own interrupt pin.
    fn set_pin(&self, asserted: bool);

    /// Software switched the power of the slot.
    fn power_switched(&self, on: bool);
}

/// A root port.
///
/// **Reset** closes windows and clears bus numbers; the slot keeps what is in it, has power
/// if that is something, and no events wait.
pub struct RootPort {
    state: Mutex<State>,
    wires: OnceLock<Arc<dyn PortWires>>,
}

struct State {
    bridge: PciBridge,
    /// Where the PCI Express capability is.
    express: u16,
    /// Where the Advanced Error Reporting capability is.
    aer: u16,
    link: Link,
    hot_plug: bool,
    occupied: bool,
    told: Told,
}

/// What the wires were told last.
#[derive(Default)]
struct Told {
    slot: bool,
    errors: bool,
    pin: bool,
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
    /// Something is in the slot.
    pub occupied: bool,
    /// The slot has power.
    pub powered: bool,
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
            hot_plug: config.hot_plug,
        };
        let express = Express::root_port(slot).link(config.link);
        let express = space.add_capability(Capability::Express(express))?;
        space.add_capability(Capability::PowerManagement(PowerManagement {
            no_soft_reset: true,
        }))?;
        let aer = space.add_extended_capability(&ExtendedCapability::Aer(Aer { root: true }))?;
        space.add_extended_capability(&ExtendedCapability::Acs(Acs::ISOLATING))?;
        Ok(Self {
            state: Mutex::new(State {
                bridge,
                express: express.into(),
                aer,
                link: config.link,
                hot_plug: config.hot_plug,
                occupied: config.occupied,
                told: Told::default(),
            }),
            wires: OnceLock::new(),
        })
    }

    /// Connects the port. One that is not connected interrupts nobody.
    pub fn wire(&self, wires: Arc<dyn PortWires>) {
        // A port is soldered in once.
        let _ = self.wires.set(wires);
    }

    /// Something was put into the hot-plug slot, and the attention button pressed for it, as
    /// whoever puts a board in does: software that sees a button waits for it. The board answers
    /// once it has been given power.
    pub fn insert(&self) {
        self.change(|state| {
            state.set_occupied(true);
            state.press_attention();
        });
    }

    /// What was in the hot-plug slot is gone.
    pub fn take_out(&self) {
        self.change(|state| state.set_occupied(false));
    }

    /// The attention button of the hot-plug slot is pressed: somebody would like to have what
    /// is in it, if it has power.
    pub fn press_attention(&self) {
        self.change(State::press_attention);
    }

    /// Software gives the slot power.
    pub fn has_power(&self) -> bool {
        !locked(&self.state).slot().control().power_off()
    }

    /// Reports errors of the port, which is at `port`, as far as software wants to know.
    pub fn report(&self, errors: UncorrectableErrors, port: Bdf) {
        self.change(|state| state.errors().report(errors, port));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let state = &mut *locked(&self.state);
        change(state);
        state.tell(self.wires.get());
    }

    /// The port as data.
    pub fn state(&self) -> RootPortState {
        let mut state = locked(&self.state);
        RootPortState {
            secondary: state.bridge.secondary(),
            subordinate: state.bridge.subordinate(),
            forwarded: state.bridge.forwarded(),
            occupied: state.occupied,
            powered: !state.slot().control().power_off(),
            config: state.bridge.space().state(),
        }
    }
}

/// What of a port others act upon; the difference of two is a [`Changes`].
#[derive(PartialEq)]
struct View {
    slot: SlotControl,
    ari: bool,
    link: bool,
}

impl State {
    fn slot(&mut self) -> SlotRegisters<'_> {
        SlotRegisters {
            express: self.express,
            link: self.link,
            space: self.bridge.space_mut(),
        }
    }

    fn errors(&mut self) -> ErrorRegisters<'_> {
        ErrorRegisters {
            aer: self.aer,
            express: self.express,
            space: self.bridge.space_mut(),
        }
    }

    fn set_occupied(&mut self, occupied: bool) {
        if self.hot_plug {
            self.occupied = occupied;
            self.slot().set_occupied(occupied);
        }
    }

    fn press_attention(&mut self) {
        if self.hot_plug {
            self.slot().press_attention();
        }
    }

    fn device_control_2(&self) -> DeviceControl2 {
        let at = self.express + express_offset::DEVICE_CONTROL_2;
        DeviceControl2(self.bridge.space().get_u16(at))
    }

    fn is_link_down(&mut self) -> bool {
        self.hot_plug && !self.slot().is_link_up()
    }

    fn view(&mut self) -> View {
        View {
            slot: self.slot().control(),
            ari: self.device_control_2().ari_forwarding(),
            link: !self.is_link_down(),
        }
    }

    /// ARI decides which functions answer, and power whether any does: those that lose it are
    /// reset.
    fn write(&mut self, write: ConfigWrite, wires: Option<&Arc<dyn PortWires>>) -> Changes {
        let before = self.view();
        let mut changes = self.bridge.write(write);
        if self.hot_plug {
            self.slot().settle(write);
        }
        let after = self.view();
        changes.set(Changes::SLOT, before.slot != after.slot);
        if before.ari != after.ari || before.link != after.link {
            changes |= Changes::DECODE;
        }
        if before.link && !after.link {
            changes |= Changes::SECONDARY_RESET;
        }
        if before.slot.power_off() != after.slot.power_off()
            && let Some(wires) = wires
        {
            wires.power_switched(!after.slot.power_off());
        }
        changes
    }

    fn reset(&mut self) {
        self.bridge.reset();
        if self.hot_plug {
            let occupied = self.occupied;
            self.slot().reset(occupied);
        }
    }

    /// Interrupts for what has come up since the last time: one message when there was nothing
    /// to tell of its kind, a level for as long as there is (§6.7.3.4, §6.2.4.1.2).
    fn tell(&mut self, wires: Option<&Arc<dyn PortWires>>) {
        let slot = self.hot_plug && self.slot().interrupts();
        let errors = self.errors().interrupts();
        let news = slot && !self.told.slot || errors && !self.told.errors;
        let space = self.bridge.space_mut();
        space.set_interrupt_status(slot || errors);
        let mut messages = Vec::new();
        messages.extend(news.then(|| space.signal_msi(0)).flatten());
        messages.extend(space.next_pending_msi());
        let pin = space.intx();
        let (master, was) = (space.is_bus_master(), self.told.pin);
        self.told = Told { slot, errors, pin };
        let Some(wires) = wires else { return };
        messages
            .into_iter()
            .filter(|_| master)
            .for_each(|message| wires.send(message));
        if pin != was {
            wires.set_pin(pin);
        }
    }
}

impl Function for RootPort {
    fn read_config(&self, register: Register) -> u32 {
        locked(&self.state).bridge.space().read(register)
    }

    fn write_config(&self, write: ConfigWrite) -> Changes {
        let state = &mut *locked(&self.state);
        let changes = state.write(write, self.wires.get());
        state.tell(self.wires.get());
        changes
    }

    fn windows(&self) -> Vec<Window> {
        Vec::new()
    }

    fn reset(&self) {
        self.change(State::reset);
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

    fn is_shut(&self) -> bool {
        let mut state = locked(&self.state);
        state.bridge.control().secondary_bus_reset() || state.is_link_down()
    }
}

#[cfg(test)]
mod tests;
