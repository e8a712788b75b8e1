//! A server with two sockets, as operators have them: for tests of what is shown of a host.

use super::fake_tree::{FakeFunction, FakeTree, MEMORY, MEMORY_64, NO_BAR, PORTS, ROM, port};

/// A host that can assign devices: VT-d, a PF with two VFs of which one is a guest's, a GPU
/// with its audio function, NVMe, two ports that share a group for want of ACS.
pub(crate) fn server() -> FakeTree {
    let tree = FakeTree::new();
    chipset(&tree);
    network(&tree);
    graphics(&tree);
    without_acs(&tree);
    second_socket(&tree);
    kernel(&tree);
    tree
}

const ISOLATES: Option<(u8, u8)> = Some((0x5f, 0x1d));

fn root_port(address: &'static str, group: u32, acs: Option<(u8, u8)>) -> FakeFunction {
    FakeFunction {
        ids: (0x8086, 0x6f04),
        class: 0x06_0400,
        driver: Some("pcieport"),
        group: Some(group),
        numa_node: 0,
        reset: "pm",
        resources: Vec::new(),
        config: port(4, acs),
        ..FakeFunction::at(address)
    }
}

fn on_board(
    address: &'static str,
    device: u16,
    class: u32,
    driver: Option<&'static str>,
) -> FakeFunction {
    FakeFunction {
        ids: (0x8086, device),
        class,
        driver,
        group: Some(31),
        numa_node: 0,
        reset: "",
        resources: Vec::new(),
        ..FakeFunction::at(address)
    }
}

fn chipset(tree: &FakeTree) {
    tree.add(&FakeFunction {
        group: Some(0),
        ..on_board("0000:00:00.0", 0x6f00, 0x06_0000, None)
    })
    .add(&on_board(
        "0000:00:1f.0",
        0x8d44,
        0x06_0100,
        Some("lpc_ich"),
    ))
    .add(&on_board("0000:00:1f.2", 0x8d02, 0x01_0601, Some("ahci")))
    .add(&on_board("0000:00:1f.3", 0x8d22, 0x0c_0500, None));
}

fn network(tree: &FakeTree) {
    let pf = FakeFunction {
        behind: Some("0000:00:02.0"),
        ids: (0x8086, 0x10c9),
        driver: Some("igb"),
        group: Some(20),
        numa_node: 0,
        reset: "flr pm bus",
        resources: vec![
            (0xc712_0000, 0x2_0000, MEMORY),
            (0xc680_0000, 0x40_0000, MEMORY),
            (0x4020, 0x20, PORTS),
            (0xc714_4000, 0x4000, MEMORY),
            NO_BAR,
            NO_BAR,
            (0xc640_0000, 0x40_0000, ROM),
        ],
        sriov: Some((7, 2)),
        ..FakeFunction::at("0000:03:00.0")
    };
    let vf = |address, driver, group| FakeFunction {
        behind: Some("0000:00:02.0"),
        driver,
        group: Some(group),
        numa_node: 0,
        reset: "flr",
        resources: vec![
            (0x3800_0000_0000, 0x4000, MEMORY_64),
            NO_BAR,
            NO_BAR,
            (0x3800_0002_0000, 0x4000, MEMORY_64),
        ],
        physical: Some("0000:03:00.0"),
        ..FakeFunction::at(address)
    };
    tree.add(&root_port("0000:00:02.0", 1, ISOLATES))
        .add(&pf)
        .add(&vf("0000:03:10.0", Some("vfio-pci"), 21))
        .add(&vf("0000:03:10.2", None, 22));
}

/// The port has no ACS, but all that is behind it is one device.
fn graphics(tree: &FakeTree) {
    let gpu = FakeFunction {
        behind: Some("0000:00:03.0"),
        ids: (0x10de, 0x1b80),
        class: 0x03_0000,
        driver: Some("vfio-pci"),
        group: Some(2),
        numa_node: 0,
        reset: "bus",
        resources: vec![
            (0xc400_0000, 0x100_0000, MEMORY),
            (0x3900_0000_0000, 0x4_0000_0000, MEMORY_64),
            NO_BAR,
            (0x3904_0000_0000, 0x200_0000, MEMORY_64),
            NO_BAR,
            (0x3000, 0x80, PORTS),
            (0xc500_0000, 0x8_0000, ROM),
        ],
        ..FakeFunction::at("0000:04:00.0")
    };
    let audio = FakeFunction {
        address: "0000:04:00.1",
        ids: (0x10de, 0x10f0),
        class: 0x04_0300,
        driver: Some("snd_hda_intel"),
        resources: vec![(0xc508_0000, 0x4000, MEMORY)],
        ..gpu.clone()
    };
    tree.add(&root_port("0000:00:03.0", 2, None))
        .add(&gpu)
        .add(&audio);
}

