//! Virtual functions lent and given back: after every kind of end, and with every call
//! failing once, the host is as it was.

use std::cell::Cell;

use super::*;
use crate::cli::one_line;
use crate::host::fake_kernel::{ETH0, FakeKernel, PF, vf};
use crate::host::fake_tree::FakeFunction;
use crate::host::{VfLink, Vlan};
use devices::net::Mac;

fn bdf(address: &str) -> HostBdf {
    address.parse().unwrap()
}

fn wish(last: u8) -> VfWish {
    VfWish {
        pf: bdf(PF),
        settings: VfSettings {
            mac: Some(Mac([2, 0, 0, 0, 0, last])),
            vlan: Some(Vlan {
                id: 100,
                ..Vlan::default()
            }),
            link: Some(VfLink::Enable),
            ..VfSettings::default()
        },
    }
}

fn take(kernel: &Arc<FakeKernel>, wishes: &[VfWish]) -> Result<Lease, String> {
    let lease = Lease::take(&kernel.host(), kernel.clone(), wishes, &[], &|| false);
    lease.map_err(|e| one_line(&e))
}

fn functions(lease: &Lease) -> Vec<String> {
    let each = lease.functions().iter();
    each.map(ToString::to_string).collect()
}

fn make(kernel: &Arc<FakeKernel>, count: u16) {
    let changes = Changes::begin(&kernel.host(), kernel.clone()).unwrap();
    changes.set_vfs(bdf(PF), Some(count), &[]).unwrap();
    kernel.calls();
}

#[test]
fn one_is_made_where_there_is_none_and_goes_afterwards() {
    let kernel = FakeKernel::with_pf();
    let before = kernel.snapshot();
    let lease = take(&kernel, &[wish(1)]).unwrap();
    assert_eq!(functions(&lease), [vf(0)]);
    assert_eq!(kernel.driver_of(&vf(0)).as_deref(), Some("vfio-pci"));
    let link = kernel.link_now(ETH0);
    assert!(link.up && link.vfs.len() == 1);
    assert_eq!(link.vfs[0].where_given(&wish(1).settings), wish(1).settings);
    drop(lease);
    assert_eq!(kernel.snapshot(), before);
    assert!(kernel.records().is_empty());
}

