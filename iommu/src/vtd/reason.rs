//! Why a request is blocked (VT-d 4.1 §7.1.3, §5.1.4.1). What can go wrong in legacy mode and in
//! scalable mode has a code in each.

use super::walk::NoPage;
use crate::Access;

/// Why a request was blocked. The names in comments are the manual's. Left out is what is about
/// requests that devices here do not make: translation requests and translated requests, page
/// requests, and requests with PASID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FaultReason {
    /// LRT.2: the root entry is not present.
    RootNotPresent = 0x01,
    /// LCT.2: the context entry is not present.
    ContextNotPresent = 0x02,
    /// LCT.4: the context entry has an address width or translation type that is not offered.
    ContextInvalid = 0x03,
    /// LGN.1: the address is wider than the domain or the unit.
    AddressTooWide = 0x04,
    /// LGN.2: a write, but some entry has W clear.
    WriteDenied = 0x05,
    /// LGN.3: a read, but some entry has R clear.
    ReadDenied = 0x06,
    /// LSS.1: a page-table entry cannot be read.
    PageTableAccess = 0x07,
    /// LRT.1: the root entry cannot be read.
    RootAccess = 0x08,
    /// LCT.1: the context entry cannot be read.
    ContextAccess = 0x09,
    /// LRT.3: reserved bits are set in a root entry.
    RootReserved = 0x0a,
    /// LCT.3: reserved bits are set in a context entry.
    ContextReserved = 0x0b,
    /// LSS.2: reserved bits are set in a page-table entry.
    PageTableReserved = 0x0c,
    /// LGN.4: the translated address is in the interrupt address range.
    OutputInterruptRange = 0x0e,
    /// Reserved bits are set in a remappable interrupt request; or it is in the interrupt
    /// address range and no interrupt request.
    RequestReserved = 0x20,
    /// The interrupt index is past the end of the table.
    IndexTooLarge = 0x21,
    /// The interrupt entry is not present.
    EntryNotPresent = 0x22,
    /// The interrupt entry cannot be read.
    EntryAccess = 0x23,
    /// Reserved bits are set in an interrupt entry, or a field has a reserved value.
    EntryReserved = 0x24,
    /// Requests in the compatibility format are blocked.
    CompatibilityBlocked = 0x25,
    /// The requester is not the one the interrupt entry is for.
    SourceInvalid = 0x26,
    /// RTA.1: the root table is of a kind that is not offered.
    TableModeInvalid = 0x30,
    /// SRT.1: the scalable-mode root entry cannot be read.
    ScalableRootAccess = 0x38,
    /// SRT.2: the half of the root entry that the requester is in is not present.
    ScalableRootNotPresent = 0x39,
    /// SRT.3: reserved bits are set in that half.
    ScalableRootReserved = 0x3a,
    /// SCT.1: the scalable-mode context entry cannot be read.
    ScalableContextAccess = 0x40,
    /// SCT.2: the context entry is not present.
    ScalableContextNotPresent = 0x41,
    /// SCT.3: reserved bits are set in a context entry.
    ScalableContextReserved = 0x42,
    /// SCT.9: RID_PASID is past the end of the PASID directory.
    RidPasidTooLarge = 0x48,
    /// SPD.1: the PASID directory entry cannot be read.
    DirectoryAccess = 0x50,
    /// SPD.2: the PASID directory entry is not present.
    DirectoryNotPresent = 0x51,
    /// SPD.3: reserved bits are set in a PASID directory entry.
    DirectoryReserved = 0x52,
    /// SPT.1: the PASID table entry cannot be read.
    PasidAccess = 0x58,
    /// SPT.2: the PASID table entry is not present.
    PasidNotPresent = 0x59,
    /// SPT.3: reserved bits are set in a PASID table entry.
    PasidReserved = 0x5a,
    /// SPT.4: the PASID table entry has a translation type, address width or paging mode that
    /// is not offered.
    PasidInvalid = 0x5b,
    /// SPT.6: a supervisor's request, but SRE is clear.
    SupervisorDisabled = 0x5d,
    /// SFS.1: a first-stage entry cannot be read.
    FirstAccess = 0x70,
    /// SFS.2: a first-stage entry is not present.
    FirstNotPresent = 0x71,
    /// SFS.3: reserved bits are set in a first-stage entry.
    FirstReserved = 0x72,
    /// SFS.4: an entry of the topmost first-stage table cannot be read.
    FirstRootAccess = 0x73,
    /// SFS.5: nested, a first-stage entry is beyond the width of the second stage.
    FirstTooWide = 0x74,
    /// SFS.6: nested, the second stage does not let the topmost first-stage table be read.
    FirstRootDenied = 0x75,
    /// SFS.7: nested, the second stage does not let a first-stage entry be read.
    FirstReadDenied = 0x76,
    /// SFS.8: nested, the second stage does not let a first-stage entry be written, which has
    /// to be marked as used.
    FirstWriteDenied = 0x77,
    /// SSS.1: a second-stage entry cannot be read.
    SecondAccess = 0x78,
    /// SSS.2: a second-stage entry has both R and W clear.
    SecondNotPresent = 0x79,
    /// SSS.3: reserved bits are set in a second-stage entry.
    SecondReserved = 0x7a,
    /// SSS.4: an entry of the topmost second-stage table cannot be read.
    SecondRootAccess = 0x7b,
    /// SGN.1: the address is not canonical, and there is a first stage.
    NotCanonical = 0x80,
    /// SGN.2: a user's request, but some first-stage entry has U/S clear.
    UserDenied = 0x81,
    /// SGN.4: the address is wider than the second stage.
    ScalableAddressTooWide = 0x83,
    /// SGN.5: nested, what comes out of the first stage is wider than the second stage.
    OutputTooWide = 0x84,
    /// SGN.6: a write, but some entry does not allow it.
    ScalableWriteDenied = 0x85,
    /// SGN.7: a read, but some second-stage entry has R clear.
    ScalableReadDenied = 0x86,
    /// SGN.8: the translated address is in the interrupt address range.
    ScalableOutputInterruptRange = 0x87,
    /// SFS.10: a first-stage entry could not be marked as used.
    FirstUpdate = 0x91,
}

