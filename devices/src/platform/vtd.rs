//! The register page of a VT-d unit (VT-d 4.1 §11) on the bus. What is behind it is
//! [`iommu::vtd`]'s.

use std::sync::Arc;

use iommu::vtd::Vtd;

use crate::bus::Region;

/// The page.
pub struct VtdRegisters(pub Arc<Vtd>);

impl Region for VtdRegisters {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = self.0.read(offset, data.len()).to_le_bytes();
        data.fill(0);
        for (byte, read) in data.iter_mut().zip(value) {
            *byte = read;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut value = [0; 8];
        match value.get_mut(..data.len()) {
            Some(bytes) => bytes.copy_from_slice(data),
            None => return,
        }
        self.0.write(offset, data.len(), u64::from_le_bytes(value));
    }
}

#[cfg(test)]
mod tests {
    use iommu::vtd::{Deaf, VtdConfig, offset};
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;

    fn page() -> VtdRegisters {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let vtd = Vtd::new(VtdConfig::BASIC, Arc::new(memory), Arc::new(Deaf));
        VtdRegisters(Arc::new(vtd))
    }

    #[test]
    fn registers_are_little_endian() {
        let page = page();
        page.write(offset::RTADDR, &0x12_3456_7000_u64.to_le_bytes());
        page.write(offset::IVA, &[0xff; 4]);
        let mut whole = [0; 8];
        page.read(offset::RTADDR, &mut whole);
        assert_eq!(u64::from_le_bytes(whole), 0x12_3456_7000);
        let mut part = [0; 2];
        page.read(offset::RTADDR + 1, &mut part);
        assert_eq!(part, [0x70, 0x56]);
    }

    #[test]
    fn crooked_accesses_read_zeros_and_write_nothing() {
        let page = page();
        for len in [3, 9, 16, 64] {
            page.write(offset::RTADDR, &vec![0xff; len]);
            let mut data = vec![0xaa; len];
            page.read(offset::RTADDR + 6, &mut data);
            assert!(data.iter().all(|byte| *byte == 0), "{len}");
        }
        page.read(0, &mut []);
        page.write(0, &[]);
    }
}
