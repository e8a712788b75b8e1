//! Virtual functions made, set up and removed, with every call failing once.

use super::*;
use crate::cli::one_line;
use crate::host::fake_kernel::{ETH0, FakeKernel, PF, new_vf, vf};
use crate::host::fake_tree::FakeFunction;
use crate::host::{Changes, VfLink, Vlan};
use devices::net::Mac;
use std::sync::Arc;

fn pf() -> HostBdf {
    PF.parse().unwrap()
}

fn changes(kernel: &Arc<FakeKernel>) -> Changes<'static> {
    Changes::begin(&kernel.host(), kernel.clone()).unwrap()
}

fn set(
    kernel: &Arc<FakeKernel>,
    count: impl Into<Option<u16>>,
    settings: &[(u32, VfSettings)],
) -> Result<(), String> {
    let set = changes(kernel).set_vfs(pf(), count.into(), settings);
    set.map_err(|e| one_line(&e))
}

fn mac(last: u8) -> VfSettings {
    VfSettings {
        mac: Some(Mac([2, 0, 0, 0, 0, last])),
        ..VfSettings::default()
    }
}

fn vlan(id: u16) -> VfSettings {
    VfSettings {
        vlan: Some(Vlan {
            id,
            ..Vlan::default()
        }),
        ..VfSettings::default()
    }
}

#[test]
fn makes_sets_up_and_removes() {
    let kernel = FakeKernel::with_pf();
    let before = kernel.snapshot();
    set(&kernel, 3, &[(2, mac(9))]).unwrap();
    assert_eq!(
        kernel.calls(),
        [
            "eth0?",
            "eth0?",
            "eth0 up: true",
            "sys/bus/pci/devices/0000:02:00.0/sriov_drivers_autoprobe < 0",
            "sys/bus/pci/devices/0000:02:00.0/sriov_numvfs < 3",
            "eth0?",
            "eth0?",
            "eth0 vf 2 mac=02:00:00:00:00:09"
        ]
    );
    let link = kernel.link_now(ETH0);
    assert!(link.up && link.vfs.len() == 3);
    assert_eq!(link.vfs[2].mac, mac(9).mac);
    assert_eq!(kernel.driver_of(&vf(0)), None, "igbvf did not get it");
    assert_eq!(kernel.records(), ["sriov-0000:02:00.0"]);

    // The number that there are: nothing goes, and what is set stays.
    set(&kernel, 3, &[(0, vlan(7))]).unwrap();
    let vfs = kernel.link_now(ETH0).vfs;
    assert_eq!((vfs[0].vlan, vfs[2].mac), (vlan(7).vlan, mac(9).mac));
    // Another: they are made anew.
    set(&kernel, 5, &[]).unwrap();
    assert_eq!(kernel.link_now(ETH0).vfs, [new_vf(); 5]);

    set(&kernel, 0, &[]).unwrap();
    assert_eq!(kernel.snapshot(), before);
    assert!(kernel.records().is_empty());
}

#[test]
fn shows_what_there_is() {
    let kernel = FakeKernel::with_pf();
    set(&kernel, 2, &[(1, mac(1))]).unwrap();
    kernel.tree.bind(&vf(1), "vfio-pci");
    kernel
        .tree
        .write("proc/812/comm", "sluice\n")
        .link("proc/812/fd/9", "dev/vfio/41");
    let changes = changes(&kernel);
    let physical = kernel.host().physical_function(pf()).unwrap();
    assert_eq!((physical.made(), physical.total), (2, 7));
    assert!(!physical.autoprobe);
    let reports = changes.vf_reports(&physical).unwrap();
    assert_eq!(reports[0].in_use, None);
    assert_eq!(reports[1].in_use.as_deref(), Some("sluice (process 812)"));
    assert_eq!(reports[1].settings.mac, mac(1).mac);
}

#[test]
fn waits_until_they_answer_but_not_for_ever() {
    let kernel = FakeKernel::with_pf();
    kernel.slow(Some(100));
    set(&kernel, 2, &[]).unwrap();
    set(&kernel, 0, &[]).unwrap();
    let before = kernel.snapshot();
    kernel.slow(None);
    let error = set(&kernel, 2, &[]).unwrap_err();
    let says = "virtual function 0 of 0000:02:00.0 did not appear within 10 s";
    assert!(error.contains(says), "{error}");
    assert_eq!(kernel.snapshot(), before);
}

