//! What is said over the control socket: a JSON object on a line for each request, and one for
//! each answer, in order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use devices::vfio::RomSource;
use pci::HostBdf;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{Control, NewDevice, PATIENCE, Refused, Removal};
use crate::config::{AssignSpec, NetSpec, check_id};

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
    /// The value of an `--assign`, or of one for each function of the device.
    #[serde(default, skip_serializing_if = "Functions::is_empty")]
    pub assign: Functions,
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

/// The functions of a device: one is written as itself, several as a list.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Functions(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Functions {
    fn from(written: OneOrMany) -> Self {
        Self(match written {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        })
    }
}

impl Serialize for Functions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl Functions {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AddRequest {
    fn read(self) -> Result<NewDevice, Refused> {
        let Self {
            assign,
            net,
            id,
            folder,
        } = self;
        let device = match (assign.0.as_slice(), net) {
            ([_, ..], None) => {
                let read = |text: &String| function(text, folder.as_deref());
                let mut specs = assign.0.iter().map(read).collect::<Result<Vec<_>, _>>()?;
                match specs.as_mut_slice() {
                    [one] => name(&mut one.id, id)?,
                    _ if id.is_some() => {
                        let why = "give each of several functions its own id=, not all of them one";
                        return Err(Refused::invalid(why));
                    }
                    _ => (),
                }
                NewDevice::Assign(specs)
            }
            ([], Some(text)) => {
                let mut spec: NetSpec = text.parse().map_err(|error| invalid(&text, &error))?;
                name(&mut spec.id, id)?;
                NewDevice::Net(spec)
            }
            _ => return Err(Refused::invalid("give either assign or net")),
        };
        Ok(device)
    }
}

/// Reads a function of the host's; a ROM's file is relative to `folder`.
fn function(text: &str, folder: Option<&Path>) -> Result<AssignSpec, Refused> {
    let mut spec: AssignSpec = text.parse().map_err(|error| invalid(text, &error))?;
    if let (Some(folder), RomSource::File(rom)) = (folder, &mut spec.presentation.rom) {
        *rom = folder.join(&*rom);
    }
    if let Some(number) = spec.iommufd {
        let why = format!("iommufd={number} is for the command line of `sluice run`");
        return Err(Refused::invalid(why));
    }
    Ok(spec)
}

/// Gives a device the request's id, if there is one and it has none of its own.
fn name(own: &mut Option<String>, id: Option<String>) -> Result<(), Refused> {
    if own.is_some() && id.is_some() {
        return Err(Refused::invalid("the id is given twice; keep one"));
    }
    *own = own.take().or(id);
    own.as_deref()
        .map_or(Ok(()), check_id)
        .map_err(Refused::invalid)
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
