//! Which root port each assigned device is plugged into, and as which function.
//!
//! Functions of one device of the host, such as a graphics adapter and the audio function
//! beside it, become functions of one device again: their drivers look for each other there.
//! Virtual functions only look as if they shared a device, and get a port each unless told
//! otherwise.

use std::collections::BTreeMap;

use devices::vfio::RomSource;

use super::validate::{Once, Problem, check_file, error};
use super::{Assign, AssignSpec, ConfigError, DeviceSpec, Given, MAX_PORT, Origin, id, interface};
use crate::host::{Host, HostDevice, Inherited};

/// A device that is asked for, once it is known which it is.
#[derive(Debug)]
pub(super) struct Wish {
    pub device: HostDevice,
    pub file: Option<Inherited>,
    pub spec: AssignSpec,
}

/// What goes into one slot.
struct Slot {
    port: Option<u8>,
    /// Not empty. All have the segment, bus and device number of the first.
    functions: Vec<Wish>,
    origin: Origin,
}

/// Gives every device a port, the one it asks for or the first that nobody does, and a
/// function number. `ids` are those of all the machine's devices.
pub(super) fn assigns(
    given: Vec<Given<AssignSpec>>,
    host: &Host,
    ids: &mut Once<String>,
) -> Result<Vec<Assign>, ConfigError> {
    let (interface, iommufd) = interface::agree(&given, host)?;
    let wishes = identify(given, host, ids)?;
    let mut slots: Vec<Slot> = Vec::new();
    // Those that ask first: the others may belong with them.
    let (asking, others): (Vec<_>, Vec<_>) = wishes
        .into_iter()
        .partition(|g| g.value.spec.port.is_some());
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
    let mut assigns = choose_ports(slots)?;
    for assign in &mut assigns {
        (assign.interface, assign.iommufd) = (interface, iommufd.clone());
    }
    Ok(assigns)
}

/// Finds out which devices are meant, none of them twice.
fn identify(
    given: Vec<Given<AssignSpec>>,
    host: &Host,
    ids: &mut Once<String>,
) -> Result<Vec<Given<Wish>>, ConfigError> {
    let (mut devices, mut descriptors) = (Once::new(), Once::new());
    let mut wishes = Vec::new();
    for Given { value, origin } in given {
        let (file, device) = match value.device {
            DeviceSpec::Named(device) => (None, device),
            DeviceSpec::Open(descriptor) => {
                descriptors.check(descriptor, &origin, || value.device.to_string())?;
                let inherited = host.inherited_device(descriptor);
                let (file, device) = inherited.map_err(|e| error(&origin, e.into()))?;
                (Some(file), device)
            }
        };
        // A physical function may lend many.
        if value.lent.is_none() {
            devices.check(device, &origin, || device.to_string())?;
        }
        if let RomSource::File(path) = &value.presentation.rom {
            check_file(path).map_err(|problem| error(&origin, problem))?;
        }
        let wish = Wish {
            device,
            file,
            spec: value,
        };
        // What is yet to be lent will be called by its own address.
        if wish.spec.lent.is_none() || wish.spec.id.is_some() {
            ids.check(wish.id(), &origin, || format!("id={}", wish.id()))?;
        }
        wishes.push(Given {
            value: wish,
            origin,
        });
    }
    Ok(wishes)
}

impl Wish {
    pub fn id(&self) -> String {
        let own = || id::of_device(self.device);
        self.spec.id.clone().unwrap_or_else(own)
    }

    fn placed(self, port: u8, function: u8) -> Assign {
        Assign {
            id: self.id(),
            device: self.device,
            file: self.file,
            interface: self.spec.interface,
            // What all agree on, which is the caller's to fill in.
            iommufd: None,
            port,
            function,
            presentation: self.spec.presentation,
            on_error: self.spec.on_error,
            lent: self.spec.lent,
        }
    }
}

impl Slot {
    fn with(first: Wish, origin: Origin) -> Self {
        Self {
            port: first.spec.port,
            functions: vec![first],
            origin,
        }
    }
}

/// Puts the functions of a device behind a port, by the numbers that they have on the host.
/// Without a number 0 nobody would look for the others (PCIe 6.0 §7.5.1.1.9), so the first takes
/// it.
pub(super) fn place(mut functions: Vec<Wish>, port: u8) -> impl Iterator<Item = Assign> {
    functions.sort_unstable_by_key(|wish| wish.device);
    let numbers = functions.into_iter().enumerate();
    numbers.map(move |(index, wish)| {
        let function = wish.device.pci().map_or(0, |at| at.bdf.function());
        wish.placed(port, if index == 0 { 0 } else { function })
    })
}

