//! What CPUID tells a vCPU: what KVM offers, with the topology of this VM and without what
//! Sluice does not carry through. One socket, one thread per core, APIC ids from 0 up.
//!
//! Sources: Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};

const LEAF_FEATURES: u32 = 0x1;
const LEAF_CACHES: u32 = 0x4;
const LEAF_STRUCTURED_FEATURES: u32 = 0x7;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_SGX: u32 = 0x12;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const EBX_SGX: u32 = 1 << 2;
const ECX_SGX_LAUNCH_CONTROL: u32 = 1 << 30;

/// Bits of an APIC id that tell the cores of the socket apart.
pub fn core_bits(cpus: u32) -> u32 {
    cpus.max(1).next_power_of_two().trailing_zeros()
}

/// The table for vCPU `id` of `cpus`, from what KVM supports. `tsc_deadline` says whether
/// KVM's LAPIC has the TSC-deadline timer.
pub fn table(supported: &CpuId, id: u32, cpus: u32, tsc_deadline: bool) -> CpuId {
    let max_basic = supported
        .as_slice()
        .iter()
        .find(|e| e.function == 0)
        .map_or(0, |e| e.eax);
    let mut entries: Vec<_> = supported
        .as_slice()
        .iter()
        .filter(|e| !matches!(e.function, LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 | LEAF_SGX))
        .copied()
        .collect();
    for entry in &mut entries {
        adjust(entry, id, cpus, tsc_deadline);
    }
    for leaf in [LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2] {
        if max_basic >= leaf {
            entries.extend(topology_levels(leaf, id, cpus));
        }
    }
    entries.truncate(KVM_MAX_CPUID_ENTRIES);
    // More entries than KVM takes cannot be: the line above.
    CpuId::from_entries(&entries).unwrap_or_else(|_| supported.clone())
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u32, cpus: u32, tsc_deadline: bool) {
    let ids = 1 << core_bits(cpus);
    match entry.function {
        LEAF_FEATURES => {
            entry.ebx = entry.ebx & 0xffff | (id & 0xff) << 24 | ids.min(0xff) << 16;
            entry.ecx |= ECX_HYPERVISOR | ECX_X2APIC;
            set(&mut entry.ecx, ECX_TSC_DEADLINE, tsc_deadline);
            set(&mut entry.edx, EDX_HTT, cpus > 1);
        }
        // Deterministic cache parameters: level 3 and up shared by the socket, below by nobody.
        LEAF_CACHES if entry.eax & 0x1f != 0 => {
            let shared = if entry.eax >> 5 & 7 >= 3 { ids - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | (shared & 0xfff) << 14 | ((ids - 1) & 0x3f) << 26;
        }
        LEAF_STRUCTURED_FEATURES if entry.index == 0 => {
            entry.ebx &= !EBX_SGX;
            entry.ecx &= !ECX_SGX_LAUNCH_CONTROL;
        }
        LEAF_AMD_SIZES => {
            entry.ecx = entry.ecx & !0xf0ff | core_bits(cpus) << 12 | (cpus - 1).min(0xff);
        }
        LEAF_AMD_TOPOLOGY => {
            entry.eax = id;
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on {
        *register | bit
    } else {
        *register & !bit
    };
}

/// The SMT level (one thread), the core level, and the level that ends the list.
fn topology_levels(leaf: u32, id: u32, cpus: u32) -> [kvm_cpuid_entry2; 3] {
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: id,
        ..Default::default()
    };
    [
        level(0, SMT, 0, 1),
        level(1, CORE, core_bits(cpus), cpus),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(0, 0xd, 0, 0, 0),
            leaf(1, 0x800f12, 0xff00_0800, 0, 0),
            leaf(7, 0, EBX_SGX | 1, 0, 0),
            leaf(LEAF_TOPOLOGY, 9, 9, 9, 9),
            leaf(LEAF_AMD_SIZES, 0x3027, 0, 0x7007, 0),
            leaf(LEAF_AMD_TOPOLOGY, 0, 0, 0, 0),
        ])
        .unwrap()
    }

    fn entry(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn tells_each_vcpu_its_id_and_all_of_them_the_count() {
        let table = table(&supported(), 5, 6, true);
        let features = entry(&table, 1, 0);
        assert_eq!(features.ebx, 5 << 24 | 8 << 16 | 0x800);
        assert_eq!(features.ecx, ECX_HYPERVISOR | ECX_X2APIC | ECX_TSC_DEADLINE);
        assert_eq!(features.edx, EDX_HTT);
        let core = entry(&table, LEAF_TOPOLOGY, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
        assert_eq!(entry(&table, LEAF_AMD_SIZES, 0).ecx, 3 << 12 | 5);
        assert_eq!(entry(&table, LEAF_AMD_TOPOLOGY, 0).eax, 5);
    }

    #[test]
    fn hides_what_is_not_carried_through() {
        let table = table(&supported(), 0, 1, false);
        assert_eq!(entry(&table, 7, 0).ebx, 1);
        assert_eq!(entry(&table, 1, 0).edx & EDX_HTT, 0);
        assert_eq!(entry(&table, 1, 0).ecx & ECX_TSC_DEADLINE, 0);
        assert!(
            !table
                .as_slice()
                .iter()
                .any(|e| e.function == LEAF_TOPOLOGY_V2)
        );
    }

    #[test]
    fn fields_of_eight_bits_are_full_when_there_are_more() {
        let table = table(&supported(), 287, 288, true);
        assert_eq!(entry(&table, 1, 0).ebx, 31 << 24 | 255 << 16 | 0x800);
        assert_eq!(entry(&table, LEAF_TOPOLOGY, 1).edx, 287);
        assert_eq!(entry(&table, LEAF_AMD_SIZES, 0).ecx, 9 << 12 | 255);
    }

    #[test]
    fn sixty_four_cores_need_six_bits() {
        assert_eq!([1, 2, 3, 4, 64, 65].map(core_bits), [0, 1, 2, 2, 6, 7]);
    }
}
