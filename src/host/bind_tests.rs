//! Devices handed to VFIO and back, with every call failing once.

use super::*;
use crate::cli::one_line;
use crate::host::fake_kernel::{FakeKernel, PF};
use crate::host::fake_tree::FakeFunction;
use std::sync::Arc;

const NIC: &str = "0000:03:00.0";

/// A NIC alone in its group, with its driver.
fn kernel() -> Arc<FakeKernel> {
    let kernel = FakeKernel::new();
    kernel.tree.add(&FakeFunction {
        driver: Some("e1000e"),
        group: Some(21),
        ids: (0x8086, 0x10d3),
        ..FakeFunction::at(NIC)
    });
    kernel.finds(NIC, "e1000e");
    kernel
}

fn bdf(address: &str) -> HostBdf {
    address.parse().unwrap()
}

fn bind(kernel: &Arc<FakeKernel>, addresses: &[&str], force: bool) -> Result<Vec<Bound>, String> {
    let addresses: Vec<_> = addresses.iter().map(|a| bdf(a)).collect();
    let changes = Changes::begin(&kernel.host(), kernel.clone()).unwrap();
    changes.bind(&addresses, force).map_err(|e| one_line(&e))
}

fn release(kernel: &Arc<FakeKernel>, addresses: &[&str]) -> Result<Vec<Released>, String> {
    let addresses: Vec<_> = addresses.iter().map(|a| bdf(a)).collect();
    let changes = Changes::begin(&kernel.host(), kernel.clone()).unwrap();
    changes.release(&addresses).map_err(|e| one_line(&e))
}

#[test]
fn a_device_goes_to_vfio_and_back_to_its_driver() {
    let kernel = kernel();
    let before = kernel.snapshot();
    let bound = bind(&kernel, &[NIC], false).unwrap();
    assert_eq!(bound[0].before.driver.as_deref(), Some("e1000e"));
    assert_eq!(kernel.driver_of(NIC).as_deref(), Some("vfio-pci"));
    assert_eq!(
        kernel.calls(),
        [
            "sys/bus/pci/devices/0000:03:00.0/driver_override < vfio-pci",
            "sys/bus/pci/drivers/e1000e/unbind < 0000:03:00.0",
            "sys/bus/pci/drivers_probe < 0000:03:00.0"
        ]
    );
    assert_eq!(kernel.records(), ["bound-0000:03:00.0"]);

    // Again: nothing happens, and nothing is forgotten.
    assert!(bind(&kernel, &[NIC], false).unwrap()[0].was_bound());
    assert!(kernel.calls().is_empty());

    let released = release(&kernel, &[NIC]).unwrap();
    assert_eq!(released[0].driver.as_deref(), Some("e1000e"));
    assert_eq!(kernel.snapshot(), before);
    assert!(kernel.records().is_empty());
    kernel.calls();
    release(&kernel, &[NIC]).unwrap();
    assert!(kernel.calls().is_empty());
}

