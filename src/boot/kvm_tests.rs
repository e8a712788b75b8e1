//! Enters made-up kernels on a vCPU of KVM's: the register values are a state that a
//! processor takes, and the kernel finds what it was promised.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::tests::{Guest, bzimage, elf, pvh_note};

/// Runs the vCPU from `kernel`'s entry to its first `hlt`; gives the dwords it wrote to
/// port 0x80. `None` where there is no KVM.
fn run(kernel: &[u8]) -> Option<Vec<u32>> {
    let Ok(kvm) = Kvm::new() else {
        eprintln!("SKIPPED: no /dev/kvm here");
        return None;
    };
    let guest = Guest::new(32);
    let entry = guest.load(&guest.images(kernel, None), "quiet").unwrap();
    let vm = kvm.create_vm().unwrap();
    let region = guest.ram.iter().next().unwrap();
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: region.len(),
        userspace_addr: guest.ram.get_host_address(GuestAddress(0)).unwrap() as u64,
    };
    // SAFETY: the guest's memory outlives the VM, which goes at the end of this function.
    unsafe { vm.set_user_memory_region(slot) }.unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let cpuid = kvm.get_supported_cpuid(256).unwrap();
    vcpu.set_cpuid2(&cpuid).unwrap();
    vcpu.set_sregs(&entry.sregs(vcpu.get_sregs().unwrap()))
        .unwrap();
    vcpu.set_regs(&entry.regs()).unwrap();
    let mut written = Vec::new();
    loop {
        match vcpu.run().unwrap() {
            VcpuExit::IoOut(0x80, data) => {
                written.push(u32::from_le_bytes(data.try_into().unwrap()));
            }
            VcpuExit::Hlt => return Some(written),
            other => panic!("{other:?}"),
        }
        assert!(written.len() < 8);
    }
}

#[test]
fn a_pvh_kernel_runs_in_protected_mode() {
    let code = [
        0x8b, 0x03, //                   mov (%ebx), %eax      start info's magic
        0xe7, 0x80, //                   out %eax, $0x80
        0x8b, 0x43, 0x20, //             mov 0x20(%ebx), %eax  RSDP
        0xe7, 0x80, //                   out %eax, $0x80
        0x0f, 0x20, 0xc0, //             mov %cr0, %eax
        0x25, 0x01, 0x00, 0x00, 0x80, // and $0x80000001, %eax
        0xe7, 0x80, //                   out %eax, $0x80
        0xf4, //                         hlt
    ];
    let kernel = elf(&[(0x10_0000, &code, 0x1000)], &[pvh_note(0x10_0000)]);
    let Some(written) = run(&kernel) else { return };
    assert_eq!(written, [0x336e_c578, 0xe_0000, 1]);
}

#[test]
fn a_bzimage_runs_in_long_mode() {
    let mut body = vec![0xf4; 0x200];
    body.extend([
        0x8b, 0x86, 0x02, 0x02, 0x00, 0x00, // mov 0x202(%rsi), %eax  "HdrS"
        0xe7, 0x80, //                         out %eax, $0x80
        0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, // mov $-1, %rax
        0x48, 0xc1, 0xe8, 0x24, //             shr $36, %rax          28 bits are left
        0xe7, 0x80, //                         out %eax, $0x80
        0x0f, 0x20, 0xd8, //                   mov %cr3, %rax
        0xe7, 0x80, //                         out %eax, $0x80
        0xf4, //                               hlt
    ]);
    let Some(written) = run(&bzimage(&body)) else {
        return;
    };
    assert_eq!(written, [0x5372_6448, 0x0fff_ffff, 0x9000]);
}
