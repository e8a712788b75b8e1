//! The Fixed ACPI Description Table (ACPI 6.5 §5.2.9): power management ports, reset
//! register and what kind of PC this is.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, PM_BASE, RESET_PORT, RESET_VALUE, SCI_IRQ};

/// Register blocks from PMBASE on (ICH9 §13.8.3).
const PM1_EVENT: (u16, u8) = (PM_BASE, 4);
const PM1_CONTROL: (u16, u8) = (PM_BASE + 4, 2);
const PM_TIMER: (u16, u8) = (PM_BASE + 8, 4);

/// IA-PC boot architecture flags (ACPI 6.5 table 5.11). The keyboard controller flag is not
/// among those set: ours resets the machine and has no keyboard behind it.
const LEGACY_DEVICES: u16 = 1 << 0;
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// The CMOS register that holds the century.
const CENTURY: u8 = 0x32;
/// Latencies above these mean that there are no C2 and C3 states (table 5.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

fn port(block: (u16, u8), access: AccessSize) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        block.1 * 8,
        0,
        access,
        block.0.into(),
    )
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
    fadt.sci_int = u16::from(SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT.0).into();
    fadt.pm1_evt_len = PM1_EVENT.1;
    fadt.x_pm1a_evt_blk = port(PM1_EVENT, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL.0).into();
    fadt.pm1_cnt_len = PM1_CONTROL.1;
    fadt.x_pm1a_cnt_blk = port(PM1_CONTROL, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(PM_TIMER.0).into();
    fadt.pm_tmr_len = PM_TIMER.1;
    fadt.x_pm_tmr_blk = port(PM_TIMER, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT).into();
    fadt.reset_reg = port((RESET_PORT, 1), AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"SLUICE\0\0").into();
    fadt.finalize()
}
