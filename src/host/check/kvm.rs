//! `/dev/kvm`, and what it is made of.

use nix::unistd::{AccessFlags, access};

use super::{Finding, is_on, words_of};
use crate::host::Host;

const TOPIC: &str = "KVM";

/// What stands behind `/dev/kvm`: the module, and what people call it.
const KINDS: [(&str, &str); 3] = [
    ("kvm_intel", "Intel VMX"),
    ("kvm_amd", "AMD SVM"),
    ("kvm_pvm", "PVM, without hardware virtualization"),
];

pub fn check(host: &Host) -> Finding {
    let node = host.root.join("dev/kvm");
    if !node.exists() {
        return missing(host);
    }
    if access(&node, AccessFlags::R_OK | AccessFlags::W_OK).is_err() {
        return Finding::fail(
            TOPIC,
            "this user may not open /dev/kvm",
            "run as root, or add this user to the group that owns it: `usermod -aG kvm USER`",
        );
    }
    let loaded = |(module, _): &&(&str, &str)| host.has(&format!("sys/module/{module}"));
    let Some((module, name)) = KINDS.iter().find(loaded) else {
        return Finding::ok(TOPIC, "/dev/kvm, of a kind that is not known here");
    };
    let nested = match is_on(host, module, "nested") {
        Some(true) => "; nested virtualization on",
        Some(false) => "; nested virtualization off",
        None => "",
    };
    let host_is_guest = match flags(host).any(|flag| flag == "hypervisor") {
        true => "; this host is itself a virtual machine",
        false => "",
    };
    Finding::ok(TOPIC, format!("{name} ({module}){nested}{host_is_guest}"))
}

fn missing(host: &Host) -> Finding {
    let module = flags(host).find_map(|flag| match flag.as_str() {
        "vmx" => Some("kvm_intel"),
        "svm" => Some("kvm_amd"),
        _ => None,
    });
    match module {
        Some(module) => Finding::fail(
            TOPIC,
            "there is no /dev/kvm, though the processors can virtualize",
            format!(
                "`modprobe {module}`; if that fails, turn virtualization on in the firmware \
                 (the kernel log says so)"
            ),
        ),
        None => Finding::fail(
            TOPIC,
            "there is no /dev/kvm, and the processors show neither vmx nor svm",
            "turn VT-x or SVM on in the firmware; if this host is a virtual machine, let its \
             own host pass it on (nested virtualization)",
        ),
    }
}

fn flags(host: &Host) -> impl Iterator<Item = String> {
    let text = host.text("proc/cpuinfo").unwrap_or_default();
    let flags: Vec<_> = words_of(&text, "flags").map(str::to_owned).collect();
    flags.into_iter()
}
