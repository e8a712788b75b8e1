//! Which function sits where, and which of them a config cycle reaches.
//!
//! The tree is built once, by attaching functions to the root bus and behind bridges;
//! bus *numbers* are the guest's, read from the bridges on every cycle. Whatever numbers
//! a guest writes, a cycle goes down the tree one bridge at a time, so it ends, and it
//! lands on a function that sits at the device and function number it names.

mod decode;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code))]
mod machine;
mod mechanism;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use decode::Decoded;
pub use mechanism::NotConfig;

use crate::registers::offset;
use crate::{Bdf, Bridge, Changes, ConfigWrite, Function, InterruptPin, Register};

/// A function of a [`Topology`]. It never names another one, also when its own is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub struct FunctionId(usize);

/// A bus to attach a function to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusAt {
    /// The root complex's own, bus 0.
    Root,
    /// The one behind this bridge.
    Behind(FunctionId),
}

/// Functions that cannot be together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Two functions in one place.
    #[error("{new} and {old} are both at {slot}")]
    SlotTaken {
        /// The place.
        slot: String,
        /// Who was there.
        old: String,
        /// Who came.
        new: String,
    },
    /// Something attached behind a function that is not a bridge.
    #[error("{new} cannot be behind {function}, which is not a bridge")]
    NotABridge {
        /// Who came.
        new: String,
        /// What is not a bridge.
        function: String,
    },
    /// Device or function number out of range.
    #[error(
        "{new} cannot be device {device:#x} function {function}: there are 32 devices and 8 functions"
    )]
    NoSuchSlot {
        /// Who came.
        new: String,
        /// Device number.
        device: u8,
        /// Function number.
        function: u8,
    },
    /// Software looks at the other functions of a slot only if there is a function 0.
    #[error("{name} at {slot} cannot be found by the guest: nothing is at function 0 of that slot")]
    NoFunctionZero {
        /// The one that cannot be found.
        name: String,
        /// Where it is.
        slot: String,
    },
}

struct Place<F: ?Sized> {
    function: Arc<F>,
    name: String,
    /// The bus it sits on, an index of `buses`.
    bus: usize,
    devfn: u8,
    /// The bus behind it, if it is a bridge.
    behind: Option<usize>,
}

impl<F: ?Sized> Clone for Place<F> {
    fn clone(&self) -> Self {
        Self {
            function: Arc::clone(&self.function),
            name: self.name.clone(),
            ..*self
        }
    }
}

#[derive(Clone, Default)]
struct Bus {
    bridge: Option<FunctionId>,
    slots: BTreeMap<u8, FunctionId>,
}

/// What a config write came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Who took it.
    pub function: FunctionId,
    /// What it changed.
    pub changes: Changes,
}

/// A function and where it is.
pub struct Located<'a, F: ?Sized> {
    /// Which.
    pub id: FunctionId,
    /// Where, by the bus numbers of now; `None` while its bus has no number.
    pub bdf: Option<Bdf>,
    /// The name it was attached with.
    pub name: &'a str,
    /// The function itself.
    pub function: &'a Arc<F>,
}

/// The functions of a machine on their buses, and the ways of the guest to their config
/// space. Structure changes through `&mut`; config cycles take `&self`, and functions
/// lock for themselves.
///
/// A clone has the same functions and the same CONFIG_ADDRESS: one that is changed takes the
/// place of the other when something is plugged in or out.
pub struct Topology<F: Function + ?Sized> {
    places: BTreeMap<FunctionId, Place<F>>,
    next_id: usize,
    /// The root bus is the first; buses behind bridges follow.
    buses: Vec<Bus>,
    /// CONFIG_ADDRESS.
    address: Arc<AtomicU32>,
}

impl<F: Function + ?Sized> Default for Topology<F> {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            next_id: 0,
            buses: vec![Bus::default()],
            address: Arc::default(),
        }
    }
}

impl<F: Function + ?Sized> Clone for Topology<F> {
    fn clone(&self) -> Self {
        Self {
            places: self.places.clone(),
            next_id: self.next_id,
            buses: self.buses.clone(),
            address: Arc::clone(&self.address),
        }
    }
}

