//! Which root port each assigned device is plugged into, and as which function.
//!
//! Functions of one device of the host, such as a graphics adapter and the audio function
//! beside it, become functions of one device again: their drivers look for each other there.
//! Virtual functions only look as if they shared a device, and get a port each unless told
//! otherwise.

use std::collections::BTreeMap;

use devices::vfio::RomSource;
use pci::HostBdf;

use super::validate::{Once, Problem, check_file, error};
use super::{Assign, AssignSpec, ConfigError, Given, MAX_PORT, Origin};
use crate::host::Host;

/// What goes into one slot.
struct Slot {
    port: Option<u8>,
    /// Not empty. All have the segment, bus and device number of the first.
    functions: Vec<AssignSpec>,
    origin: Origin,
}

/// Gives every device a port, the one it asks for or the first that nobody does, and a
/// function number.
pub(super) fn assigns(
    given: Vec<Given<AssignSpec>>,
    host: &Host,
) -> Result<Vec<Assign>, ConfigError> {
    let mut devices = Once::new();
    for Given { value, origin } in &given {
        // A physical function may lend many.
        if value.lent.is_none() {
            devices.check(value.device, origin, || value.device.to_string())?;
        }
        if let RomSource::File(path) = &value.presentation.rom {
            check_file(path).map_err(|problem| error(origin, problem))?;
        }
    }
    let mut slots: Vec<Slot> = Vec::new();
    // Those that ask first: the others may belong with them.
    let (asking, others): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|g| g.value.port.is_some());
    for Given { value, origin } in asking {
        join_port(&mut slots, value, origin)?;
    }
    for Given { value, origin } in others {
        let sibling = |slot: &&mut Slot| slot.functions.iter().any(|f| are_one(host, f, &value));
        match slots.iter_mut().find(sibling) {
            Some(slot) => slot.functions.push(value),
            None => slots.push(Slot::with(value, origin)),
        }
    }
    choose_ports(slots)
}

impl Slot {
    fn with(first: AssignSpec, origin: Origin) -> Self {
        Self {
            port: first.port,
            functions: vec![first],
            origin,
        }
    }

    /// The numbers that the functions have on the host. Without a number 0 nobody would look
    /// for the others (PCIe 6.0 §7.5.1.1.9), so the first takes it.
    fn numbered(mut self) -> impl Iterator<Item = (u8, AssignSpec)> {
        self.functions.sort_unstable_by_key(|spec| spec.device);
        let numbers = self.functions.into_iter().enumerate();
        numbers.map(|(index, spec)| {
            let function = spec.device.bdf.function();
            (if index == 0 { 0 } else { function }, spec)
        })
    }
}

/// Puts a device into the slot it asks for.
fn join_port(slots: &mut Vec<Slot>, value: AssignSpec, origin: Origin) -> Result<(), ConfigError> {
    let taken = slots.iter_mut().find(|slot| slot.port == value.port);
    let (Some(slot), Some(port)) = (taken, value.port) else {
        slots.push(Slot::with(value, origin));
        return Ok(());
    };
    match slot.functions.iter().find(|f| !share_slot(f, &value)) {
        None => {
            slot.functions.push(value);
            Ok(())
        }
        Some(first) => {
            let first = first.device;
            let second = value.device;
            let problem = Problem::SamePort {
                first,
                second,
                port,
            };
            Err(error(&origin, problem))
        }
    }
}

fn choose_ports(slots: Vec<Slot>) -> Result<Vec<Assign>, ConfigError> {
    let mut taken: BTreeMap<u8, Slot> = BTreeMap::new();
    let (asking, others): (Vec<_>, Vec<_>) = slots.into_iter().partition(|s| s.port.is_some());
    taken.extend(
        asking
            .into_iter()
            .filter_map(|slot| Some((slot.port?, slot))),
    );
    for slot in others {
        let free = (1..=MAX_PORT).find(|port| !taken.contains_key(port));
        match (free, slot.functions.first()) {
            (Some(port), _) => drop(taken.insert(port, slot)),
            (None, Some(spec)) => {
                return Err(error(&slot.origin, Problem::NoPort(spec.device)));
            }
            (None, None) => (),
        }
    }
    let assigns = taken.into_iter().flat_map(|(port, slot)| {
        slot.numbered().map(move |(function, spec)| Assign {
            device: spec.device,
            port,
            function,
            presentation: spec.presentation,
            lent: spec.lent,
        })
    });
    Ok(assigns.collect())
}

