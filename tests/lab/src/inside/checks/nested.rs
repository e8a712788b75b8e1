//! One level down: the guest is a host itself. It runs Sluice under its own KVM, and assigns what was assigned to it.

use super::Check;
use super::guest_iommu::{STRICT, boot, expect_no_faults};
use super::guest_vfio::{VF_ID, give_back, give_to_vfio};
use crate::error::{Context, Result, fail};
use crate::initrd;
use crate::inside::guest::expect_success;
use crate::inside::rig::Rig;
use crate::inside::vmm::{GuestSpec, kernel, own_initrd, sluice_program};
use crate::process::output_of;
use crate::topology::{PF_ADDRESS, VF_GUEST_ADDRESS, VIRTUAL_FUNCTIONS};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const CHECKS: &[Check] = &[Check {
    name: "vf-owned-by-a-guest-of-the-guest-behind-a-vtd",
    cpus: &[2],
    limit: 600,
    fixture: None,
    run: vf,
}];

const PINGS: u32 = 10;
/// Each of its exits is a dozen of the guest's.
const PATIENCE: Duration = Duration::from_secs(400);

fn vf(rig: &mut Rig, cpus: u32) -> Result<()> {
    let initrd = rig.file("nested.img");
    initrd_of_a_host(&rig.file("nested"), &initrd)?;
    let spec = GuestSpec {
        memory: "1200M".into(),
        initrd: Some(initrd),
        extra_cmdline: STRICT,
        ..GuestSpec::owning(&VIRTUAL_FUNCTIONS[..1], cpus)
    };
    let mut guest = boot(rig, "vtd", spec)?;
    guest.sh("while read module; do insmod /nested/$module || break; done </nested/modules; [ -e /dev/kvm ]")?;
    let function = give_to_vfio(&mut guest, VF_ID)?;
    let run = format!(
        "/nested/sluice run --kernel /nested/kernel --initrd /nested/initrd --memory 320M \
         --assign {function} --serial file=/tmp/screen --cmdline '{}' 2>&1",
        cmdline()
    );
    guest.sh_within(&run, PATIENCE)?;
    let screen = guest.sh("cat /tmp/screen")?;
    let answered = format!("{PINGS} packets transmitted, {PINGS} packets received");
    if !screen.contains(&answered) || !screen.contains("MSIX") {
        return fail(format!("the guest's guest says: {screen}"));
    }
    give_back(&mut guest, &function)?;
    expect_no_faults(&mut guest)?;
    expect_success(guest.power_off()?)
}

/// What the innermost guest does by itself, and then powers off.
fn cmdline() -> String {
    let script = format!(
        "modprobe igbvf; cd /sys/bus/pci/drivers/igbvf/0*/net; set -- *; cd /; ip addr add {VF_GUEST_ADDRESS}/24 dev $1; \
         ip link set $1 up; until grep -q 1 /sys/class/net/$1/carrier; do sleep 0.2; done; \
         ping -c {PINGS} -w 60 {PF_ADDRESS}; grep $1 /proc/interrupts"
    );
    format!("console=ttyS0 quiet loglevel=1 panic=-1 script=\"{script}\"")
}

/// The initrd of a guest that has what a host needs, in `/nested`; put together below `root`.
fn initrd_of_a_host(root: &Path, to: &Path) -> Result<()> {
    let nested = root.join("nested");
    fs::create_dir_all(&nested).path(&nested)?;
    let copy = |from: &Path, name: &str| fs::copy(from, nested.join(name)).path(from).map(drop);
    copy(&kernel(), "kernel")?;
    copy(&own_initrd(), "initrd")?;
    initrd::put_program(root, &sluice_program(), "nested/sluice")?;
    let order = output_of(Command::new("modprobe").args(["--show-depends", "kvm-amd"]))?;
    let mut modules = String::new();
    for file in order
        .lines()
        .filter_map(|line| line.strip_prefix("insmod "))
    {
        let file = Path::new(file.trim());
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        copy(file, &name)?;
        modules += &format!("{name}\n");
    }
    let list = nested.join("modules");
    fs::write(&list, modules).path(&list)?;
    initrd::with_directory(&own_initrd(), root, "", to)?;
    fs::remove_dir_all(root).path(root)
}
