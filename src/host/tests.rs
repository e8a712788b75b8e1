//! A sysfs tree made of files, with the shapes that a real one has.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Tree(tempfile::TempDir);

struct Device<'a> {
    address: &'a str,
    ids: (u16, u16),
    class: u32,
    driver: Option<&'a str>,
    group: Option<u32>,
}

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for dir in ["sys/bus/pci/devices", "sys/kernel/iommu_groups", "dev/vfio"] {
            fs::create_dir_all(tree.0.path().join(dir)).unwrap();
        }
        fs::write(tree.0.path().join("dev/vfio/vfio"), "").unwrap();
        tree
    }

    fn host(&self) -> Host {
        Host::at(self.0.path())
    }

    fn add(&self, device: Device) -> &Self {
        let root = self.0.path();
        let dir = root.join("sys/bus/pci/devices").join(device.address);
        fs::create_dir_all(&dir).unwrap();
        let write = |name: &str, text: String| fs::write(dir.join(name), text).unwrap();
        write("vendor", format!("0x{:04x}\n", device.ids.0));
        write("device", format!("0x{:04x}\n", device.ids.1));
        write("subsystem_vendor", "0x1af4\n".into());
        write("subsystem_device", "0x1100\n".into());
        write("class", format!("0x{:06x}\n", device.class));
        write("revision", "0x01\n".into());
        write("numa_node", "-1\n".into());
        write("reset_method", "flr bus\n".into());
        write(
            "resource",
            "0x00000000fe000000 0x00000000fe003fff 0x0000000000140204\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
                .into(),
        );
        if let Some(driver) = device.driver {
            let to = root.join("sys/bus/pci/drivers").join(driver);
            symlink(to, dir.join("driver")).unwrap();
        }
        if let Some(group) = device.group {
            let to = root.join(format!("sys/kernel/iommu_groups/{group}"));
            fs::create_dir_all(to.join("devices")).unwrap();
            symlink(&dir, to.join("devices").join(device.address)).unwrap();
            symlink(&to, dir.join("iommu_group")).unwrap();
            fs::write(root.join(format!("dev/vfio/{group}")), "").unwrap();
        }
        self
    }
}

fn vf<'a>(driver: Option<&'a str>, group: Option<u32>) -> Device<'a> {
    Device {
        address: "0000:02:10.0",
        ids: (0x8086, 0x10ca),
        class: 0x020000,
        driver,
        group,
    }
}

fn check(tree: &Tree) -> Result<Assignable, String> {
    let address = "0000:02:10.0".parse().unwrap();
    tree.host()
        .check_assignable(address)
        .map_err(|e| e.to_string())
}

#[test]
fn reads_a_function() {
    let tree = Tree::new();
    tree.add(vf(Some("vfio-pci"), Some(17)));
    let dir = tree.0.path().join("sys/bus/pci/devices/0000:02:10.0");
    symlink("../0000:02:00.0", dir.join("physfn")).unwrap();
    let functions = tree.host().functions().unwrap();
    let [f] = &functions[..] else {
        panic!("{functions:?}")
    };
    assert_eq!(
        (f.vendor, f.device, f.class, f.revision),
        (0x8086, 0x10ca, 0x020000, 1)
    );
    assert_eq!(f.subsystem, (0x1af4, 0x1100));
    assert_eq!(
        (f.driver.as_deref(), f.group, f.numa_node),
        (Some("vfio-pci"), Some(17), None)
    );
    assert_eq!(f.resources[0].len(), 0x4000);
    assert!(f.resources[1].is_empty());
    assert_eq!(f.physical.unwrap().to_string(), "0000:02:00.0");
    assert_eq!(f.reset_methods, ["flr", "bus"]);
    assert_eq!(f.name(), "Intel Corporation 82576 Virtual Function");
}

#[test]
fn a_function_alone_in_its_group_is_ready() {
    let tree = Tree::new();
    tree.add(vf(Some("vfio-pci"), Some(17)));
    let ready = check(&tree).unwrap();
    assert_eq!(ready.group.number, 17);
    assert!(ready.sysfs.ends_with("sys/bus/pci/devices/0000:02:10.0"));
}

#[test]
fn says_that_there_is_no_such_device() {
    let error = check(&Tree::new()).unwrap_err();
    assert!(error.contains("no PCI device 0000:02:10.0"), "{error}");
}