impl FaultReason {
    /// The code in FRCD.FR.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Whose codes a fault has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chapter {
    Legacy,
    Scalable,
}

impl Chapter {
    /// The address has more bits than are translated.
    pub fn too_wide(self) -> FaultReason {
        match self {
            Self::Legacy => FaultReason::AddressTooWide,
            Self::Scalable => FaultReason::ScalableAddressTooWide,
        }
    }

    /// Page tables do not allow an access.
    pub fn denied(self, access: Access) -> FaultReason {
        match (self, access) {
            (Self::Legacy, Access::Read) => FaultReason::ReadDenied,
            (Self::Legacy, Access::Write) => FaultReason::WriteDenied,
            (Self::Scalable, Access::Read) => FaultReason::ScalableReadDenied,
            (Self::Scalable, Access::Write) => FaultReason::ScalableWriteDenied,
        }
    }

    /// The translated address is in the interrupt address range.
    pub fn in_interrupts(self) -> FaultReason {
        match self {
            Self::Legacy => FaultReason::OutputInterruptRange,
            Self::Scalable => FaultReason::ScalableOutputInterruptRange,
        }
    }

    /// Second-stage tables have no page.
    pub fn no_page(self, why: NoPage, access: Access) -> FaultReason {
        match (self, why) {
            // With no bit set an entry allows nothing: in legacy mode that is all it is.
            (Self::Legacy, NoPage::NotPresent) => self.denied(access),
            (Self::Legacy, NoPage::Access { .. }) => FaultReason::PageTableAccess,
            (Self::Legacy, NoPage::Reserved) => FaultReason::PageTableReserved,
            (Self::Scalable, NoPage::NotPresent) => FaultReason::SecondNotPresent,
            (Self::Scalable, NoPage::Access { top: false }) => FaultReason::SecondAccess,
            (Self::Scalable, NoPage::Access { top: true }) => FaultReason::SecondRootAccess,
            (Self::Scalable, NoPage::Reserved) => FaultReason::SecondReserved,
        }
    }
}
