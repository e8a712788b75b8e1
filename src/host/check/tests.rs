//! Each finding, on a server that has everything and then on one that lacks something.

use super::*;
use crate::host::fake_server::{pool, server};
use crate::host::fake_tree::FakeTree;

/// The findings about a topic.
fn about(tree: &FakeTree, topic: &str) -> Vec<Finding> {
    let all = tree.host().check().into_iter();
    all.filter(|finding| finding.topic == topic).collect()
}

/// The only finding about a topic is this.
#[track_caller]
fn expect(tree: &FakeTree, topic: &str, status: Status, words: &[&str]) {
    let findings = about(tree, topic);
    let [finding] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!(finding.status, status, "{finding:?}");
    let text = format!(
        "{} → {}",
        finding.what,
        finding.remedy.clone().unwrap_or_default()
    );
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(
        status == Status::Ok || finding.remedy.is_some(),
        "what to do? {finding:?}"
    );
}

#[test]
fn kvm() {
    let tree = server();
    expect(
        &tree,
        "KVM",
        Status::Ok,
        &["VMX", "nested virtualization on"],
    );
    tree.write("sys/module/kvm_intel/parameters/nested", "N\n")
        .write("proc/cpuinfo", "flags : fpu vmx hypervisor\n");
    expect(
        &tree,
        "KVM",
        Status::Ok,
        &["virtualization off", "itself a virtual machine"],
    );
    tree.remove("sys/module/kvm_intel")
        .write("sys/module/kvm_pvm/x", "");
    expect(&tree, "KVM", Status::Ok, &["PVM"]);
    tree.remove("dev/kvm");
    expect(
        &tree,
        "KVM",
        Status::Fail,
        &["no /dev/kvm", "modprobe kvm_intel"],
    );
    tree.write("proc/cpuinfo", "flags : fpu\n");
    expect(
        &tree,
        "KVM",
        Status::Fail,
        &["neither vmx nor svm", "firmware"],
    );
}

#[test]
fn an_iommu_that_is_off_is_told_from_one_that_is_not_there() {
    let tree = server();
    expect(
        &tree,
        "IOMMU",
        Status::Ok,
        &["VT-d (dmar0, dmar1), 10 groups"],
    );
    tree.remove("sys/kernel/iommu_groups")
        .remove("sys/class/iommu");
    expect(&tree, "IOMMU", Status::Fail, &["firmware shows none"]);
    tree.write("sys/firmware/acpi/tables/DMAR", "")
        .write("proc/cmdline", "quiet intel_iommu=off\n");
    expect(
        &tree,
        "IOMMU",
        Status::Fail,
        &["booted with intel_iommu=off", "intel_iommu=on"],
    );
    tree.remove("sys/firmware/acpi/tables/DMAR")
        .write("sys/firmware/acpi/tables/IVRS", "");
    expect(
        &tree,
        "IOMMU",
        Status::Fail,
        &["AMD-Vi is there", "without amd_iommu=off"],
    );
    assert_eq!(about(&tree, "isolation"), [], "said once");
}

#[test]
fn interrupt_remapping() {
    const TOPIC: &str = "interrupt remapping";
    let tree = server();
    expect(&tree, TOPIC, Status::Ok, &["on"]);
    tree.write("proc/interrupts", " 0: 1 IO-APIC 2-edge timer\n");
    expect(
        &tree,
        TOPIC,
        Status::Fail,
        &["off", "allow_unsafe_interrupts"],
    );
    tree.write(
        "sys/module/iommufd/parameters/allow_unsafe_interrupts",
        "Y\n",
    );
    expect(
        &tree,
        TOPIC,
        Status::Warn,
        &["allow_unsafe_interrupts is set"],
    );
    tree.remove("proc/interrupts");
    expect(&tree, TOPIC, Status::Warn, &["not known"]);
}

#[test]
fn posted_interrupts_take_the_iommu_and_kvm() {
    const TOPIC: &str = "posted interrupts";
    let tree = server();
    expect(&tree, TOPIC, Status::Ok, &["on, by VT-d"]);
    tree.write("sys/module/kvm_intel/parameters/enable_apicv", "N\n");
    expect(&tree, TOPIC, Status::Warn, &["enable_apicv=1"]);
    // One unit without them spoils it for the devices behind it.
    tree.write("sys/class/iommu/dmar1/intel-iommu/cap", "d2008c40660462\n");
    expect(&tree, TOPIC, Status::Ok, &["hardware has none"]);
    tree.remove("sys/class/iommu");
    expect(&tree, TOPIC, Status::Ok, &["not visible"]);
    let amd = |features: &str| {
        tree.write("sys/class/iommu/ivhd0/amd-iommu/features", features);
    };
    tree.write("sys/module/kvm_amd/parameters/avic", "0\n");
    amd("58f77ef22294ade\n");
    expect(&tree, TOPIC, Status::Warn, &["avic=1"]);
    tree.write("sys/module/kvm_amd/parameters/avic", "Y\n");
    expect(&tree, TOPIC, Status::Ok, &["on, by AMD-Vi"]);
    amd("58f77ef22294a5e:1\n");
    expect(&tree, TOPIC, Status::Ok, &["hardware has none"]);
}

