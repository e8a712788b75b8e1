//! What is read of a host, and what is said of a function that a guest is to have.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::fake_tree::{FakeFunction, FakeTree};
use super::*;

fn vf(driver: Option<&'static str>, group: Option<u32>) -> FakeFunction {
    FakeFunction {
        driver,
        group,
        ..FakeFunction::at("0000:02:10.0")
    }
}

fn check(tree: &FakeTree) -> Result<Assignable, String> {
    let address = "0000:02:10.0".parse().unwrap();
    tree.host()
        .check_assignable(address)
        .map_err(|e| e.to_string())
}

#[test]
fn reads_a_function() {
    let tree = FakeTree::new();
    tree.add(&FakeFunction::at("0000:02:00.0"));
    tree.add(&FakeFunction {
        physical: Some("0000:02:00.0"),
        ..vf(Some("vfio-pci"), Some(17))
    });
    let functions = tree.host().functions().unwrap();
    let [_, f] = &functions[..] else {
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
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), Some(17)));
    let ready = check(&tree).unwrap();
    assert_eq!(ready.group.number, 17);
    assert!(ready.sysfs.ends_with("sys/bus/pci/devices/0000:02:10.0"));
}

#[test]
fn says_that_there_is_no_such_device() {
    let error = check(&FakeTree::new()).unwrap_err();
    assert!(error.contains("no PCI device 0000:02:10.0"), "{error}");
}

#[test]
fn tells_an_iommu_that_is_off_from_one_that_is_elsewhere() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), None));
    assert!(check(&tree).unwrap_err().contains("intel_iommu=on"));
    tree.add(&FakeFunction {
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
    let tree = FakeTree::new();
    tree.add(&vf(Some("igbvf"), Some(17)));
    let error = check(&tree).unwrap_err();
    assert!(
        error.contains(
            "82576 Virtual Function) cannot be assigned: it is bound to the driver igbvf"
        ),
        "{error}"
    );
    assert!(
        error.contains("; bind it with `sluice bind 0000:02:10.0`"),
        "{error}"
    );
    assert!(!error.contains('\n'));
}

#[test]
fn says_that_no_driver_has_it() {
    let tree = FakeTree::new();
    tree.add(&vf(None, Some(17)));
    let error = check(&tree).unwrap_err();
    assert!(error.contains("is not bound to vfio-pci"), "{error}");
    assert!(error.contains("`sluice bind 0000:02:10.0`"), "{error}");
}

#[test]
fn names_every_device_in_the_way_of_the_group_and_no_other() {
    let tree = FakeTree::new();
    let other = |address, class, driver| FakeFunction {
        address,
        class,
        driver,
        ..vf(None, Some(17))
    };
    tree.add(&vf(Some("vfio-pci"), Some(17)))
        .add(&other("0000:00:1c.0", 0x060400, Some("pcieport")))
        .add(&other("0000:02:10.1", 0x020000, Some("pci-stub")))
        .add(&other("0000:02:10.2", 0x020000, None))
        .add(&other("0000:02:10.3", 0x020000, Some("mlx5_vfio_pci")));
    assert!(check(&tree).is_ok());
    tree.add(&other("0000:02:10.4", 0x010601, Some("ahci")))
        .add(&other("0000:02:10.5", 0x0c0330, Some("xhci_hcd")));
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
fn tells_of_the_whole_group_before_anything_is_bound() {
    let tree = FakeTree::new();
    tree.add(&vf(None, Some(17))).add(&FakeFunction {
        address: "0000:02:10.1",
        ..vf(Some("igbvf"), Some(17))
    });
    let error = check(&tree).unwrap_err();
    assert!(
        error.contains("is not bound to vfio-pci, and the host uses 0000:02:10.1"),
        "{error}"
    );
    assert!(
        error.contains("`sluice bind 0000:02:10.0 0000:02:10.1`"),
        "{error}"
    );
}

#[test]
fn the_firmwares_memory_keeps_a_group_from_guests() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), Some(17)));
    let regions = |kind: &str| {
        let lines = format!(
            "0x00000000000e8000 0x00000000000e8fff {kind}\n\
             0x00000000fee00000 0x00000000feefffff msi\n"
        );
        tree.write("sys/kernel/iommu_groups/17/reserved_regions", lines);
    };
    regions("direct-relaxable");
    assert!(check(&tree).is_ok());
    regions("direct");
    let error = check(&tree).unwrap_err();
    assert!(error.contains("memory at 0xe8000–0xe8fff"), "{error}");
}

