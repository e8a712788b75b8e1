//! What is said over the control socket: a JSON object on a line for each request, and one for
//! each answer, in order.

use std::path::PathBuf;
use std::time::Duration;

use devices::vfio::RomSource;
use pci::HostBdf;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::{Add, Control, NewDevice, PATIENCE, Refused, Removal};
use crate::config::{AssignSpec, check_id};

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
        let mut device = match (self.assign, self.net) {
            (Some(text), None) => {
                let mut spec: AssignSpec = text.parse().map_err(|error| invalid(&text, &error))?;
                if let (Some(folder), RomSource::File(rom)) =
                    (&self.folder, &mut spec.presentation.rom)
                {
                    *rom = folder.join(&*rom);
                }
                if let Some(number) = spec.iommufd {
                    let why = format!("iommufd={number} is for the command line of `sluice run`");
                    return Err(Refused::invalid(why));
                }
                NewDevice::Assign(spec)
            }
            (None, Some(text)) => {
                NewDevice::Net(text.parse().map_err(|error| invalid(&text, &error))?)
            }
            _ => return Err(Refused::invalid("give either assign or net")),
        };
        let own = match &mut device {
            NewDevice::Assign(spec) => spec.id.take(),
            NewDevice::Net(spec) => spec.id.take(),
        };
        let id = match (self.id, own) {
            (Some(_), Some(_)) => return Err(Refused::invalid("the id is given twice; keep one")),
            (id, own) => id.or(own),
        };
        id.as_deref()
            .map_or(Ok(()), check_id)
            .map_err(Refused::invalid)?;
        Ok(Add { id, device })
    }
}

fn invalid(text: &str, error: &dyn std::fmt::Display) -> Refused {
    Refused::invalid(format!("{text}: {error}"))
}

/// Does what a line asks, and gives the line that answers it.
pub fn answer(line: &[u8], machine: &dyn Control) -> String {
    let not_a_request = |error| Refused::invalid(format!("not a request: {error}"));
    let Object(mut members) = match serde_json::from_slice(line) {
        Ok(object) => object,
        Err(error) => return reply(&Err(not_a_request(error)), None),
    };
    let tag = members.remove("tag");
    let done = serde_json::from_value(Value::Object(members))
        .map_err(not_a_request)
        .and_then(|request| act(request, machine));
    reply(&done, tag)
}

/// The line of an answer, with the request's tag if it had one.
pub fn reply(done: &Result<Value, Refused>, tag: Option<Value>) -> String {
    let mut line = match done {
        Ok(value) => json!({ "ok": value }),
        Err(refused) => json!({ "error": refused }),
    };
    if let Some(tag) = tag {
        line["tag"] = tag;
    }
    line.to_string() + "\n"
}

/// An object none of whose members is there twice.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.contains_key(&name) {
                        return Err(de::Error::custom(format!("'{name}' is there twice")));
                    }
                    members.insert(name, value);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

fn act(request: Request, machine: &dyn Control) -> Result<Value, Refused> {
    Ok(match request {
        Request::Add(add) => json!(machine.add(add.read()?)?),
        Request::Remove { id, force, timeout } => {
            let patience = timeout.map_or(PATIENCE, |s| Duration::from_secs(s.into()));
            // An address may be written without its segment, as on the command line.
            let address: Result<HostBdf, _> = id.parse();
            let id = address.map_or(id, |address| address.to_string());
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
