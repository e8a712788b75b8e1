//! What the host has to say about an assigned device while the guest has it: that it failed
//! (an uncorrectable error, reported through AER), and that the host wants it back.
//!
//! Both are armed when the device is taken, and stay so until it is closed; what is done
//! about them is the machine's. A device or a host that cannot signal one of them, or the
//! kernel's refusal to arm it, leaves the device in use: it only goes unnoticed.

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::backend::{IrqKind, TriggerError, VfioBackend};

/// The events that are armed.
pub(super) struct Events {
    pub error: Option<EventFd>,
    pub request: Option<EventFd>,
}

impl Events {
    pub fn arm(backend: &dyn VfioBackend, name: &str) -> Self {
        let arm = |kind| {
            if backend.irq(kind).count == 0 {
                return None;
            }
            armed(backend, kind)
                .inspect_err(|error| {
                    tracing::warn!(device = name, ?kind, %error, "not told of by the host");
                })
                .ok()
        };
        Self {
            error: arm(IrqKind::Error),
            request: arm(IrqKind::Request),
        }
    }
}

fn armed(backend: &dyn VfioBackend, kind: IrqKind) -> Result<EventFd, TriggerError> {
    let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(TriggerError::Refused)?;
    backend.set_triggers(kind, 0, &[Some(&event)])?;
    Ok(event)
}
