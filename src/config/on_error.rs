//! What is done when an assigned device fails.

use std::str::FromStr;

/// What is done when a device reports an uncorrectable error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub enum OnError {
    /// The guest is told, by its root port.
    #[default]
    Report,
    /// It is taken away from the guest.
    Quarantine,
}

impl FromStr for OnError {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "report" => Ok(Self::Report),
            "quarantine" => Ok(Self::Quarantine),
            _ => Err(format!("'{text}' is none of these: report or quarantine")),
        }
    }
}
