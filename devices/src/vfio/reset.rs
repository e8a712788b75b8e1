//! When an assigned device is reset, and by whom: here when it is taken, when the guest
//! orders it or is itself reset, and when it is given back. The kernel resets it once more
//! when it is closed, and so also when this process dies.

use super::backend::VfioBackend;
use crate::guest_error;

/// On whose account the device is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Occasion {
    Taken,
    Guest,
    GivenBack,
}

/// Resets the device and says whether that worked. Its interrupts must be disabled before:
/// the kernel saves and restores the state of its config space around the reset, and would
/// enable them again.
pub(super) fn reset(backend: &dyn VfioBackend, name: &str, occasion: Occasion) -> bool {
    if !backend.can_reset() {
        if occasion == Occasion::Taken {
            tracing::warn!(
                device = name,
                "the kernel knows no way to reset this device: it keeps the state its last user \
                 left it in"
            );
        }
        return false;
    }
    match backend.reset() {
        Ok(()) => true,
        Err(error) => {
            guest_error!(device = name, ?occasion, %error, "the device was not reset");
            false
        }
    }
}