/// They are in one place on the host, but for their function numbers. Where one will be that
/// is yet to be lent is not known.
fn share_slot(a: &AssignSpec, b: &AssignSpec) -> bool {
    let place = |spec: &AssignSpec| {
        let HostBdf { segment, bdf } = spec.device;
        (segment, bdf.bus(), bdf.devfn() & !7)
    };
    place(a) == place(b) && a.lent.is_none() && b.lent.is_none()
}

/// They are functions of one device: in one place, and neither is virtual.
fn are_one(host: &Host, a: &AssignSpec, b: &AssignSpec) -> bool {
    // What the host does not know is told when it is opened.
    let is_physical =
        |of: &AssignSpec| matches!(host.function(of.device), Ok(Some(f)) if f.physical.is_none());
    share_slot(a, b) && is_physical(a) && is_physical(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VfSpec;
    use crate::host::fake_tree::{FakeFunction, FakeTree};

    fn host() -> FakeTree {
        let tree = FakeTree::new();
        for address in [
            "0000:01:00.0",
            "0000:01:00.1",
            "0000:01:00.3",
            "0000:04:00.1",
        ] {
            tree.add(&FakeFunction::at(address));
        }
        tree
    }

    fn places(wanted: &[&str]) -> Result<Vec<String>, String> {
        let given = wanted
            .iter()
            .map(|text| Given::by_flag("--assign", text.parse().unwrap()));
        let assigns = assigns(given.collect(), &host().host());
        let shown = |a: &Assign| format!("{}.{}={}", a.port, a.function, a.device.bdf);
        assigns
            .map(|all| all.iter().map(shown).collect())
            .map_err(|e| e.problem.to_string())
    }

    #[test]
    fn functions_of_one_device_stay_together() {
        let both = places(&["01:00.1", "04:00.1", "01:00.0"]).unwrap();
        assert_eq!(both, ["1.0=01:00.0", "1.1=01:00.1", "2.0=04:00.1"]);
        let with_port = places(&["01:00.1", "01:00.0,port=3", "04:00.1"]).unwrap();
        assert_eq!(with_port, ["1.0=04:00.1", "3.0=01:00.0", "3.1=01:00.1"]);
    }

    #[test]
    fn each_virtual_function_that_is_lent_has_a_port_of_its_own() {
        let vf = |text: &str| Given::by_flag("--vf", text.parse::<VfSpec>().unwrap().0);
        let place = |given: Vec<_>| {
            let assigns = assigns(given, &host().host());
            let shown = |a: &Assign| format!("{}.{} {}", a.port, a.function, a.lent.is_some());
            assigns
                .map(|all| all.iter().map(shown).collect::<Vec<_>>())
                .map_err(|e| e.problem.to_string())
        };
        let beside = Given::by_flag("--assign", "01:00.0".parse().unwrap());
        let three = vec![beside, vf("01:00.0"), vf("01:00.0"), vf("01:00.0,port=1")];
        let places = place(three).unwrap();
        assert_eq!(places, ["1.0 true", "2.0 false", "3.0 true", "4.0 true"]);
        let error = place(vec![vf("01:00.0,port=3"), vf("01:00.0,port=3")]).unwrap_err();
        assert!(error.contains("both on port 3"), "{error}");
    }

    #[test]
    fn there_is_always_a_function_zero() {
        let without = places(&["01:00.3", "01:00.1"]).unwrap();
        assert_eq!(without, ["1.0=01:00.1", "1.3=01:00.3"]);
    }

    #[test]
    fn ports_of_their_own_keep_them_apart() {
        let apart = places(&["01:00.0,port=2", "01:00.1,port=1"]).unwrap();
        assert_eq!(apart, ["1.0=01:00.1", "2.0=01:00.0"]);
    }

    #[test]
    fn what_is_not_known_to_be_one_device_is_not() {
        let unknown = places(&["02:10.0", "02:10.2"]).unwrap();
        assert_eq!(unknown, ["1.0=02:10.0", "2.0=02:10.2"]);
        let told = places(&["02:10.0,port=4", "02:10.2,port=4"]).unwrap();
        assert_eq!(told, ["4.0=02:10.0", "4.2=02:10.2"]);
        let strangers = places(&["01:00.0,port=1", "04:00.1,port=1"]);
        assert!(
            strangers
                .unwrap_err()
                .contains("not functions of one device")
        );
    }
}
