//! The Fixed ACPI Description Table (ACPI 6.5 §5.2.9): power management ports, reset
//! register and what kind of PC this is.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use devices::platform::acpi_pm::{self, block};
use devices::platform::reset_control;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, PM_BASE, RESET_VALUE};

/// IA-PC boot architecture flags (ACPI 6.5 table 5.11). The keyboard controller flag is not
/// among those set: ours resets the machine and has no keyboard behind it.
const LEGACY_DEVICES: u16 = 1 << 0;
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// The CMOS register that holds the century.
const CENTURY: u8 = 0x32;
/// Latencies above these mean that there are no C2 and C3 states (table 5.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

fn ports(first: u16, len: u8, access: AccessSize) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        len.saturating_mul(8),
        0,
        access,
        first.into(),
    )
}

/// A block of the power management ports: its port, its length, and both as an address.
fn power((offset, len): (u8, u8), access: AccessSize) -> (u32, u8, GAS) {
    let first = PM_BASE + u16::from(offset);
    (first.into(), len, ports(first, len, access))
}

/// The table, pointing at FACS and DSDT.
pub fn build(facs: u64, dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // The power button is the fixed one (its flag is clear); there is no sleep button.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    // Both are in the BIOS area, below 4 GiB; one of the two fields must be zero for the
    // FACS, both may be filled for the DSDT.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(acpi_pm::SCI_IRQ).into();
    let (first, len, address) = power(block::PM1_EVENT, AccessSize::WordAccess);
    (fadt.pm1a_evt_blk, fadt.pm1_evt_len, fadt.x_pm1a_evt_blk) = (first.into(), len, address);
    let (first, len, address) = power(block::PM1_CONTROL, AccessSize::WordAccess);
    (fadt.pm1a_cnt_blk, fadt.pm1_cnt_len, fadt.x_pm1a_cnt_blk) = (first.into(), len, address);
    let (first, len, address) = power(block::TIMER, AccessSize::DwordAccess);
    (fadt.pm_tmr_blk, fadt.pm_tmr_len, fadt.x_pm_tmr_blk) = (first.into(), len, address);
    let (first, len, address) = power(block::GPE0, AccessSize::ByteAccess);
    (fadt.gpe0_blk, fadt.gpe0_blk_len, fadt.x_gpe0_blk) = (first.into(), len, address);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT).into();
    fadt.reset_reg = ports(reset_control::PORT, 1, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"SLUICE\0\0").into();
    fadt.finalize()
}
