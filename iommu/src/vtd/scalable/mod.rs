//! Scalable mode (VT-d 4.1 §3.4.3, §3.6, §3.8): from a requester by way of its PASID table to
//! what translates its addresses, and the first stage, alone or in front of the second.
//!
//! Requests here have no PASID; they take the one that their context entry gives them
//! (RID_PASID). The tables are walked as for any other.

mod context;
mod first;
mod tables;

pub(super) use self::context::find_context;
pub(super) use self::first::{First, Request, canonical_bits, find_page};
