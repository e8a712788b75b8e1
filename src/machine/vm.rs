//! The KVM virtual machine: made, checked for what Sluice needs, given its RAM and vCPUs.

use std::io;
use std::sync::Arc;

use devices::dma::GuestRam;
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_MAX_CPUID_ENTRIES,
    KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, kvm_create_device,
    kvm_device_type_KVM_DEV_TYPE_VFIO, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::installer::Slots;
use crate::interrupt::IOAPIC_PINS;
use crate::memory::layout::{KVM_IDENTITY_MAP, KVM_TSS};
use crate::vcpu::{CoalescedRing, PowerOn, Vcpu, cpuid};

/// KVM cannot give what a machine needs.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// There is no KVM.
    #[error("no /dev/kvm; load kvm_intel or kvm_amd, and enable virtualization in the firmware")]
    NoKvm,
    /// KVM cannot be opened.
    #[error("cannot open /dev/kvm; run as root or join the group that owns it")]
    Open(#[source] io::Error),
    /// Something else is at its place.
    #[error("/dev/kvm is not the kernel's KVM (API version {0}, not {KVM_API_VERSION})")]
    NotKvm(i32),
    /// KVM lacks something.
    #[error("this host's KVM has no {0}; a newer kernel does")]
    Missing(&'static str),
    /// More vCPUs than KVM makes.
    #[error("--cpus {wanted}: this host's KVM makes at most {limit}")]
    TooManyCpus {
        /// Asked for.
        wanted: u32,
        /// The limit.
        limit: usize,
    },
    /// A call that should work did not.
    #[error("KVM: cannot {what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Names what KVM was asked for when it refuses.
fn to<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> VmError {
    move |source| VmError::Kernel {
        what,
        source: source.into(),
    }
}

/// What Sluice cannot do without.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::SplitIrqchip, "split interrupt controller"),
    (Cap::SignalMsi, "KVM_SIGNAL_MSI"),
    (Cap::Irqfd, "irqfd"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::CoalescedMmio, "coalesced MMIO"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::ExtCpuid, "CPUID control"),
    (Cap::UserMemory, "user memory"),
];

/// A virtual machine without RAM or vCPUs.
pub struct Vm {
    kvm: Kvm,
    /// KVM's handle.
    pub fd: Arc<VmFd>,
    /// Memory slots.
    pub slots: Arc<Slots>,
}

impl Vm {
    /// Makes a VM with LAPICs in the kernel and the other interrupt controllers here.
    pub fn create() -> Result<Self, VmError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => VmError::NoKvm,
            _ => VmError::Open(error.into()),
        })?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(VmError::NotKvm(version));
        }
        for (cap, name) in NEEDED {
            if !kvm.check_extension(cap) {
                return Err(VmError::Missing(name));
            }
        }
        let fd = kvm.create_vm().map_err(to("create a virtual machine"))?;
        fd.set_tss_address(KVM_TSS as usize)
            .map_err(to("place its TSS"))?;
        fd.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(to("place its identity map"))?;
        enable(&fd, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS as u64)
            .map_err(to("split the interrupt controller"))?;
        let ids = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        enable(&fd, KVM_CAP_X2APIC_API, u64::from(ids)).map_err(to("use 32-bit APIC ids"))?;
        Ok(Self {
            kvm,
            fd: Arc::new(fd),
            slots: Arc::default(),
        })
    }

    /// Guest-physical address bits that a vCPU of this host has (CPUID 8000_0008h).
    pub fn phys_bits(&self) -> Result<u8, VmError> {
        let supported = self.supported_cpuid()?;
        let leaf = supported
            .as_slice()
            .iter()
            .find(|entry| entry.function == 0x8000_0008);
        Ok(leaf.map_or(36, |entry| entry.eax as u8))
    }

    fn supported_cpuid(&self) -> Result<kvm_bindings::CpuId, VmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(to("say what CPUID it supports"))
    }

    /// Gives the guest its RAM.
    ///
    /// The caller keeps `ram` alive for as long as the VM runs.
    pub fn add_ram(&self, ram: &GuestRam) -> Result<(), VmError> {
        for region in ram.iter() {
            let address = region.start_addr();
            let slot = kvm_userspace_memory_region {
                slot: self.slots.take(),
                flags: 0,
                guest_phys_addr: address.raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is mapped while `ram` lives, which the machine keeps until
            // its vCPUs have ended and the VM is gone.
            unsafe { self.fd.set_user_memory_region(slot) }.map_err(to("map guest memory"))?;
        }
        Ok(())
    }

    /// Makes the vCPUs, the boot processor first, each with its state at power-on.
    pub fn create_vcpus(&self, count: u32) -> Result<Vec<(Arc<Vcpu>, PowerOn)>, VmError> {
        let limit = self.kvm.get_max_vcpus();
        if count as usize > limit {
            return Err(VmError::TooManyCpus {
                wanted: count,
                limit,
            });
        }
        let supported = self.supported_cpuid()?;
        let deadline = self.kvm.check_extension(Cap::TscDeadlineTimer);
        (0..count)
            .map(|id| {
                let fd = self
                    .fd
                    .create_vcpu(u64::from(id))
                    .map_err(to("create a vCPU"))?;
                let table = cpuid::table(&supported, id, count, deadline);
                fd.set_cpuid2(&table).map_err(to("set a vCPU's CPUID"))?;
                let power_on =
                    PowerOn::capture(&self.kvm, &fd, id == 0).map_err(to("read a vCPU's state"))?;
                Ok((Arc::new(Vcpu::new(id, fd)), power_on))
            })
            .collect()
    }

    /// The ring of coalesced writes, shown by any vCPU.
    pub fn ring(&self, vcpu: &Vcpu) -> Result<CoalescedRing, VmError> {
        let page = self.fd.check_extension_int(Cap::CoalescedMmio);
        vcpu.map_ring(i64::from(page))
            .map_err(to("map the ring of coalesced writes"))
    }
}

/// KVM's side of VFIO, through which it learns of assigned devices (their DMA may not be
/// coherent with caches; their groups must not outlive the VM). A VM has one.
pub fn vfio_device(vm: &VmFd) -> Result<DeviceFd, VmError> {
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_VFIO,
        fd: 0,
        flags: 0,
    };
    vm.create_device(&mut device)
        .map_err(to("create its VFIO device"))
}

fn enable(fd: &VmFd, cap: u32, argument: u64) -> Result<(), kvm_ioctls::Error> {
    let mut enable = kvm_enable_cap {
        cap,
        ..Default::default()
    };
    enable.args[0] = argument;
    fd.enable_cap(&enable)
}