#[test]
fn several_are_made_together() {
    let kernel = FakeKernel::with_pf();
    let before = kernel.snapshot();
    let lease = take(&kernel, &[wish(1), wish(2), wish(3)]).unwrap();
    assert_eq!(functions(&lease), [vf(0), vf(1), vf(2)]);
    assert_eq!(kernel.link_now(ETH0).vfs[2].mac, wish(3).settings.mac);
    drop(lease);
    assert_eq!(kernel.snapshot(), before);
    let error = take(&kernel, &[wish(1); 8]).err().unwrap();
    assert!(
        error.contains("can have 7 virtual functions, not 8"),
        "{error}"
    );
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn a_free_one_is_taken_and_gets_back_its_driver_and_settings() {
    let kernel = FakeKernel::with_pf();
    make(&kernel, 3);
    // 0 is used by the host, 1 was left to its driver, 2 has somebody else.
    kernel.tree.bind(&vf(0), "igbvf").bind(&vf(1), "igbvf");
    kernel.tree.bind(&vf(2), "vfio-pci");
    kernel.interface(&vf(0), "eth5");
    crate::host::Kernel::set_up(&*kernel, "eth5", true).unwrap();
    kernel
        .tree
        .write("proc/812/comm", "qemu\n")
        .link("proc/812/fd/9", "dev/vfio/42");
    let before = kernel.snapshot();
    let lease = take(&kernel, &[wish(1)]).unwrap();
    assert_eq!(functions(&lease), [vf(1)]);
    let error = take(&kernel, &[wish(2)]).err().unwrap();
    for says in [
        "0000:02:10.0 by this host, as eth5, which is up",
        "0000:02:10.2 by sluice (process",
        "0000:02:10.4 by qemu (process 812)",
        "`sluice sriov 0000:02:00.0 --vfs N`",
    ] {
        assert!(error.contains(says), "{error}");
    }
    drop(lease);
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn those_that_need_no_change_come_first() {
    let kernel = FakeKernel::with_pf();
    make(&kernel, 3);
    kernel.tree.bind(&vf(0), "igbvf").bind(&vf(2), "vfio-pci");
    let lease = take(&kernel, &[wish(1), wish(2)]).unwrap();
    assert_eq!(functions(&lease), [vf(2), vf(1)]);
}

#[test]
fn not_one_that_the_machine_has_anyway() {
    let kernel = FakeKernel::with_pf();
    make(&kernel, 1);
    let (host, others) = (kernel.host(), [bdf(&vf(0))]);
    let lease = Lease::take(&host, kernel.clone(), &[wish(1)], &others, &|| false);
    let error = one_line(&lease.err().unwrap());
    assert!(error.contains("0000:02:10.0 by --assign"), "{error}");
}

#[test]
fn whatever_fails_all_is_as_it_was() {
    for call in 0.. {
        let kernel = FakeKernel::with_pf();
        kernel.tree.remove("sys/bus/pci/drivers/vfio-pci");
        let before = kernel.snapshot();
        kernel.fail_at(call);
        let taken = take(&kernel, &[wish(1), wish(2)]);
        let failed = taken.is_err();
        drop(taken);
        let mut after = kernel.snapshot();
        // A module that was loaded stays.
        after.retain(|path, _| !path.to_string_lossy().contains("drivers/vfio-pci"));
        assert_eq!(after, before, "call {call}");
        assert!(kernel.records().is_empty());
        if !failed {
            assert_eq!(call, 18, "every call failed once");
            return;
        }
    }
}

/// A step of giving back that fails keeps no other from being done.
#[test]
fn what_cannot_be_put_back_does_not_keep_the_rest() {
    let kernel = FakeKernel::with_pf();
    let before = kernel.snapshot();
    let lease = take(&kernel, &[wish(1)]).unwrap();
    kernel.fail_at(0);
    drop(lease);
    assert!(kernel.calls().len() > 5);
    // It was the driver's preference, and its function is gone.
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn what_a_killed_process_left_is_given_back_by_the_next() {
    let kernel = FakeKernel::with_pf();
    let before = kernel.snapshot();
    take(&kernel, &[wish(1)]).unwrap().abandon();
    assert_ne!(kernel.snapshot(), before);
    // It takes a VF of its own, made anew.
    let lease = take(&kernel, &[wish(2)]).unwrap();
    assert_eq!(kernel.link_now(ETH0).vfs[0].mac, wish(2).settings.mac);
    lease.abandon();
    drop(Changes::begin(&kernel.host(), kernel.clone()).unwrap());
    assert_eq!(kernel.snapshot(), before);
    assert!(kernel.records().is_empty());
}

/// The PF was down: it goes down again when the last one that needs it is done.
#[test]
fn who_ends_last_puts_back_what_both_need() {
    let kernel = FakeKernel::with_pf();
    make(&kernel, 2);
    crate::host::Kernel::set_up(&*kernel, ETH0, false).unwrap();
    let before = kernel.snapshot();
    let first = take(&kernel, &[wish(1)]).unwrap();
    let second = take(&kernel, &[wish(2)]).unwrap();
    assert_eq!(functions(&second), [vf(1)]);
    drop(first);
    assert!(kernel.link_now(ETH0).up, "the second needs it");
    assert_eq!(kernel.driver_of(&vf(0)), None);
    drop(second);
    assert_eq!(kernel.snapshot(), before);
}

/// As above, but the first was killed.
#[test]
fn what_a_killed_process_left_is_not_put_back_under_anothers_feet() {
    let kernel = FakeKernel::with_pf();
    make(&kernel, 2);
    crate::host::Kernel::set_up(&*kernel, ETH0, false).unwrap();
    let before = kernel.snapshot();
    let first = take(&kernel, &[wish(1)]).unwrap();
    let second = take(&kernel, &[wish(2)]).unwrap();
    first.abandon();
    let third = take(&kernel, &[wish(3)]).unwrap();
    assert_eq!(functions(&third), [vf(0)]);
    drop(second);
    assert!(kernel.link_now(ETH0).up, "the third needs it");
    drop(third);
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn the_number_cannot_change_while_one_is_lent() {
    let kernel = FakeKernel::with_pf();
    let lease = take(&kernel, &[wish(1)]).unwrap();
    let changes = Changes::begin(&kernel.host(), kernel.clone()).unwrap();
    let error = one_line(&changes.set_vfs(bdf(PF), Some(0), &[]).unwrap_err());
    assert!(error.contains("0000:02:10.0 by sluice (process"), "{error}");
    drop(changes);
    drop(lease);
    assert!(kernel.link_now(ETH0).vfs.is_empty());
}

#[test]
fn a_wait_ends_when_the_operator_says_so() {
    let kernel = FakeKernel::with_pf();
    let before = kernel.snapshot();
    kernel.slow(None);
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let lease = Lease::take(&kernel.host(), kernel.clone(), &[wish(1)], &[], &stop);
    let error = one_line(&lease.err().unwrap());
    assert!(error.contains("stopped while waiting"), "{error}");
    assert_eq!(kernel.snapshot(), before);
}

#[test]
fn two_cards_at_once() {
    const OTHER: &str = "0000:05:00.0";
    let kernel = FakeKernel::with_pf();
    kernel.tree.add(&FakeFunction {
        sriov: Some((4, 0)),
        ..FakeFunction::at(OTHER)
    });
    let before = kernel.snapshot();
    let other = VfWish {
        pf: bdf(OTHER),
        settings: VfSettings::default(),
    };
    let error = take(&kernel, &[wish(1), other]).err().unwrap();
    assert!(error.contains("has no driver"), "{error}");
    assert_eq!(kernel.snapshot(), before);
}