#[test]
fn vfio() {
    let tree = server();
    expect(&tree, "VFIO interface", Status::Ok, &["type1"]);
    tree.write("dev/iommu", "");
    let [finding] = &about(&tree, "VFIO interface")[..] else {
        panic!()
    };
    assert!(
        !finding.what.contains("iommufd"),
        "without device nodes: {finding:?}"
    );
    tree.write("sys/class/vfio-dev/vfio0/dev", "");
    expect(&tree, "VFIO interface", Status::Ok, &["iommufd", "type1"]);
    tree.remove("dev/vfio/vfio");
    expect(&tree, "VFIO interface", Status::Ok, &["iommufd"]);
    tree.remove("dev/iommu");
    expect(&tree, "VFIO interface", Status::Fail, &["vfio_iommu_type1"]);
    expect(&tree, "VFIO driver", Status::Ok, &["vfio-pci loaded"]);
    tree.remove("sys/bus/pci/drivers/vfio-pci");
    expect(&tree, "VFIO driver", Status::Fail, &["modprobe vfio-pci"]);
}

#[test]
fn huge_pages_of_either_kind_will_do() {
    const TOPIC: &str = "huge pages";
    const SHARED: &str = "sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let tree = server();
    expect(
        &tree,
        TOPIC,
        Status::Ok,
        &["2 MiB: 1000 of 1024 free; 1 GiB: no pool"],
    );
    tree.write(SHARED, "always within_size advise [never] deny force\n");
    expect(&tree, TOPIC, Status::Ok, &["transparent: never"]);
    pool(&tree, "2048", 1024, 0);
    expect(&tree, TOPIC, Status::Warn, &["4 KiB pages", "echo advise"]);
    pool(&tree, "1048576", 4, 4);
    expect(&tree, TOPIC, Status::Ok, &["1 GiB: 4 of 4 free"]);
    tree.remove(SHARED);
    expect(&tree, TOPIC, Status::Ok, &["transparent: none"]);
}

#[test]
fn locked_memory() {
    const TOPIC: &str = "locked memory";
    let tree = server();
    expect(&tree, TOPIC, Status::Ok, &["CAP_IPC_LOCK"]);
    tree.write("proc/self/status", "CapEff:\t0000000000000000\n");
    expect(
        &tree,
        TOPIC,
        Status::Fail,
        &["8192 KiB", "ulimit -l", "LimitMEMLOCK"],
    );
    let limit = |limit: &str| {
        tree.write(
            "proc/self/limits",
            format!("Max locked memory  {limit}  {limit}  bytes\n"),
        );
    };
    limit("8589934592");
    expect(&tree, TOPIC, Status::Warn, &["8388608 KiB"]);
    tree.write("proc/meminfo", "MemTotal:       8000000 kB\n");
    expect(&tree, TOPIC, Status::Ok, &["8388608 KiB"]);
    limit("unlimited");
    expect(&tree, TOPIC, Status::Ok, &["no limit"]);
}

#[test]
fn a_shared_group_is_its_ports_fault() {
    const TOPIC: &str = "isolation";
    let tree = server();
    expect(
        &tree,
        TOPIC,
        Status::Warn,
        &[
            "group 30 holds 0000:05:00 and 0000:06:00",
            "port 0000:00:1c.0 has no ACS",
        ],
    );
    // One device with two functions, and the chipset's own, are nobody's fault.
    tree.remove("sys/kernel/iommu_groups/30");
    expect(
        &tree,
        TOPIC,
        Status::Ok,
        &["no IOMMU group holds more than one device"],
    );
}

#[test]
fn an_ordinary_user_cannot_see_acs() {
    let tree = server();
    for port in ["0000:00:1c.0", "0000:00:1c.4"] {
        let header = vec![0; 64];
        tree.write(tree.attribute(port, "config"), header);
    }
    expect(
        &tree,
        "isolation",
        Status::Warn,
        &["may lack ACS (only root can see)"],
    );
}

#[test]
fn devices_that_were_meant_for_guests() {
    let tree = server();
    let findings = about(&tree, "devices");
    let statuses: Vec<_> = findings.iter().map(|finding| finding.status).collect();
    assert_eq!(
        statuses,
        [Status::Ok, Status::Warn, Status::Warn],
        "{findings:?}"
    );
    assert!(
        findings[0].what.contains("0000:03:10.0, 0000:81:00.0"),
        "{findings:?}"
    );
    assert!(findings[1].what.contains("snd_hda_intel"), "{findings:?}");
    for address in [
        "0000:03:10.0",
        "0000:04:00.0",
        "0000:06:00.0",
        "0000:81:00.0",
    ] {
        tree.unbind(address);
    }
    expect(
        &tree,
        "devices",
        Status::Warn,
        &["none is bound to vfio-pci", "sluice devices"],
    );
}