impl<F: Function + ?Sized> Topology<F> {
    /// An empty root bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches a function. `name` is for messages: it is what the operator would call it.
    pub fn attach(
        &mut self,
        at: BusAt,
        device: u8,
        function: u8,
        name: &str,
        new: Arc<F>,
    ) -> Result<FunctionId, TopologyError> {
        let bus = self.bus_index(at, name)?;
        if device >= 32 || function >= 8 {
            return Err(TopologyError::NoSuchSlot {
                new: name.to_owned(),
                device,
                function,
            });
        }
        let devfn = Bdf::new(0, device, function).devfn();
        let id = FunctionId(self.next_id);
        if let Some(&old) = self.buses[bus].slots.get(&devfn) {
            return Err(TopologyError::SlotTaken {
                slot: self.slot_name(bus, devfn),
                old: self.places[&old].name.clone(),
                new: name.to_owned(),
            });
        }
        self.buses[bus].slots.insert(devfn, id);
        let behind = new.as_bridge().is_some().then(|| {
            self.buses.push(Bus {
                bridge: Some(id),
                slots: BTreeMap::new(),
            });
            self.buses.len() - 1
        });
        let place = Place {
            function: new,
            name: name.to_owned(),
            bus,
            devfn,
            behind,
        };
        self.places.insert(id, place);
        self.next_id += 1;
        Ok(id)
    }

    /// Takes everything off the bus behind a bridge. What is behind a bridge on it goes too.
    pub fn detach_behind(&mut self, bridge: FunctionId) {
        let behind = self.places.get(&bridge).and_then(|place| place.behind);
        let Some(bus) = behind else { return };
        for id in std::mem::take(&mut self.buses[bus].slots).into_values() {
            self.detach_behind(id);
            self.places.remove(&id);
        }
    }

    fn bus_index(&self, at: BusAt, name: &str) -> Result<usize, TopologyError> {
        let BusAt::Behind(id) = at else { return Ok(0) };
        let place = self.places.get(&id);
        place
            .and_then(|p| p.behind)
            .ok_or_else(|| TopologyError::NotABridge {
                new: name.to_owned(),
                function: place.map_or("nothing", |p| &p.name).to_owned(),
            })
    }

    fn slot_name(&self, bus: usize, devfn: u8) -> String {
        let slot = Bdf::new(0, devfn >> 3, devfn);
        match self.buses[bus].bridge {
            None => slot.to_string(),
            Some(bridge) => {
                let (device, function) = (slot.device(), slot.function());
                let bridge = &self.places[&bridge].name;
                format!("{device:02x}.{function} behind {bridge}")
            }
        }
    }

    /// Checks what can only be checked when all is attached: that the guest can find every
    /// function.
    pub fn check(&self) -> Result<(), TopologyError> {
        for place in self.places.values() {
            if !self.buses[place.bus]
                .slots
                .contains_key(&(place.devfn & !7))
            {
                return Err(TopologyError::NoFunctionZero {
                    name: place.name.clone(),
                    slot: self.slot_name(place.bus, place.devfn),
                });
            }
        }
        Ok(())
    }

    /// The function itself.
    pub fn function(&self, id: FunctionId) -> Option<&Arc<F>> {
        Some(&self.places.get(&id)?.function)
    }

    /// The name it was attached with.
    pub fn name(&self, id: FunctionId) -> Option<&str> {
        Some(&self.places.get(&id)?.name)
    }

