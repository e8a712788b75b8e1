//! Hosts whose disks and routes are stacked in the ways there are.

use std::os::unix::fs::symlink;

use super::*;
use crate::host::fake_tree::{FakeFunction, FakeTree};

const DISKS: &str = "0000:00:1f.2";
const NIC: &str = "0000:02:00.0";

/// A SATA controller with `sda` and its two partitions, and a NIC with `eth0`.
fn tree() -> FakeTree {
    let tree = FakeTree::new();
    for address in [DISKS, NIC] {
        tree.add(&FakeFunction::at(address));
    }
    let disk = format!("sys/devices/pci0000:00/{DISKS}/ata1/block/sda");
    for (name, number, below) in [
        ("sda", "8:0", String::new()),
        ("sda1", "8:1", "/sda1".into()),
        ("sda2", "8:2", "/sda2".into()),
    ] {
        let dir = format!("{disk}{below}");
        tree.write(format!("{dir}/dev"), number)
            .link(format!("sys/class/block/{name}"), &dir)
            .link(format!("sys/dev/block/{number}"), &dir)
            .write(format!("dev/{name}"), "");
        if !below.is_empty() {
            tree.write(format!("{dir}/partition"), "1");
        }
    }
    let net = format!("sys/devices/pci0000:02/{NIC}/net/eth0");
    tree.write(format!("{net}/flags"), "0x1003")
        .link("sys/class/net/eth0", net)
        .write("proc/self/mountinfo", "");
    tree
}

fn uses(tree: &FakeTree, address: &str) -> Vec<String> {
    let host = tree.host();
    let function = host.function(address.parse().unwrap()).unwrap().unwrap();
    let uses = host.uses(&function).unwrap();
    uses.iter().map(ToString::to_string).collect()
}

fn mounted(tree: &FakeTree, lines: &str) {
    tree.write("proc/self/mountinfo", lines);
}

#[test]
fn an_idle_device_is_used_for_nothing() {
    let tree = tree();
    mounted(&tree, "22 1 0:21 / /proc rw - proc proc rw\n");
    assert!(uses(&tree, DISKS).is_empty());
    assert!(uses(&tree, NIC).is_empty());
}

#[test]
fn finds_the_root_file_system_on_a_partition() {
    let tree = tree();
    mounted(
        &tree,
        "29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
         31 29 8:2 /sub /mnt/my\\040disk rw - ext4 /dev/sda2 rw\n",
    );
    let disks = uses(&tree, DISKS);
    assert_eq!(
        disks,
        [
            "the root file system is on it (sda1)",
            "sda2 on it is mounted on /mnt/my disk"
        ]
    );
    assert!(uses(&tree, NIC).is_empty());
}

#[test]
fn follows_what_is_stacked_on_a_disk() {
    let tree = tree();
    let (dm, md) = (
        "sys/devices/virtual/block/dm-0",
        "sys/devices/virtual/block/md0",
    );
    tree.link(format!("{dm}/slaves/md0"), md)
        .link(
            format!("{md}/slaves/sda2"),
            fs::canonicalize(tree.path("sys/class/block/sda2")).unwrap(),
        )
        .link("sys/dev/block/253:0", dm)
        .link("sys/class/block/dm-0", dm);
    mounted(&tree, "29 1 253:0 / / rw - xfs /dev/mapper/root rw\n");
    assert_eq!(uses(&tree, DISKS), ["the root file system is on it (dm-0)"]);
}

/// Btrfs mounts have a device number of no device: the source tells.
#[test]
fn goes_by_the_source_where_the_number_tells_nothing() {
    let tree = tree();
    symlink("../sda2", tree.path("dev/by-label")).unwrap();
    fs::remove_file(tree.path("dev/by-label")).unwrap();
    symlink("sda2", tree.path("dev/root")).unwrap();
    mounted(&tree, "29 1 0:26 /@ / rw - btrfs /dev/root rw\n");
    assert_eq!(uses(&tree, DISKS), ["the root file system is on it (sda2)"]);
}