/// Puts a device into the slot it asks for.
fn join_port(slots: &mut Vec<Slot>, value: Wish, origin: Origin) -> Result<(), ConfigError> {
    let taken = slots.iter_mut().find(|slot| slot.port == value.spec.port);
    let (Some(slot), Some(port)) = (taken, value.spec.port) else {
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
            (None, Some(wish)) => {
                return Err(error(&slot.origin, Problem::NoPort(wish.device)));
            }
            (None, None) => (),
        }
    }
    let assigns = taken
        .into_iter()
        .flat_map(|(port, slot)| place(slot.functions, port));
    Ok(assigns.collect())
}

/// They are in one place on the host, but for their function numbers. Where one will be that
/// is yet to be lent is not known, and a mediated device is nowhere.
pub(super) fn share_slot(a: &Wish, b: &Wish) -> bool {
    let place = |wish: &Wish| {
        let at = wish.device.pci().filter(|_| wish.spec.lent.is_none())?;
        Some((at.segment, at.bdf.bus(), at.bdf.devfn() & !7))
    };
    place(a).is_some() && place(a) == place(b)
}

/// They are functions of one device: in one place, and neither is virtual.
fn are_one(host: &Host, a: &Wish, b: &Wish) -> bool {
    // What the host does not know is told when it is opened.
    let is_physical = |of: &Wish| {
        let function = of.device.pci().map(|at| host.function(at));
        matches!(function, Some(Ok(Some(f))) if f.physical.is_none())
    };
    share_slot(a, b) && is_physical(a) && is_physical(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VfSpec;
    use crate::host::fake_tree::{FakeFunction, FakeTree};
    use crate::host::inherited_tests::{inherited_null, null_is};

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

    fn short(device: HostDevice) -> String {
        match device {
            HostDevice::Pci(address) => address.bdf.to_string(),
            mediated @ HostDevice::Mediated(_) => mediated.to_string(),
        }
    }

    fn places(wanted: &[&str]) -> Result<Vec<String>, String> {
        let given = wanted
            .iter()
            .map(|text| Given::by_flag("--assign", text.parse().unwrap()));
        let assigns = assigns(given.collect(), &host().host(), &mut Once::new());
        let shown = |a: &Assign| format!("{}.{}={}", a.port, a.function, short(a.device));
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
            let assigns = assigns(given, &host().host(), &mut Once::new());
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

    #[test]
    fn mediated_devices_have_ports_of_their_own() {
        const UUIDS: [&str; 2] = [
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002",
        ];
        let apart = places(&[UUIDS[0], "01:00.0", UUIDS[1]]).unwrap();
        let mediated = |port: u8, uuid| format!("{port}.0=mdev {uuid}");
        assert_eq!(
            apart,
            [
                mediated(1, UUIDS[0]),
                "2.0=01:00.0".to_owned(),
                mediated(3, UUIDS[1])
            ]
        );
        let together = UUIDS.map(|uuid| format!("mdev={uuid},port=1"));
        let together = together.each_ref().map(String::as_str);
        assert!(places(&together).unwrap_err().contains("both on port 1"));
        assert!(
            places(&[UUIDS[0], UUIDS[0]])
                .unwrap_err()
                .contains("is given twice")
        );
    }

    #[test]
    fn an_open_file_stands_for_its_device() {
        let tree = host();
        null_is(&tree, "sys/devices/pci0000:00/0000:01:00.0/vfio-dev/vfio3");
        tree.write("sys/class/misc/iommu/dev", "1:3");
        let assigned = |texts: &[&str]| {
            let given = texts
                .iter()
                .map(|text| Given::by_flag("--assign", text.parse().unwrap()));
            assigns(given.collect(), &tree.host(), &mut Once::new())
                .map_err(|e| e.problem.to_string())
        };
        let open = || format!("fd={}", inherited_null());
        let with_iommufd = format!("{},iommufd={}", open(), inherited_null());
        let all = assigned(&[&with_iommufd, "01:00.1"]).unwrap();
        let shown = |a: &Assign| (short(a.device), a.port, a.function, a.file.is_some());
        let shown: Vec<_> = all.iter().map(shown).collect();
        assert_eq!(
            shown,
            [
                ("01:00.0".to_owned(), 1, 0, true),
                ("01:00.1".to_owned(), 1, 1, false)
            ]
        );
        assert!(all.iter().all(|a| a.interface.to_string() == "iommufd"));
        assert!(all[0].iommufd.is_some() && all[0].iommufd == all[1].iommufd);

        let error = |texts: &[&str]| assigned(texts).unwrap_err();
        assert!(error(&["fd=1048576"]).contains("1048576 is not open"));
        let twice = open();
        assert!(error(&[&twice, &twice]).contains(&format!("{twice} is given twice")));
        assert!(error(&[&open(), &open()]).contains("0000:01:00.0 is given twice"));
        assert!(error(&["01:00.0", &open()]).contains("0000:01:00.0 is given twice"));
        assert!(error(&["01:00.0,iommufd=1048576"]).contains("1048576 is not open"));
    }
}
