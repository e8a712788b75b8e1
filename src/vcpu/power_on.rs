//! A vCPU as it is before its first instruction, taken once and put back at every reset.

use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_debugregs, kvm_device_attr, kvm_fpu,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_nested_state, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vmm_sys_util::ioctl::ioctl_with_ref;

// Of `kvm-ioctls` only aarch64 vCPUs have these.
vmm_sys_util::ioctl_iow_nr!(
    KVM_SET_DEVICE_ATTR,
    kvm_bindings::KVMIO,
    0xe1,
    kvm_device_attr
);
vmm_sys_util::ioctl_iow_nr!(
    KVM_GET_DEVICE_ATTR,
    kvm_bindings::KVMIO,
    0xe2,
    kvm_device_attr
);

/// Counts on across a reset of the processor, as on hardware.
const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_ADJUST: u32 = 0x3b;
/// Default memory type (Intel SDM vol. 3A §12.11.2.1): MTRRs on, write-back.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// LVT registers of the local APIC (Intel SDM vol. 3A §11.5.1) as firmware leaves them on
/// the boot processor: the 8259 on LINT0 (virtual wire), NMI on LINT1.
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const DELIVERY_EXTINT: u32 = 7 << 8;
const DELIVERY_NMI: u32 = 4 << 8;

/// The state of one vCPU at power-on.
pub struct PowerOn {
    nested: Option<Nested>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    msrs: Vec<kvm_msr_entry>,
}

impl PowerOn {
    /// Takes the state of a fresh vCPU, whose CPUID is set.
    pub fn capture(
        kvm: &Kvm,
        vcpu: &VcpuFd,
        boot_processor: bool,
    ) -> Result<Self, kvm_ioctls::Error> {
        let mut lapic = vcpu.get_lapic()?;
        if boot_processor {
            set_lvt(&mut lapic, APIC_LVT_LINT0, DELIVERY_EXTINT);
            set_lvt(&mut lapic, APIC_LVT_LINT1, DELIVERY_NMI);
        }
        Ok(Self {
            nested: Nested::capture(kvm, vcpu)?,
            regs: vcpu.get_regs()?,
            sregs: vcpu.get_sregs()?,
            fpu: vcpu.get_fpu()?,
            xcrs: vcpu.get_xcrs()?,
            debug: vcpu.get_debug_regs()?,
            events: vcpu.get_vcpu_events()?,
            lapic,
            mp_state: vcpu.get_mp_state()?,
            msrs: readable_msrs(kvm, vcpu)?,
        })
    }

    /// Puts the state back.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        // First: a vCPU in VMX operation takes no control registers without it.
        if let Some(nested) = &self.nested {
            nested.restore(vcpu)?;
        }
        vcpu.set_mp_state(self.mp_state)?;
        vcpu.set_sregs(&self.sregs)?;
        vcpu.set_regs(&self.regs)?;
        vcpu.set_xcrs(&self.xcrs)?;
        vcpu.set_fpu(&self.fpu)?;
        vcpu.set_debug_regs(&self.debug)?;
        vcpu.set_lapic(&self.lapic)?;
        write_msrs(vcpu, &self.msrs)?;
        renew_tsc_offset(vcpu)?;
        vcpu.set_vcpu_events(&self.events)
    }
}

/// What KVM keeps of virtualization within the guest, without the structures of a nested
/// guest: at power-on there is none.
#[derive(PartialEq, Eq)]
struct Nested {
    flags: u16,
    format: u16,
    header: [u8; 120],
}

impl Nested {
    /// `None` where KVM keeps no such state.
    fn capture(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Option<Self>, kvm_ioctls::Error> {
        if !kvm.check_extension(Cap::NestedState) {
            return Ok(None);
        }
        Self::read(vcpu).map(Some)
    }

    fn read(vcpu: &VcpuFd) -> Result<Self, kvm_ioctls::Error> {
        let mut state = KvmNestedStateBuffer::empty();
        vcpu.nested_state(&mut state)?;
        Ok(Self {
            flags: state.flags,
            format: state.format,
            // SAFETY: `pad` is all of the union, and any bytes are valid for it.
            header: unsafe { state.hdr.pad },
        })
    }

    /// Ends what the guest has begun, if it has.
    fn restore(&self, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        if *self == Self::read(vcpu)? {
            return Ok(());
        }
        let mut state = KvmNestedStateBuffer::empty();
        state.flags = self.flags;
        state.format = self.format;
        state.size = size_of::<kvm_nested_state>() as u32;
        state.hdr.pad = self.header;
        vcpu.set_nested_state(&state)
    }
}

/// Writes the TSC's offset from the host's as it is. After a triple fault KVM clears the control block of an AMD
/// processor and forgets the offset there while it still reckons with it: what the guest reads is then ahead of what
/// KVM takes deadlines of its timer to mean, and the timer is late by as long as the host was up before the guest.
fn renew_tsc_offset(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut offset = 0u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: &raw mut offset as u64,
        ..Default::default()
    };
    for request in [KVM_GET_DEVICE_ATTR(), KVM_SET_DEVICE_ATTR()] {
        // SAFETY: KVM reads the attribute, and writes or reads the eight bytes at its `addr`, which is `offset`; both
        // live across the call.
        if unsafe { ioctl_with_ref(vcpu, request, &attribute) } != 0 {
            let error = kvm_ioctls::Error::last();
            // Linux before 5.16 has no such attribute.
            return match error.errno() {
                libc::ENXIO => Ok(()),
                _ => Err(error),
            };
        }
    }
    Ok(())
}

fn set_lvt(lapic: &mut kvm_lapic_state, register: usize, value: u32) {
    for (byte, value) in lapic.regs[register..register + 4]
        .iter_mut()
        .zip(value.to_le_bytes())
    {
        *byte = value as _;
    }
}

/// Every MSR that KVM lists and lets us read, with its value.
fn readable_msrs(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, kvm_ioctls::Error> {
    let list = kvm.get_msr_index_list()?;
    let mut wanted: Vec<_> = list
        .as_slice()
        .iter()
        .filter(|&&index| index != MSR_IA32_TSC && index != MSR_IA32_TSC_ADJUST)
        .map(|&index| kvm_msr_entry {
            index,
            ..Default::default()
        })
        .collect();
    let mut known = Vec::with_capacity(wanted.len());
    while !wanted.is_empty() {
        let Ok(mut msrs) = Msrs::from_entries(&wanted) else {
            break;
        };
        // KVM stops at the first it does not want to show.
        let read = vcpu.get_msrs(&mut msrs)?;
        known.extend_from_slice(&msrs.as_slice()[..read]);
        wanted.drain(..(read + 1).min(wanted.len()));
    }
    for msr in known
        .iter_mut()
        .filter(|msr| msr.index == MSR_MTRR_DEF_TYPE)
    {
        msr.data = MTRR_ENABLED_WRITE_BACK;
    }
    Ok(known)
}

/// Writes all of `entries` but those that KVM refuses (some exist to be read only).
fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), kvm_ioctls::Error> {
    let mut left = entries;
    while !left.is_empty() {
        let Ok(msrs) = Msrs::from_entries(left) else {
            break;
        };
        let written = vcpu.set_msrs(&msrs)?;
        left = &left[(written + 1).min(left.len())..];
    }
    Ok(())
}