    /// Every function, in the order attached.
    pub fn functions(&self) -> impl Iterator<Item = Located<'_, F>> {
        self.places.iter().map(|(&id, place)| Located {
            id,
            bdf: self.bdf(id),
            name: &place.name,
            function: &place.function,
        })
    }

    /// Where a function is by the bus numbers of now. It is the requester ID that it has
    /// on the wire, even if what the guest numbered makes it unreachable or ambiguous.
    pub fn bdf(&self, id: FunctionId) -> Option<Bdf> {
        let place = self.places.get(&id)?;
        let number = match self.bridge_above(place) {
            None => 0,
            Some((_, bridge)) => Some(bridge.secondary()).filter(|&n| n != 0)?,
        };
        Some(Bdf::new(number, place.devfn >> 3, place.devfn))
    }

    fn bridge_above(&self, place: &Place<F>) -> Option<(FunctionId, &dyn Bridge)> {
        let id = self.buses[place.bus].bridge?;
        Some((id, self.places[&id].function.as_bridge()?))
    }

    /// What answers on a bus now, with its slot: of a link, only device 0 unless the port
    /// forwards ARI.
    fn answering(&self, bus: usize) -> impl Iterator<Item = (FunctionId, &Place<F>)> {
        let last = self.last_devfn(bus);
        self.buses[bus]
            .slots
            .range(..=last)
            .map(|(_, &id)| (id, &self.places[&id]))
    }

    fn last_devfn(&self, bus: usize) -> u8 {
        let bridge = self.buses[bus]
            .bridge
            .and_then(|id| self.places[&id].function.as_bridge());
        match bridge {
            Some(bridge) if bridge.is_link() && !bridge.forwards_ari() => 7,
            _ => 0xff,
        }
    }

    /// The bus that has this number, going down from the root (PCIe 6.0 §7.3.3). Where
    /// the guest gave one number to two, the lower device has it.
    fn bus_numbered(&self, number: u8) -> Option<usize> {
        let mut bus = 0;
        if number == 0 {
            return Some(bus);
        }
        // Each round is one level deeper in a finite tree.
        loop {
            let (behind, secondary) = self.answering(bus).find_map(|(_, place)| {
                let bridge = place.function.as_bridge()?;
                let (secondary, subordinate) = (bridge.secondary(), bridge.subordinate());
                let claims = secondary != 0 && (secondary..=subordinate).contains(&number);
                (claims && !bridge.is_shut()).then_some((place.behind?, secondary))
            })?;
            if secondary == number {
                return Some(behind);
            }
            bus = behind;
        }
    }

    /// The function that a config cycle to `bdf` reaches.
    pub fn locate(&self, bdf: Bdf) -> Option<FunctionId> {
        let bus = self.bus_numbered(bdf.bus())?;
        if bdf.devfn() > self.last_devfn(bus) {
            return None;
        }
        self.buses[bus].slots.get(&bdf.devfn()).copied()
    }

    /// Reads a register; all ones where there is no function.
    pub fn config_read(&self, bdf: Bdf, register: Register) -> u32 {
        let Some(id) = self.locate(bdf) else {
            return u32::MAX;
        };
        let place = &self.places[&id];
        let value = place.function.read_config(register);
        if register == Register::containing(offset::HEADER_TYPE) {
            // Multi-Function Device: only the bus knows (§7.5.1.1.9).
            return value & !(1 << 23) | u32::from(self.is_multi_function(place)) << 23;
        }
        value
    }

    fn is_multi_function(&self, place: &Place<F>) -> bool {
        let first = place.devfn & !7;
        self.buses[place.bus].slots.range(first..=first | 7).count() > 1
    }

    /// Writes to a register; dropped where there is no function. A bridge told to reset
    /// its secondary bus has it done here, before this returns.
    pub fn config_write(&self, bdf: Bdf, write: ConfigWrite) -> Option<Written> {
        let function = self.locate(bdf)?;
        let mut changes = self.places[&function].function.write_config(write);
        if changes.contains(Changes::SECONDARY_RESET) {
            self.reset_behind(function);
            changes |= Changes::DECODE | Changes::BUS_NUMBERS;
        }
        Some(Written { function, changes })
    }

    /// Resets everything behind a bridge, however deep, and not the bridge.
    pub fn reset_behind(&self, bridge: FunctionId) {
        let behind = |id: FunctionId| self.places.get(&id).and_then(|place| place.behind);
        let mut buses: Vec<usize> = behind(bridge).into_iter().collect();
        while let Some(bus) = buses.pop() {
            for &id in self.buses[bus].slots.values() {
                self.places[&id].function.reset();
                buses.extend(behind(id));
            }
        }
    }

    /// Resets every function, and CONFIG_ADDRESS.
    pub fn reset(&self) {
        self.address.store(0, Ordering::Relaxed);
        for place in self.places.values() {
            place.function.reset();
        }
    }

    /// Which pin of which device of the root bus a function's INTx comes out at: every
    /// bridge turns pins by the device number (PCI-to-PCI Bridge 1.2 §9.1, PCIe 6.0
    /// §2.2.8.1). Behind a link the device number is zero.
    pub fn root_interrupt(&self, id: FunctionId, pin: InterruptPin) -> Option<(u8, InterruptPin)> {
        let mut place = self.places.get(&id)?;
        let mut pin = pin;
        while let Some((above, bridge)) = self.bridge_above(place) {
            if !bridge.is_link() {
                pin = InterruptPin::from_index(pin.index() + (place.devfn >> 3));
            }
            place = &self.places[&above];
        }
        Some((place.devfn >> 3, pin))
    }
}

impl<F: Function + ?Sized> fmt::Debug for Topology<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let located = self.functions().map(|at| (at.name, at.bdf));
        f.debug_map().entries(located).finish()
    }
}
