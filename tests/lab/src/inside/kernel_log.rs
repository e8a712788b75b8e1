//! What the emulated host's kernel has had to say.

use crate::error::Result;
use crate::process::output_of;
use std::process::Command;

/// Lines in which the IOMMU reports an access it has stopped.
pub fn iommu_faults() -> Result<Vec<String>> {
    let log = output_of(&mut Command::new("dmesg"))?;
    Ok(log
        .lines()
        .filter(|line| is_fault(line))
        .map(str::to_owned)
        .collect())
}

fn is_fault(line: &str) -> bool {
    line.contains("DMAR: ")
        && (line.contains("fault") || line.contains("[DMA ") || line.contains("[INTR-REMAP]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_from_boot_messages() {
        assert!(is_fault(
            "[   51.1] DMAR: DRHD: handling fault status reg 2"
        ));
        assert!(is_fault(
            "[   51.1] DMAR: [DMA Write NO_PASID] Request device [01:10.0] fault addr 0x1000 [fault reason 0x05] PTE Write access is not set"
        ));
        assert!(!is_fault("[    0.1] DMAR: IOMMU enabled"));
        assert!(!is_fault(
            "[    0.4] DMAR-IR: Enabled IRQ remapping in xapic mode"
        ));
    }
}
