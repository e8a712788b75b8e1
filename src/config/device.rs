//! The structured settings, read from a flag's value (`tap=tap0,mac=…`) or from a table of
//! the file with the same keys.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use devices::net::{Forward, Mac};
use devices::vfio::{CapabilityName, Presentation, RomSource, UnknownCapability};
use pci::HostBdf;
use serde::de::{self, Deserialize, Deserializer};

use super::id::Id;
use super::option::{OptionError, Options, leading};
use super::{Cdrom, Disk, MAX_PORT, NetBackend, OnError, Serial};
use crate::host::{HostDevice, Uuid, VfSettings};
use crate::memory::{HugePages, parse_size};

/// `--memory` as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySpec {
    /// Bytes.
    pub size: u64,
    /// What pages back it.
    pub huge_pages: HugePages,
}

/// A `--net` as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetSpec {
    /// What the card is plugged into.
    pub backend: NetBackend,
    /// Its address, if given.
    pub mac: Option<Mac>,
    /// What the operator calls it, if given.
    pub id: Option<String>,
}

/// An `--assign` as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignSpec {
    /// Which device.
    pub device: DeviceSpec,
    /// What the operator calls it, if given.
    pub id: Option<String>,
    /// The port it asks for.
    pub port: Option<u8>,
    /// Through which of the kernel's interfaces.
    pub interface: Interface,
    /// A descriptor of `/dev/iommu` that this process was given.
    pub iommufd: Option<RawFd>,
    /// How it is shown to the guest.
    pub presentation: Presentation,
    /// What is done when it fails.
    pub on_error: OnError,
    /// The device is a physical function: a virtual one of it is lent to the machine, with
    /// these settings.
    pub lent: Option<VfSettings>,
}

/// A device as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceSpec {
    /// By what it is called.
    Named(HostDevice),
    /// By a descriptor of its own file, which this process was given.
    Open(RawFd),
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(device) => write!(f, "{device}"),
            Self::Open(descriptor) => write!(f, "fd={descriptor}"),
        }
    }
}

/// The kernel's interfaces to the IOMMU. A machine uses one of them for all its devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub enum Interface {
    /// iommufd if the host and all devices have it, else type1.
    #[default]
    Auto,
    /// iommufd, and devices with files of their own.
    Iommufd,
    /// A type1 container, and devices in groups.
    Type1,
}

impl Interface {
    const ALL: [Self; 3] = [Self::Auto, Self::Iommufd, Self::Type1];
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Iommufd => "iommufd",
            Self::Type1 => "type1",
        })
    }
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|interface| interface.to_string() == text)
            .ok_or_else(|| format!("'{text}' is none of auto, iommufd, type1"))
    }
}

impl FromStr for MemorySpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (size, rest) = leading(text);
        if size.is_empty() {
            return Err(OptionError::Empty("SIZE, such as 4G"));
        }
        let options = Options::parse(rest, &["hugepages"], &[])?;
        Ok(Self {
            size: parse_size(size).map_err(|e| OptionError::Value("SIZE", e.to_string()))?,
            huge_pages: options.read("hugepages")?.unwrap_or_default(),
        })
    }
}

impl FromStr for HugePages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Off, Self::Transparent, Self::Size2M, Self::Size1G];
        all.into_iter()
            .find(|h| h.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("'{text}' is none of off, transparent, 2M, 1G"))
    }
}

const PATH: &str = "path=…";

impl FromStr for Disk {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let options = Options::parse(text, &["path", "readonly"], &[])?;
        Ok(Self {
            path: options
                .value("path")?
                .ok_or(OptionError::Missing("path", PATH))?
                .into(),
            readonly: options.word("readonly")?,
        })
    }
}

impl FromStr for Cdrom {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let options = Options::parse(text, &["path"], &[])?;
        Ok(Self {
            path: options
                .value("path")?
                .ok_or(OptionError::Missing("path", PATH))?
                .into(),
        })
    }
}

const NET_CHOICE: OptionError =
    OptionError::Choice("a card is plugged into one thing: write tap=NAME or user");

fn net(
    tap: Option<&str>,
    user: bool,
    forwards: Vec<Forward>,
    mac: Option<Mac>,
    id: Option<Id>,
) -> Result<NetSpec, OptionError> {
    let backend = match (tap, user) {
        (Some(name), false) if forwards.is_empty() => NetBackend::Tap(name.to_owned()),
        (Some(_), false) => {
            return Err(OptionError::Choice(
                "forward is for user networking; a TAP is reached by the host's own routes",
            ));
        }
        (None, true) => NetBackend::User(forwards),
        _ => return Err(NET_CHOICE),
    };
    Ok(NetSpec {
        backend,
        mac,
        id: id.map(Id::into),
    })
}

