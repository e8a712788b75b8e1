//! What is said over the control socket: a JSON object on a line for each request, and one for
//! each answer, in order.

use std::path::PathBuf;
use std::time::Duration;

use devices::vfio::RomSource;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Add, Control, NewDevice, PATIENCE, Refused, Removal};
use crate::config::AssignSpec;

/// The longest line.
pub const MAX_LINE: usize = 64 << 10;

/// A request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// [`Control::add`].
    Add(AddRequest),
    /// [`Control::remove`].
    Remove {
        /// Which device.
        id: String,
        /// Without asking the guest.
        #[serde(default)]
        force: bool,
        /// Seconds that the guest has; [`PATIENCE`] if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<u32>,
    },
    /// [`Control::list`].
    List {},
}

/// A device to add: one of `assign` and `net`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// The value of an `--assign`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assign: Option<String>,
    /// The value of a `--net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    /// What the device will be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What relative paths are relative to, if not to where the machine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl AddRequest {
    fn read(self) -> Result<Add, Refused> {
        let device = match (self.assign, self.net) {
            (Some(text), None) => {
                let mut spec: AssignSpec = text.parse().map_err(|error| invalid(&text, &error))?;
                if let (Some(folder), RomSource::File(rom)) =
                    (&self.folder, &mut spec.presentation.rom)
                {
                    *rom = folder.join(&*rom);
                }
                NewDevice::Assign(spec)
            }
            (None, Some(text)) => {
                NewDevice::Net(text.parse().map_err(|error| invalid(&text, &error))?)
            }
            _ => return Err(Refused::invalid("give either assign or net")),
        };
        if let Some(id) = &self.id {
            check_id(id)?;
        }
        Ok(Add {
            id: self.id,
            device,
        })
    }
}

fn invalid(text: &str, error: &dyn std::fmt::Display) -> Refused {
    Refused::invalid(format!("{text}: {error}"))
}

/// What fits in a table and needs no quotes.
fn check_id(id: &str) -> Result<(), Refused> {
    let is_apt = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if (1..=64).contains(&id.len()) && id.chars().all(is_apt) {
        return Ok(());
    }
    Err(Refused::invalid(format!(
        "'{id}' cannot be an id; write up to 64 letters, digits, '-', '.', '_' and ':'"
    )))
}

/// Does what a line asks, and gives the line that answers it.
pub fn answer(line: &[u8], machine: &dyn Control) -> String {
    let done = serde_json::from_slice::<Request>(line)
        .map_err(|error| Refused::invalid(format!("not a request: {error}")))
        .and_then(|request| act(request, machine));
    reply(&done)
}

/// The line of an answer.
pub fn reply(done: &Result<Value, Refused>) -> String {
    let line = match done {
        Ok(value) => json!({ "ok": value }),
        Err(refused) => json!({ "error": refused }),
    };
    line.to_string() + "\n"
}

fn act(request: Request, machine: &dyn Control) -> Result<Value, Refused> {
    Ok(match request {
        Request::Add(add) => json!(machine.add(add.read()?)?),
        Request::Remove { id, force, timeout } => {
            let patience = timeout.map_or(PATIENCE, |s| Duration::from_secs(s.into()));
            machine.remove(&id, &Removal { force, patience })?;
            json!({})
        }
        Request::List {} => json!(machine.list()),
    })
}

/// What an answer says.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Ok(Value),
    Error(Refused),
}

#[cfg(test)]
mod tests;