#[test]
fn the_preference_and_the_lack_of_a_driver_come_back_too() {
    let kernel = kernel();
    kernel.tree.unbind(NIC);
    let path = kernel.tree.attribute(NIC, "driver_override");
    std::fs::write(&path, "mine\n").unwrap();
    let before = kernel.snapshot();
    bind(&kernel, &[NIC], false).unwrap();
    release(&kernel, &[NIC]).unwrap();
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn what_somebody_else_bound_goes_to_the_driver_that_the_kernel_finds() {
    let kernel = kernel();
    kernel.tree.unbind(NIC).bind(NIC, "vfio-pci");
    let path = kernel.tree.attribute(NIC, "driver_override");
    std::fs::write(&path, "vfio-pci\n").unwrap();
    let released = release(&kernel, &[NIC]).unwrap();
    assert_eq!(released[0].driver.as_deref(), Some("e1000e"));
}

#[test]
fn a_driver_that_was_unloaded_meanwhile_is_looked_for() {
    let kernel = kernel();
    bind(&kernel, &[NIC], false).unwrap();
    kernel.tree.remove("sys/bus/pci/drivers/e1000e");
    let error = release(&kernel, &[NIC]).unwrap_err();
    assert!(
        error.contains("e1000e did not take 0000:03:00.0"),
        "{error}"
    );
    assert!(error.contains("no driver now"), "{error}");
}

#[test]
fn whatever_fails_all_is_as_it_was() {
    const OTHER: &str = "0000:03:00.1";
    for call in 0.. {
        let kernel = kernel();
        kernel.tree.add(&FakeFunction {
            driver: Some("e1000e"),
            group: Some(22),
            ..FakeFunction::at(OTHER)
        });
        kernel.tree.remove("sys/bus/pci/drivers/vfio-pci");
        let before = kernel.snapshot();
        kernel.fail_at(call);
        let Err(error) = bind(&kernel, &[NIC, OTHER], false) else {
            assert_eq!(call, 7, "every call failed once");
            return;
        };
        assert!(error.contains("Input/output error"), "{error}");
        let mut after = kernel.snapshot();
        // A module that was loaded stays.
        after.retain(|path, _| !path.to_string_lossy().contains("drivers/vfio-pci"));
        assert_eq!(after, before, "call {call}: {error}");
        assert!(kernel.records().is_empty());
    }
}

#[test]
fn a_device_that_vfio_refuses_stays_with_its_driver() {
    let kernel = kernel();
    kernel.refuses("vfio-pci");
    let before = kernel.snapshot();
    let error = bind(&kernel, &[NIC], false).unwrap_err();
    assert!(error.contains("nothing is changed"), "{error}");
    assert!(
        error.contains("vfio-pci did not take 0000:03:00.0"),
        "{error}"
    );
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn a_group_goes_as_a_whole() {
    let kernel = kernel();
    let other = |address, class, driver| FakeFunction {
        class,
        driver,
        group: Some(21),
        ..FakeFunction::at(address)
    };
    kernel
        .tree
        .add(&other("0000:00:1c.0", 0x06_0400, Some("pcieport")))
        .add(&other("0000:03:00.1", 0x02_0000, None))
        .add(&other("0000:03:00.2", 0x0c_0330, Some("xhci_hcd")));
    let before = kernel.snapshot();
    let error = bind(&kernel, &[NIC], false).unwrap_err();
    assert!(
        error.contains("shares IOMMU group 21 with 0000:03:00.2"),
        "{error}"
    );
    assert!(error.contains("xhci_hcd"), "{error}");
    let command = "`sluice bind 0000:03:00.0 0000:03:00.2`";
    assert!(error.contains(command), "{error}");
    assert_eq!(kernel.snapshot(), before);
    bind(&kernel, &[NIC, "0000:03:00.2"], false).unwrap();
    release(&kernel, &["0000:03:00.2", NIC]).unwrap();
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn what_the_host_needs_is_taken_by_force_only() {
    let kernel = kernel();
    kernel.interface(NIC, "eth3");
    let route = "eth3\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    kernel
        .tree
        .write("proc/net/route", format!("header\n{route}"));
    let error = bind(&kernel, &[NIC], false).unwrap_err();
    assert!(
        error.contains("the default route goes through it (eth3)"),
        "{error}"
    );
    assert!(error.contains("--force"), "{error}");
    assert_eq!(kernel.driver_of(NIC).as_deref(), Some("e1000e"));
    bind(&kernel, &[NIC], true).unwrap();
    assert_eq!(kernel.driver_of(NIC).as_deref(), Some("vfio-pci"));
}

#[test]
fn a_guests_device_is_not_taken_from_it() {
    let kernel = kernel();
    bind(&kernel, &[NIC], false).unwrap();
    kernel
        .tree
        .write("proc/812/comm", "sluice\n")
        .link("proc/812/fd/9", "dev/vfio/21");
    let error = release(&kernel, &[NIC]).unwrap_err();
    assert!(error.contains("in use by sluice (process 812)"), "{error}");
    assert_eq!(kernel.driver_of(NIC).as_deref(), Some("vfio-pci"));
}

#[test]
fn says_why_a_device_can_never_be_bound() {
    let kernel = FakeKernel::with_pf();
    kernel
        .tree
        .add(&FakeFunction {
            class: 0x06_0400,
            group: Some(1),
            ..FakeFunction::at("0000:00:1c.0")
        })
        .add(&FakeFunction::at("0000:00:1f.3"));
    for (address, says) in [
        ("0000:0f:00.0", "no PCI device 0000:0f:00.0"),
        ("0000:00:1c.0", "bridge"),
        ("0000:00:1f.3", "no IOMMU"),
    ] {
        let error = bind(&kernel, &[address], true).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    let numvfs = kernel.tree.attribute(PF, "sriov_numvfs");
    crate::host::Kernel::write(&*kernel, &numvfs, "2").unwrap();
    let error = bind(&kernel, &[PF], false).unwrap_err();
    assert!(
        error.contains("`sluice sriov 0000:02:00.0 --vfs 0`"),
        "{error}"
    );
}

/// Killed in the middle: the next command finds the list and puts all back.
#[test]
fn what_a_killed_process_left_is_put_back_first() {
    let kernel = kernel();
    let before = kernel.snapshot();
    let changes = Changes::begin(&kernel.host(), kernel.clone()).unwrap();
    let mut attempt = changes.attempt().unwrap();
    let function = changes.function(bdf(NIC)).unwrap();
    changes.give_to_vfio(&mut attempt, &function).unwrap();
    drop(attempt.keep());
    drop(changes);
    assert_ne!(kernel.snapshot(), before);
    release(&kernel, &[NIC]).unwrap();
    assert_eq!(kernel.snapshot(), before);
    assert!(kernel.records().is_empty());
}