impl FromStr for NetSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let known = ["tap", "user", "mac", "forward", "id"];
        let options = Options::parse(text, &known, &["forward"])?;
        let forwards: Result<Vec<Forward>, _> = options
            .values("forward")?
            .into_iter()
            .map(str::parse)
            .collect();
        net(
            options.value("tap")?,
            options.word("user")?,
            forwards.map_err(|e: devices::net::PasstError| {
                OptionError::Value("forward", e.to_string())
            })?,
            options.read("mac")?,
            options.read("id")?,
        )
    }
}

/// A root port number.
struct Port(u8);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(port @ 1..=MAX_PORT) => Ok(Self(port)),
            _ => Err(format!(
                "'{text}' is no port; write a number from 1 to {MAX_PORT}"
            )),
        }
    }
}

/// `on`, `off` or a path.
fn rom_source(text: &str) -> RomSource {
    match text {
        "on" => RomSource::Device,
        "off" => RomSource::Off,
        path => RomSource::File(path.into()),
    }
}

/// Names of capabilities, with `+` between them.
#[derive(Default)]
struct Capabilities(Vec<CapabilityName>);

impl FromStr for Capabilities {
    type Err = UnknownCapability;

    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        let names: Result<_, _> = text.split('+').map(str::parse).collect();
        names.map(Self)
    }
}

/// The number of a file descriptor.
struct Descriptor(RawFd);

impl FromStr for Descriptor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number >= 0);
        number
            .map(Self)
            .ok_or_else(|| format!("'{text}' is no file descriptor; write its number, such as 5"))
    }
}

impl FromStr for DeviceSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        fn value<T: FromStr<Err: fmt::Display>>(
            key: &'static str,
            text: &str,
        ) -> Result<T, OptionError> {
            let value = text.parse();
            value.map_err(|e: T::Err| OptionError::Value(key, e.to_string()))
        }

        let mediated = |uuid: Uuid| Self::Named(HostDevice::Mediated(uuid));
        match (text.split_once('='), text.parse()) {
            (Some(("fd", number)), _) => value("fd", number).map(|Descriptor(n)| Self::Open(n)),
            (Some(("mdev", uuid)), _) => value("mdev", uuid).map(mediated),
            (_, Ok(uuid)) => Ok(mediated(uuid)),
            _ => value("BDF", text).map(|address: HostBdf| Self::Named(address.into())),
        }
    }
}

const ASSIGN_KEYS: [&str; 9] = [
    "port", "rom", "no-mmap", "hide", "clique", "on-error", "iommu", "iommufd", "id",
];

impl FromStr for AssignSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (device, rest) = leading(text);
        if device.is_empty() {
            return Err(OptionError::Empty("a PCI address, such as 0000:02:10.0"));
        }
        let options = Options::parse(rest, &ASSIGN_KEYS, &[])?;
        let hide: Option<Capabilities> = options.read("hide")?;
        Ok(Self {
            device: device.parse()?,
            id: options.read("id")?.map(Id::into),
            port: options.read("port")?.map(|Port(port)| port),
            interface: options.read("iommu")?.unwrap_or_default(),
            iommufd: options.read("iommufd")?.map(|Descriptor(n)| n),
            presentation: Presentation {
                rom: options.value("rom")?.map(rom_source).unwrap_or_default(),
                no_mmap: options.word("no-mmap")?,
                hide: hide.map(|names| names.0).unwrap_or_default(),
                clique: options.read("clique")?,
                ..Presentation::default()
            },
            on_error: options.read("on-error")?.unwrap_or_default(),
            lent: None,
        })
    }
}

const SERIAL_CHOICE: OptionError =
    OptionError::Choice("the serial port goes to one thing: write stdio, file=… or socket=…");

impl FromStr for Serial {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let options = Options::parse(text, &["stdio", "file", "socket"], &[])?;
        let to = (
            options.word("stdio")?,
            options.value("file")?,
            options.value("socket")?,
        );
        match to {
            (true, None, None) => Ok(Self::Stdio),
            (false, Some(path), None) => Ok(Self::File(path.into())),
            (false, None, Some(path)) => Ok(Self::Socket(path.into())),
            _ => Err(SERIAL_CHOICE),
        }
    }
}