#[test]
fn tells_an_iommu_that_is_off_from_one_that_is_elsewhere() {
    let tree = Tree::new();
    tree.add(vf(Some("vfio-pci"), None));
    assert!(check(&tree).unwrap_err().contains("intel_iommu=on"));
    tree.add(Device {
        address: "0000:00:01.0",
        group: Some(1),
        ..vf(None, None)
    });
    let error = check(&tree).unwrap_err();
    assert!(
        error.contains("no IOMMU of this host is in front of it"),
        "{error}"
    );
}

#[test]
fn names_the_driver_that_has_it_and_how_to_rebind() {
    let tree = Tree::new();
    tree.add(vf(Some("igbvf"), Some(17)));
    let error = check(&tree).unwrap_err();
    assert!(
        error.contains("82576 Virtual Function) is bound to the driver igbvf"),
        "{error}"
    );
    assert!(
        error.contains("echo 0000:02:10.0 > /sys/bus/pci/devices/0000:02:10.0/driver/unbind"),
        "{error}"
    );
    assert!(!error.contains('\n'));
}

#[test]
fn says_that_no_driver_has_it() {
    let tree = Tree::new();
    tree.add(vf(None, Some(17)));
    let error = check(&tree).unwrap_err();
    assert!(error.contains("is not bound to vfio-pci"), "{error}");
    assert!(
        error.contains("drivers_probe") && !error.contains("unbind"),
        "{error}"
    );
}

#[test]
fn names_every_device_in_the_way_of_the_group_and_no_other() {
    let tree = Tree::new();
    let other = |address, class, driver| Device {
        address,
        class,
        driver,
        ..vf(None, Some(17))
    };
    tree.add(vf(Some("vfio-pci"), Some(17)))
        .add(other("0000:00:1c.0", 0x060400, Some("pcieport")))
        .add(other("0000:02:10.1", 0x020000, Some("pci-stub")))
        .add(other("0000:02:10.2", 0x020000, None))
        .add(other("0000:02:10.3", 0x020000, Some("mlx5_vfio_pci")));
    assert!(check(&tree).is_ok());
    tree.add(other("0000:02:10.4", 0x010601, Some("ahci")))
        .add(other("0000:02:10.5", 0x0c0330, Some("xhci_hcd")));
    let error = check(&tree).unwrap_err();
    assert!(error.contains("group 17 is not viable"), "{error}");
    assert!(error.contains("0000:02:10.4 (Intel Corporation"), "{error}");
    assert!(
        error.contains("ahci") && error.contains("xhci_hcd"),
        "{error}"
    );
    for innocent in ["00:1c.0", "02:10.1", "02:10.2", "02:10.3"] {
        assert!(!error.contains(innocent), "{error}");
    }
}

#[test]
fn a_bridge_is_not_assignable() {
    let tree = Tree::new();
    tree.add(Device {
        class: 0x060400,
        ..vf(Some("pcieport"), Some(17))
    });
    assert!(check(&tree).unwrap_err().contains("is a PCI bridge"));
}

#[test]
fn says_that_vfio_is_missing_or_forbidden() {
    let tree = Tree::new();
    tree.add(vf(Some("vfio-pci"), Some(17)));
    let node = tree.0.path().join("dev/vfio/17");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o000)).unwrap();
    if !nix::unistd::geteuid().is_root() {
        let error = check(&tree).unwrap_err();
        assert!(error.contains("no permission to open") && error.contains("dev/vfio/17"));
    }
    fs::remove_file(tree.0.path().join("dev/vfio/vfio")).unwrap();
    let error = check(&tree).unwrap_err();
    assert!(error.contains("dev/vfio/vfio does not exist"), "{error}");
    assert!(error.contains("modprobe vfio-pci"), "{error}");
}

#[test]
fn unreadable_numbers_are_an_error_and_not_a_panic() {
    let tree = Tree::new();
    tree.add(vf(Some("vfio-pci"), Some(17)));
    let dir = tree.0.path().join("sys/bus/pci/devices/0000:02:10.0");
    fs::write(dir.join("vendor"), "garbage\n").unwrap();
    assert!(
        check(&tree)
            .unwrap_err()
            .contains("cannot read about 0000:02:10.0")
    );
}
