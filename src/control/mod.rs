//! A running machine, controlled from outside: JSON lines over a Unix socket.
//!
//! `protocol` is what is said, [`Server`] and [`Client`] are the ends that say it. What is
//! done about it is the machine's, behind [`Control`].

mod client;
#[cfg(test)]
mod fake;
mod lines;
mod protocol;
mod server;
mod socket;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{AssignSpec, NetSpec};

pub use client::{Client, ClientError};
pub use protocol::{AddRequest, Functions, Request};
pub use server::{Server, ServerError};

/// How long a guest has to let go of a device, unless something else is said.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What can be asked of a running machine. Each call may take its time; several may run at
/// once.
pub trait Control: Send + Sync {
    /// Plugs a device in. When it returns the guest has been told of it.
    fn add(&self, device: NewDevice) -> Result<Added, Refused>;

    /// Takes a device out, with everything else in its slot. When it returns the host can have
    /// it for something else.
    fn remove(&self, id: &str, removal: &Removal) -> Result<(), Refused>;

    /// What is plugged in, and where there is room.
    fn list(&self) -> Listing;
}

/// What may be plugged in. It is called by its address or the name of its network if it is not
/// given an id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewDevice {
    /// A device of the host's, by its functions, of which there is at least one.
    Assign(Vec<AssignSpec>),
    /// A network card.
    Net(NetSpec),
}

/// Where a device went: its function 0, if it has several.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Added {
    /// What it is called.
    pub id: String,
    /// Its root port.
    pub port: u8,
    /// Its address in the guest, once the guest has numbered its buses.
    pub guest: Option<String>,
}

/// How a device is taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removal {
    /// The guest is not asked.
    pub force: bool,
    /// How long the guest has.
    pub patience: Duration,
}

/// What is plugged into a machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// By port.
    pub devices: Vec<Listed>,
    /// Root ports whose slots are empty.
    pub free_ports: Vec<u8>,
}

/// A device in a slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// What it is called.
    pub id: String,
    /// `assigned` or `e1000`.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// What of the host's it is, if it is an assigned one.
    pub host: Option<String>,
    /// Its root port.
    pub port: u8,
    /// Its address in the guest, once the guest has numbered its buses, while the device is open.
    pub guest: Option<String>,
    /// `coming`, `plugged` or `removing`. One that is listed no more can be plugged in again.
    pub state: String,
}

/// Why something was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refused {
    /// For programs.
    pub code: Code,
    /// For people: one line, with what to do.
    pub message: String,
}

/// Why, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// What was asked cannot be understood.
    Invalid,
    /// No device has this id.
    UnknownId,
    /// Another device has this id.
    IdTaken,
    /// There is no such port, it is taken, or all are.
    NoPort,
    /// The device is coming or going already.
    Busy,
    /// The guest did not let go in time.
    Timeout,
    /// The device cannot be had, or cannot be shown to a guest.
    NotPossible,
    /// The machine is ending, or has too many to listen to.
    Unavailable,
}

impl Refused {
    /// What cannot be understood.
    pub fn invalid(message: impl ToString) -> Self {
        Self {
            code: Code::Invalid,
            message: message.to_string(),
        }
    }
}