#[test]
fn interrupts_must_be_remapped_unless_the_operator_says_otherwise() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), Some(17)));
    let interrupts = |controller: &str| {
        let lines = format!("      CPU0  CPU1\n 0:  171  12  {controller}  2-edge  timer\n");
        tree.write("proc/interrupts", lines);
    };
    interrupts("IR-IO-APIC");
    assert!(check(&tree).is_ok());
    interrupts("IO-APIC");
    assert!(
        check(&tree)
            .unwrap_err()
            .contains("does not remap interrupts")
    );
    let allow = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    tree.write(allow, "N\n");
    assert!(check(&tree).is_err());
    tree.write(allow, "Y\n");
    assert!(check(&tree).is_ok());
    interrupts("XT-PIC");
    assert_eq!(tree.host().interrupt_remapping(), Remapping::Unknown);
    assert!(check(&tree).is_ok(), "the kernel will know");
}

#[test]
fn a_device_that_a_guest_has_is_not_to_be_had() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), Some(17)))
        .write("proc/4321/comm", "sluice\n")
        .link("proc/4321/fd/7", "dev/vfio/17");
    let error = check(&tree).unwrap_err();
    assert!(error.contains("sluice (process 4321) has it"), "{error}");
    tree.remove("proc/4321/fd/7")
        .link("proc/4321/fd/7", "dev/vfio/18");
    assert!(check(&tree).is_ok(), "it has another");
}

#[test]
fn what_the_host_needs_is_said() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("igbvf"), Some(17)))
        .write("proc/self/mountinfo", "")
        .write(
            "proc/net/route",
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
             eth1 00000000 0100000A 0003 0 0 0 00000000 0 0 0\n",
        );
    let net = tree.attribute("0000:02:10.0", "net/eth1");
    fs::create_dir_all(&net).unwrap();
    tree.link("sys/class/net/eth1", net);
    let error = check(&tree).unwrap_err();
    assert!(
        error.contains("the default route goes through it (eth1)"),
        "{error}"
    );
    assert!(
        error.contains("see that the host does without it"),
        "{error}"
    );
}

#[test]
fn a_device_node_of_its_own_will_do() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), Some(17)))
        .remove("dev/vfio/vfio");
    assert!(check(&tree).is_err());
    let node = tree.attribute("0000:02:10.0", "vfio-dev/vfio3/dev");
    tree.write(node, "").write("dev/vfio/devices/vfio3", "");
    assert!(check(&tree).is_err(), "iommufd is not there");
    tree.write("dev/iommu", "");
    assert!(check(&tree).is_ok());
}

#[test]
fn a_device_that_goes_away_while_it_is_read_is_not_there() {
    let tree = FakeTree::new();
    tree.add(&vf(None, None))
        .remove(tree.attribute("0000:02:10.0", "vendor"));
    assert_eq!(tree.host().functions().unwrap(), []);
    assert!(check(&tree).unwrap_err().contains("no PCI device"));
}

#[test]
fn a_bridge_is_not_assignable() {
    let tree = FakeTree::new();
    tree.add(&FakeFunction {
        class: 0x060400,
        ..vf(Some("pcieport"), Some(17))
    });
    assert!(check(&tree).unwrap_err().contains("is a PCI bridge"));
}

#[test]
fn says_that_vfio_is_missing_or_forbidden() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), Some(17)));
    let node = tree.path("dev/vfio/17");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o000)).unwrap();
    if !nix::unistd::geteuid().is_root() {
        let error = check(&tree).unwrap_err();
        assert!(error.contains("no permission to open") && error.contains("dev/vfio/17"));
    }
    tree.remove("dev/vfio/vfio");
    let error = check(&tree).unwrap_err();
    assert!(error.contains("dev/vfio/vfio does not exist"), "{error}");
    assert!(error.contains("modprobe vfio-pci"), "{error}");
}

#[test]
fn unreadable_numbers_are_an_error_and_not_a_panic() {
    let tree = FakeTree::new();
    tree.add(&vf(Some("vfio-pci"), Some(17)));
    tree.write(tree.attribute("0000:02:10.0", "vendor"), "garbage\n");
    assert!(
        check(&tree)
            .unwrap_err()
            .contains("cannot read about 0000:02:10.0")
    );
}
