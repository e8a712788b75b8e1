//! What is said of a good and of a bad host, compared with files.

use super::*;
use crate::cli::golden::assert_golden;
use crate::host::fake_server::server;
use crate::host::fake_tree::FakeTree;

#[test]
fn a_server_that_can() {
    let (text, works) = check(&server().host(), Page::of_width(Some(100)));
    assert!(works, "{text}");
    assert_golden("check-server.txt", &text);
}

#[test]
fn a_machine_fresh_from_the_shop() {
    let tree = FakeTree::new();
    tree.remove("dev/vfio")
        .remove("sys/bus/pci/drivers/vfio-pci");
    tree.write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 svm\n")
        .write("proc/interrupts", "  0:  171  IO-APIC  2-edge  timer\n")
        .write(
            "proc/self/limits",
            "Max locked memory  8388608  8388608  bytes\n",
        )
        .write("proc/self/status", "CapEff:\t0000000000000000\n")
        .write(
            "sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "always within_size advise [never] deny force\n",
        );
    let (text, works) = check(&tree.host(), Page::of_width(Some(80)));
    assert!(!works, "{text}");
    assert_golden("check-fresh.txt", &text);
}

#[test]
fn colour_is_for_terminals_and_does_not_shift_columns() {
    let finding = Finding {
        topic: "KVM",
        status: Status::Fail,
        what: "none".to_owned(),
        remedy: None,
    };
    let plain = paragraph(&finding, Page::of_width(Some(80)));
    assert_eq!(plain, "fail  KVM                  none\n");
    let coloured = paragraph(&finding, Page::of_width(Some(80)).in_colour());
    assert!(coloured.contains('\x1b'), "{coloured:?}");
    assert_eq!(console::strip_ansi_codes(&coloured), plain);
}
