//! Invalidation queue descriptors (VT-d 4.1 §6.5.2): from bits to what is to be done.

use std::ops::Range;

use bitfield::bitfield;
use pci::Bdf;

use super::cache::{ContextScope, PageScope};
use super::commands::{DOMAIN, SELECTIVE, context_scope, page_scope};
use super::config::{MAX_HANDLE_MASK, VtdConfig};
use super::registers::{InvalidateAddress, QueueError};

/// What a descriptor asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Contexts(ContextScope),
    Pages(PageScope),
    /// The Device-TLB of a function, with or without a PASID.
    DeviceTlb,
    /// Interrupt entries; all if `None`.
    Entries(Option<Range<u32>>),
    Wait(Wait),
}

/// An invalidation wait descriptor. Descriptors are carried out in order, so its fence is
/// always there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wait {
    /// What to write where once all before it is done.
    pub status: Option<(u64, u32)>,
    /// Then there is an invalidation completion event.
    pub interrupt: bool,
}

bitfield! {
    /// The low half of every descriptor: the fields that the kinds have in common.
    #[derive(Clone, Copy)]
    struct Head(u64);
    u8, type_low, _: 3, 0;
    u8, type_high, _: 11, 9;
    u8, granularity, _: 5, 4;
    u16, domain, _: 31, 16;
    u16, source, _: 47, 32;
    u8, function_mask, _: 49, 48;
    u32, pasid, _: 51, 32;
    /// Interrupt entries: index-selective.
    selective, _: 4;
    u8, index_mask, _: 31, 27;
    u16, index, _: 47, 32;
    /// Wait: IF and SW, and the data.
    interrupt, _: 4;
    status_write, _: 5;
    u32, status_data, _: 63, 32;
}

/// Bits that a kind of descriptor may have in its low and high half, the type among them.
///
/// Those of Device-TLBs have no PFSID, bits 63:52 and 15:12 of the low half: it is there for
/// throttling, and reserved as that is not offered (ECAP.DIT). Max Invs Pend may be anything,
/// 0 for 32, and so may the address, which with S says the size by its lowest zero bit.
const CONTEXT: (u64, u64) = (0x0003_ffff_ffff_003f, 0);
const IOTLB: (u64, u64) = (0xffff_00ff, 0xffff_ffff_ffff_f07f);
const DEVICE_TLB: (u64, u64) = (0x0000_ffff_001f_000f, 0xffff_ffff_ffff_f001);
const ENTRIES: (u64, u64) = (0x0000_ffff_f800_001f, 0);
const WAIT: (u64, u64) = (0xffff_ffff_0000_007f, !3);
const PASID_IOTLB: (u64, u64) = (0x000f_ffff_ffff_003f, 0xffff_ffff_ffff_f07f);
const PASID_CACHE: (u64, u64) = (0x000f_ffff_ffff_003f, 0);
const PASID_DEVICE_TLB: (u64, u64) = (0x000f_ffff_ffff_01ff, 0xffff_ffff_ffff_f801);

/// Decodes a descriptor of two or four quadwords.
pub(super) fn decode(quads: &[u64], config: &VtdConfig) -> Result<Request, QueueError> {
    let [low, high, rest @ ..] = quads else {
        return Err(QueueError::Fetch);
    };
    let head = Head(*low);
    // Those with PASIDs are of 256 bits only.
    let with_pasids = config.scalable && !rest.is_empty();
    let kind = head.type_low() | head.type_high() << 4;
    let allowed = match kind {
        1 => CONTEXT,
        2 => IOTLB,
        3 if config.device_tlb => DEVICE_TLB,
        4 if config.interrupt_remapping => ENTRIES,
        5 => WAIT,
        6 if with_pasids => PASID_IOTLB,
        7 if with_pasids => PASID_CACHE,
        8 if with_pasids && config.device_tlb => PASID_DEVICE_TLB,
        // Page group responses among them.
        _ => return Err(QueueError::InvalidType),
    };
    if low & !allowed.0 != 0 || high & !allowed.1 != 0 || rest.iter().any(|&quad| quad != 0) {
        return Err(QueueError::Reserved);
    }
    match kind {
        1 => contexts(head),
        2 => pages(head, InvalidateAddress(*high)),
        3 | 8 => Ok(Request::DeviceTlb),
        4 => entries(head),
        6 => pasid_pages(head, InvalidateAddress(*high)),
        7 => pasid_entries(head),
        _ => Ok(Request::Wait(Wait {
            status: head.status_write().then_some((*high, head.status_data())),
            interrupt: head.interrupt(),
        })),
    }
}

fn contexts(head: Head) -> Result<Request, QueueError> {
    let source = Bdf::from_requester_id(head.source());
    context_scope(
        head.granularity(),
        head.domain(),
        source,
        head.function_mask(),
    )
    .map(Request::Contexts)
    .ok_or(QueueError::Reserved)
}

fn pages(head: Head, address: InvalidateAddress) -> Result<Request, QueueError> {
    page_scope(
        head.granularity(),
        head.domain(),
        address.address(),
        address.mask(),
    )
    .map(Request::Pages)
    .ok_or(QueueError::Reserved)
}

/// What a PASID-based IOTLB invalidation is about. The address mask has no limit: Linux keeps
/// to none here, and any is as easily covered.
fn pasid_pages(head: Head, address: InvalidateAddress) -> Result<Request, QueueError> {
    let (domain, pasid, order) = (head.domain(), head.pasid(), address.mask());
    let scope = match head.granularity() {
        DOMAIN => PageScope::Pasid { domain, pasid },
        SELECTIVE => PageScope::PasidPages {
            domain,
            pasid,
            iova: address.address() & u64::MAX.checked_shl(12 + u32::from(order)).unwrap_or(0),
            order,
        },
        _ => return Err(QueueError::Reserved),
    };
    Ok(Request::Pages(scope))
}

/// What a PASID cache invalidation is about. Its granularities are others (§6.5.2.2).
fn pasid_entries(head: Head) -> Result<Request, QueueError> {
    const ALL_PASIDS: u8 = 0;
    const PASID: u8 = 1;
    const GLOBAL: u8 = 3;
    let domain = head.domain();
    let scope = match head.granularity() {
        ALL_PASIDS => ContextScope::Pasids {
            domain,
            pasid: None,
        },
        PASID => ContextScope::Pasids {
            domain,
            pasid: Some(head.pasid()),
        },
        GLOBAL => ContextScope::Global,
        _ => return Err(QueueError::Reserved),
    };
    Ok(Request::Contexts(scope))
}

fn entries(head: Head) -> Result<Request, QueueError> {
    if !head.selective() {
        return Ok(Request::Entries(None));
    }
    let mask = head.index_mask();
    if mask > MAX_HANDLE_MASK {
        return Err(QueueError::Reserved);
    }
    let len = 1_u32 << mask;
    let first = u32::from(head.index()) & !(len - 1);
    Ok(Request::Entries(Some(first..first + len)))
}