/// A value that the file gives as text in the flag's syntax.
pub(super) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

/// As [`from_text`], for keys that may be absent.
fn from_text_if<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    from_text(deserializer).map(Some)
}

struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_size(text).map(Self).map_err(|e| e.to_string())
    }
}

impl<'de> Deserialize<'de> for MemorySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(deserialize_with = "from_text")]
            size: Size,
            #[serde(default, deserialize_with = "from_text")]
            hugepages: HugePages,
        }
        let table = Table::deserialize(deserializer)?;
        Ok(Self {
            size: table.size.0,
            huge_pages: table.hugepages,
        })
    }
}

impl<'de> Deserialize<'de> for NetSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            tap: Option<String>,
            #[serde(default)]
            user: bool,
            #[serde(default, deserialize_with = "from_text_if")]
            mac: Option<Mac>,
            #[serde(default)]
            forward: Vec<ForwardText>,
            #[serde(default, deserialize_with = "from_text_if")]
            id: Option<Id>,
        }
        #[derive(serde::Deserialize)]
        struct ForwardText(#[serde(deserialize_with = "from_text")] Forward);

        let table = Table::deserialize(deserializer)?;
        let forwards = table.forward.into_iter().map(|f| f.0).collect();
        let tap = table.tap.as_deref();
        net(tap, table.user, forwards, table.mac, table.id).map_err(de::Error::custom)
    }
}

const DEVICE_CHOICE: OptionError =
    OptionError::Choice("a table is about one device: write one of bdf, mdev and fd");

impl<'de> Deserialize<'de> for AssignSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(default, deserialize_with = "from_text_if")]
            bdf: Option<HostBdf>,
            #[serde(default, deserialize_with = "from_text_if")]
            mdev: Option<Uuid>,
            fd: Option<i64>,
            #[serde(default, deserialize_with = "from_text_if")]
            id: Option<Id>,
            port: Option<i64>,
            #[serde(default, deserialize_with = "from_text")]
            iommu: Interface,
            iommufd: Option<i64>,
            rom: Option<String>,
            #[serde(default, rename = "no-mmap")]
            no_mmap: bool,
            #[serde(default, deserialize_with = "from_text")]
            hide: Capabilities,
            clique: Option<i64>,
            #[serde(default, rename = "on-error", deserialize_with = "from_text")]
            on_error: OnError,
        }
        /// A number that must be as the flag's text has it.
        fn number<T: FromStr<Err: fmt::Display>, E: de::Error>(
            number: Option<i64>,
        ) -> Result<Option<T>, E> {
            let read = number.map(|n| n.to_string().parse());
            read.transpose().map_err(E::custom)
        }

        let table = Table::deserialize(deserializer)?;
        let fd = number(table.fd)?.map(|Descriptor(n)| n);
        let device = match (table.bdf, table.mdev, fd) {
            (Some(address), None, None) => DeviceSpec::Named(address.into()),
            (None, Some(uuid), None) => DeviceSpec::Named(HostDevice::Mediated(uuid)),
            (None, None, Some(descriptor)) => DeviceSpec::Open(descriptor),
            _ => return Err(de::Error::custom(DEVICE_CHOICE)),
        };
        Ok(Self {
            device,
            id: table.id.map(Id::into),
            port: number(table.port)?.map(|Port(port)| port),
            interface: table.iommu,
            iommufd: number(table.iommufd)?.map(|Descriptor(n)| n),
            presentation: Presentation {
                rom: table.rom.as_deref().map(rom_source).unwrap_or_default(),
                no_mmap: table.no_mmap,
                hide: table.hide.0,
                clique: number(table.clique)?,
                ..Presentation::default()
            },
            on_error: table.on_error,
            lent: None,
        })
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(default)]
            stdio: bool,
            file: Option<PathBuf>,
            socket: Option<PathBuf>,
        }
        match Table::deserialize(deserializer)? {
            Table {
                stdio: true,
                file: None,
                socket: None,
            } => Ok(Self::Stdio),
            Table {
                stdio: false,
                file: Some(path),
                socket: None,
            } => Ok(Self::File(path)),
            Table {
                stdio: false,
                file: None,
                socket: Some(path),
            } => Ok(Self::Socket(path)),
            _ => Err(de::Error::custom(SERIAL_CHOICE)),
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