#[test]
fn finds_the_controllers_of_a_shared_nvme_namespace() {
    let tree = tree();
    let subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    let controller = format!("sys/devices/pci0000:02/{NIC}/nvme/nvme0");
    tree.write(format!("{controller}/model"), "x")
        .link(format!("{subsystem}/nvme0"), controller)
        .write(format!("{subsystem}/nvme0n1/nvme0n1p1/partition"), "1")
        .link(
            "sys/dev/block/259:1",
            format!("{subsystem}/nvme0n1/nvme0n1p1"),
        )
        .link(
            "sys/class/block/nvme0n1p1",
            format!("{subsystem}/nvme0n1/nvme0n1p1"),
        );
    mounted(&tree, "29 1 259:1 / /home rw - ext4 /dev/nvme0n1p1 rw\n");
    assert_eq!(uses(&tree, NIC), ["nvme0n1p1 on it is mounted on /home"]);
}

#[test]
fn finds_swap() {
    let tree = tree();
    tree.write(
        "proc/swaps",
        "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1024 0 -2\n/swapfile file 1 0 -3\n",
    );
    assert_eq!(uses(&tree, DISKS), ["sda2 on it is swap space"]);
}

const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";

#[test]
fn finds_the_default_route() {
    let tree = tree();
    let local = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    tree.write("proc/net/route", format!("{ROUTES}{local}"));
    assert!(uses(&tree, NIC).is_empty());
    let default = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    tree.write("proc/net/route", format!("{ROUTES}{local}{default}"));
    assert_eq!(
        uses(&tree, NIC),
        ["the default route goes through it (eth0)"]
    );
}

#[test]
fn follows_bridges_and_bonds_over_either_protocol() {
    let tree = tree();
    let net = format!("sys/devices/pci0000:02/{NIC}/net/eth0");
    let (bond, bridge) = (
        "sys/devices/virtual/net/bond0",
        "sys/devices/virtual/net/br0",
    );
    tree.link(format!("{bond}/lower_eth0"), net)
        .link(format!("{bridge}/lower_bond0"), bond)
        // Links may lead in a circle.
        .link(format!("{bond}/lower_br0"), bridge)
        .link("sys/class/net/br0", bridge);
    let zeros = "0".repeat(32);
    let line = |interface: &str| {
        format!("{zeros} 00 {zeros} 00 {zeros} 00000400 00000001 00000000 00450003 {interface}\n")
    };
    tree.write("proc/net/ipv6_route", line("lo"));
    assert!(uses(&tree, NIC).is_empty());
    tree.write("proc/net/ipv6_route", line("lo") + &line("br0"));
    assert_eq!(
        uses(&tree, NIC),
        ["the default route goes through it (br0)"]
    );
}

#[test]
fn names_the_process_that_has_the_group_or_the_device_open() {
    let tree = tree();
    tree.add(&FakeFunction {
        group: Some(17),
        ..FakeFunction::at("0000:03:00.0")
    });
    let opener = || {
        let host = tree.host();
        let address = "0000:03:00.0".parse().unwrap();
        let function = host.function(address).unwrap().unwrap();
        host.opener(&function).map(|p| p.to_string())
    };
    tree.write("proc/7/comm", "sh\n")
        .link("proc/7/fd/3", "dev/vfio/vfio")
        .write("proc/812/comm", "sluice\n");
    assert_eq!(opener(), None);
    tree.link("proc/812/fd/9", "dev/vfio/17");
    assert_eq!(opener().as_deref(), Some("sluice (process 812)"));
    tree.remove("proc/812/fd/9")
        .write("sys/bus/pci/devices/0000:03:00.0/vfio-dev/vfio4/dev", "")
        .link("proc/812/fd/9", "dev/vfio/devices/vfio4");
    assert_eq!(opener().as_deref(), Some("sluice (process 812)"));
}