fn without_acs(tree: &FakeTree) {
    let behind = |address, port, ids, class, driver| FakeFunction {
        behind: Some(port),
        ids,
        class,
        driver,
        group: Some(30),
        numa_node: 0,
        ..FakeFunction::at(address)
    };
    let (nvme, usb) = ((0x144d, 0xa808), (0x1912, 0x0014));
    tree.add(&root_port("0000:00:1c.0", 30, None))
        .add(&root_port("0000:00:1c.4", 30, Some((0x5f, 0x00))))
        .add(&behind(
            "0000:05:00.0",
            "0000:00:1c.0",
            nvme,
            0x01_0802,
            Some("nvme"),
        ))
        .add(&behind(
            "0000:06:00.0",
            "0000:00:1c.4",
            usb,
            0x0c_0330,
            Some("vfio-pci"),
        ));
}

fn second_socket(tree: &FakeTree) {
    let port = root_port("0000:80:02.0", 40, ISOLATES);
    tree.add(&FakeFunction {
        numa_node: 1,
        ..port
    })
    .add(&FakeFunction {
        behind: Some("0000:80:02.0"),
        ids: (0x8086, 0x0953),
        class: 0x01_0802,
        driver: Some("vfio-pci"),
        group: Some(41),
        numa_node: 1,
        resources: vec![
            (0xfbc1_0000, 0x4000, MEMORY),
            NO_BAR,
            NO_BAR,
            NO_BAR,
            NO_BAR,
            NO_BAR,
            (0xfbc0_0000, 0x1_0000, ROM),
        ],
        ..FakeFunction::at("0000:81:00.0")
    });
}

/// What a kernel says that has everything on, to root.
fn kernel(tree: &FakeTree) {
    const CPU: &str = "processor\t: 0\nflags\t\t: fpu vme sse2 vmx ept\n";
    const INTERRUPTS: &str = "           CPU0       CPU1\n  \
        0:        171          0  IR-IO-APIC   2-edge      timer\n \
        24:          0          0  DMAR-MSI   0-edge      dmar0\n \
        25:          0          7  IR-PCI-MSIX-0000:03:00.0   0-edge      eth0\n\
        LOC:       3062       3194   Local timer interrupts\n";
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
        Max locked memory         8388608              8388608              bytes\n";
    tree.write("dev/kvm", "")
        .write("sys/module/kvm_intel/parameters/nested", "Y\n")
        .write("sys/module/kvm_intel/parameters/enable_apicv", "Y\n")
        .write("proc/cpuinfo", CPU)
        .write("proc/interrupts", INTERRUPTS)
        .write("proc/cmdline", "root=/dev/sda1 intel_iommu=on\n")
        .write("proc/meminfo", "MemTotal:       65536000 kB\n")
        .write("proc/self/limits", LIMITS)
        .write("proc/self/status", "CapEff:\t000001ffffffffff\n");
    for unit in ["dmar0", "dmar1"] {
        let dir = format!("sys/class/iommu/{unit}/intel-iommu");
        tree.write(format!("{dir}/cap"), "8d2078c106f0466\n");
    }
    pool(tree, "2048", 1024, 1000);
    pool(tree, "1048576", 0, 0);
    tree.write(
        "sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always within_size [advise] never deny force\n",
    );
}

/// A pool of huge pages of so many KiB each.
pub(crate) fn pool(tree: &FakeTree, kib: &str, total: u64, free: u64) {
    let dir = format!("sys/kernel/mm/hugepages/hugepages-{kib}kB");
    tree.write(format!("{dir}/nr_hugepages"), format!("{total}\n"))
        .write(format!("{dir}/free_hugepages"), format!("{free}\n"))
        .write(format!("{dir}/resv_hugepages"), "0\n");
}