/// VFs that are there already are made anew, with their drivers and settings.
#[test]
fn whatever_fails_all_is_as_it_was() {
    let settings = VfSettings {
        mac: Some(Mac([2, 0, 0, 0, 0, 5])),
        link: Some(VfLink::Enable),
        ..vlan(9)
    };
    for call in 0.. {
        let kernel = FakeKernel::with_pf();
        set(&kernel, 2, &[(1, mac(1)), (0, vlan(100))]).unwrap();
        kernel.tree.bind(&vf(1), "vfio-pci");
        let preferred = kernel.tree.attribute(&vf(1), "driver_override");
        std::fs::write(&preferred, "vfio-pci\n").unwrap();
        let before = kernel.snapshot();
        kernel.fail_at(call);
        let Err(error) = set(&kernel, 4, &[(3, settings)]) else {
            assert_eq!(call, 9, "every call failed once");
            return;
        };
        assert!(error.contains("Input/output error"), "{error}");
        assert_eq!(kernel.snapshot(), before, "call {call}: {error}");
        assert_eq!(kernel.records(), ["sriov-0000:02:00.0"]);
    }
}

#[test]
fn the_first_ones_too() {
    for call in 0.. {
        let kernel = FakeKernel::with_pf();
        let before = kernel.snapshot();
        kernel.fail_at(call);
        let Err(error) = set(&kernel, 4, &[(3, mac(1))]) else {
            assert_eq!(call, 8, "every call failed once");
            return;
        };
        assert_eq!(kernel.snapshot(), before, "call {call}: {error}");
        assert!(kernel.records().is_empty());
    }
}

#[test]
fn none_goes_while_one_is_in_use() {
    let kernel = FakeKernel::with_pf();
    set(&kernel, 2, &[]).unwrap();
    kernel.tree.bind(&vf(1), "vfio-pci");
    kernel
        .tree
        .write("proc/812/comm", "qemu\n")
        .link("proc/812/fd/9", "dev/vfio/41");
    for count in [0, 1, 3] {
        let error = set(&kernel, count, &[]).unwrap_err();
        assert!(
            error.contains("0000:02:10.2 by qemu (process 812)"),
            "{error}"
        );
    }
    // Settings may change.
    set(&kernel, 2, &[(1, vlan(4))]).unwrap();
    set(&kernel, None, &[(1, vlan(5))]).unwrap();
    kernel.tree.remove("proc/812/fd/9").unbind(&vf(1));

    kernel.tree.bind(&vf(0), "igbvf");
    kernel.interface(&vf(0), "eth5");
    crate::host::Kernel::set_up(&*kernel, "eth5", true).unwrap();
    let error = set(&kernel, 0, &[]).unwrap_err();
    assert!(error.contains("this host, as eth5, which is up"), "{error}");
}

/// An NVMe controller's are made without a word about its network.
#[test]
fn a_device_that_is_no_network_card() {
    const NVME: &str = "0000:05:00.0";
    let kernel = FakeKernel::new();
    kernel.tree.add(&FakeFunction {
        class: 0x01_0802,
        driver: Some("nvme"),
        sriov: Some((4, 0)),
        ..FakeFunction::at(NVME)
    });
    let set = |count, settings: &[(u32, VfSettings)]| {
        let set = changes(&kernel).set_vfs(NVME.parse().unwrap(), Some(count), settings);
        set.map_err(|e| one_line(&e))
    };
    let error = set(2, &[(0, mac(1))]).unwrap_err();
    assert!(error.contains("no network interface"), "{error}");
    set(2, &[(0, VfSettings::default())]).unwrap();
    let calls = kernel.calls();
    assert!(
        calls.iter().all(|call| call.starts_with("sys/")),
        "{calls:?}"
    );
    set(0, &[]).unwrap();
}

#[test]
fn says_why_there_can_be_none() {
    let kernel = FakeKernel::with_pf();
    kernel
        .tree
        .add(&FakeFunction {
            driver: Some("e1000e"),
            ..FakeFunction::at("0000:03:00.0")
        })
        .add(&FakeFunction {
            sriov: Some((7, 0)),
            driver: Some("vfio-pci"),
            ..FakeFunction::at("0000:04:00.0")
        });
    let error = |address: &str, count, settings: &[(u32, VfSettings)]| {
        let set = changes(&kernel).set_vfs(address.parse().unwrap(), Some(count), settings);
        one_line(&set.unwrap_err())
    };
    for (address, count, says) in [
        ("0000:0f:00.0", 1, "no PCI device 0000:0f:00.0"),
        ("0000:03:00.0", 1, "no SR-IOV capability"),
        ("0000:04:00.0", 1, "`sluice release 0000:04:00.0`"),
        (PF, 8, "can have 7 virtual functions, not 8"),
    ] {
        let error = error(address, count, &[]);
        assert!(error.contains(says), "{error}");
    }
    let error_of_vf = error(PF, 2, &[(2, mac(1))]);
    let says = "no virtual function 2: there are 2, counted from 0";
    assert!(error_of_vf.contains(says), "{error_of_vf}");
    set(&kernel, 1, &[]).unwrap();
    let error = error(&vf(0), 1, &[]);
    assert!(
        error.contains("its physical function is 0000:02:00.0"),
        "{error}"
    );
}
