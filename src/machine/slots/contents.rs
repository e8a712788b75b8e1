//! What is in the slots: who is there, who is coming, and who is going. A device is listed from
//! when its name and its slot are taken until both are free again, so also while it is being
//! opened and closed, which happens elsewhere and takes as long as the host does.

use std::collections::BTreeMap;
use std::sync::Arc;

use devices::bus::PciDevice;
use devices::e1000::E1000;

use crate::config::{self, OnError};
use crate::host::HostDevice;
use crate::machine::assigned::Taken;

/// By port. A slot that is missing is empty.
#[derive(Default)]
pub struct Contents(BTreeMap<u8, Content>);

/// What is in a slot.
pub struct Content {
    /// By function number, which is their order.
    pub items: Vec<Item>,
    /// How far it is.
    pub state: State,
}

/// A function in a slot.
pub struct Item {
    /// What the operator calls it.
    pub id: String,
    /// Its number.
    pub function: u8,
    /// What it is.
    pub kind: Kind,
    /// None yet, or none any more, while it is coming or going.
    pub device: Option<Device>,
}

/// What a function is, open or not.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One of the host's.
    Assigned {
        /// Which.
        host: HostDevice,
        /// What is done if it fails.
        on_error: OnError,
    },
    /// A network card of ours.
    Nic,
}

/// A function that is open.
pub enum Device {
    /// One of the host's.
    Assigned(Taken),
    /// A network card of ours.
    Nic(Arc<E1000>),
}

/// How far a slot's content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is being opened.
    Coming,
    /// It is there.
    Plugged,
    /// The guest is asked to let go of it, or it is being closed.
    Removing,
}

impl Contents {
    /// Every slot that is not empty.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Content)> {
        self.0.iter().map(|(number, content)| (*number, content))
    }

    /// What is in a slot.
    pub fn get(&self, number: u8) -> Option<&Content> {
        self.0.get(&number)
    }

    /// The numbers of the functions in a slot.
    pub fn functions(&self, number: u8) -> Vec<u8> {
        let items = self
            .get(number)
            .into_iter()
            .flat_map(|content| &content.items);
        items.map(|item| item.function).collect()
    }

    /// What is in a slot, to change it.
    pub fn get_mut(&mut self, number: u8) -> Option<&mut Content> {
        self.0.get_mut(&number)
    }

    /// Where a device is that is called so.
    pub fn find(&mut self, id: &str) -> Option<(u8, &mut Content)> {
        let mut slots = self.0.iter_mut();
        let (number, content) = slots.find(|(_, content)| content.has(id))?;
        Some((*number, content))
    }

    /// Which of these names for functions of a new device is one too many.
    pub fn taken_name<'a>(&self, ids: &'a [String]) -> Option<&'a String> {
        let is_taken = |(index, id): &(usize, &String)| {
            ids[..*index].contains(id) || self.0.values().any(|content| content.has(id))
        };
        ids.iter().enumerate().find(is_taken).map(|(_, id)| id)
    }

    /// Functions that are there from the start come one by one.
    pub fn add(&mut self, number: u8, item: Item) {
        let content = self.0.entry(number).or_insert_with(|| Content {
            items: Vec::new(),
            state: State::Plugged,
        });
        content.items.push(item);
    }

    /// Takes a slot for what is going to be opened.
    pub fn announce(&mut self, number: u8, items: Vec<Item>) {
        let state = State::Coming;
        self.0.insert(number, Content { items, state });
    }

    /// The slot is empty from now on, and its functions' names are free.
    pub fn clear(&mut self, number: u8) {
        self.0.remove(&number);
    }
}

impl Content {
    fn has(&self, id: &str) -> bool {
        self.items.iter().any(|item| item.id == id)
    }

    /// The name of its first function.
    pub fn id(&self) -> &str {
        self.items.first().map_or("", |item| &item.id)
    }

    /// The names of its functions, for people.
    pub fn names(&self) -> String {
        let ids: Vec<_> = self.items.iter().map(|item| item.id.as_str()).collect();
        ids.join(" and ")
    }

    /// What was announced is open: a device for each function, in their order.
    pub fn arrive(&mut self, devices: Vec<Device>) {
        for (item, device) in self.items.iter_mut().zip(devices) {
            item.device = Some(device);
        }
        self.state = State::Plugged;
    }

    /// The devices of its functions, to be closed.
    pub fn leave(&mut self) -> Vec<Device> {
        self.state = State::Removing;
        let items = self.items.iter_mut();
        items.filter_map(|item| item.device.take()).collect()
    }
}

impl Item {
    /// A function of the host's that is not open yet.
    pub fn assigned(assign: &config::Assign) -> Self {
        Self {
            id: assign.id.clone(),
            function: assign.function,
            kind: Kind::Assigned {
                host: assign.device,
                on_error: assign.on_error,
            },
            device: None,
        }
    }

    /// A network card that is not made yet.
    pub fn nic(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            function: 0,
            kind: Kind::Nic,
            device: None,
        }
    }
}

impl Device {
    /// As the bus sees it.
    pub fn on_bus(&self) -> Arc<dyn PciDevice> {
        match self {
            Self::Assigned(taken) => taken.device.clone(),
            Self::Nic(nic) => nic.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn two_announced() -> Contents {
        let mut contents = Contents::default();
        contents.announce(3, vec![Item::nic("a"), Item::nic("b")]);
        contents
    }

    /// A name that cannot be had is one that is listed.
    #[test]
    fn what_is_being_opened_or_closed_is_listed_until_its_name_is_free() {
        let mut contents = two_announced();
        let seen = |contents: &Contents| {
            let content = contents.get(3)?;
            let names: Vec<_> = content.items.iter().map(|item| item.id.clone()).collect();
            Some((content.state, names))
        };
        assert_eq!(seen(&contents), Some((State::Coming, ids(&["a", "b"]))));
        contents.get_mut(3).unwrap().arrive(Vec::new());
        assert_eq!(seen(&contents), Some((State::Plugged, ids(&["a", "b"]))));
        contents.get_mut(3).unwrap().leave();
        assert_eq!(seen(&contents), Some((State::Removing, ids(&["a", "b"]))));
        assert_eq!(contents.taken_name(&ids(&["b"])), Some(&"b".to_owned()));
        contents.clear(3);
        assert_eq!(seen(&contents), None);
        assert_eq!(contents.taken_name(&ids(&["b"])), None);
    }

    #[test]
    fn names_are_given_once() {
        let mut contents = two_announced();
        for (wanted, taken) in [
            (ids(&["c", "d"]), None),
            (ids(&["c", "b"]), Some("b")),
            (ids(&["c", "c"]), Some("c")),
        ] {
            assert_eq!(contents.taken_name(&wanted).map(String::as_str), taken);
        }
        assert_eq!(contents.find("b").unwrap().0, 3);
        assert!(contents.find("c").is_none());
    }
}
