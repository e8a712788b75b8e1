//! The structured settings, read from a flag's value (`tap=tap0,mac=…`) or from a table of
//! the file with the same keys.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use devices::net::{Forward, Mac};
use devices::vfio::{CapabilityName, Presentation, RomSource, UnknownCapability};
use pci::HostBdf;
use serde::de::{self, Deserialize, Deserializer};

use super::option::{OptionError, Options, leading};
use super::{Cdrom, Disk, MAX_PORT, NetBackend, Serial};
use crate::host::VfSettings;
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
}

/// An `--assign` as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignSpec {
    /// Which device.
    pub device: HostBdf,
    /// The port it asks for.
    pub port: Option<u8>,
    /// How it is shown to the guest.
    pub presentation: Presentation,
    /// The device is a physical function: a virtual one of it is lent to the machine, with
    /// these settings.
    pub lent: Option<VfSettings>,
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
    Ok(NetSpec { backend, mac })
}

impl FromStr for NetSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let options = Options::parse(text, &["tap", "user", "mac", "forward"], &["forward"])?;
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

impl FromStr for AssignSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (device, rest) = leading(text);
        if device.is_empty() {
            return Err(OptionError::Empty("a PCI address, such as 0000:02:10.0"));
        }
        let options = Options::parse(rest, &["port", "rom", "no-mmap", "hide", "clique"], &[])?;
        let hide: Option<Capabilities> = options.read("hide")?;
        Ok(Self {
            device: device
                .parse()
                .map_err(|e: pci::ParseBdfError| OptionError::Value("BDF", e.to_string()))?,
            port: options.read("port")?.map(|Port(port)| port),
            presentation: Presentation {
                rom: options.value("rom")?.map(rom_source).unwrap_or_default(),
                no_mmap: options.word("no-mmap")?,
                hide: hide.map(|names| names.0).unwrap_or_default(),
                clique: options.read("clique")?,
            },
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
fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
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
        }
        #[derive(serde::Deserialize)]
        struct ForwardText(#[serde(deserialize_with = "from_text")] Forward);

        let table = Table::deserialize(deserializer)?;
        let forwards = table.forward.into_iter().map(|f| f.0).collect();
        net(table.tap.as_deref(), table.user, forwards, table.mac).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for AssignSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(deserialize_with = "from_text")]
            bdf: HostBdf,
            port: Option<i64>,
            rom: Option<String>,
            #[serde(default, rename = "no-mmap")]
            no_mmap: bool,
            #[serde(default, deserialize_with = "from_text")]
            hide: Capabilities,
            clique: Option<i64>,
        }
        let table = Table::deserialize(deserializer)?;
        let port = table.port.map(|port| port.to_string().parse::<Port>());
        let clique = table.clique.map(|n| n.to_string().parse());
        Ok(Self {
            device: table.bdf,
            port: port.transpose().map_err(de::Error::custom)?.map(|p| p.0),
            presentation: Presentation {
                rom: table.rom.as_deref().map(rom_source).unwrap_or_default(),
                no_mmap: table.no_mmap,
                hide: table.hide.0,
                clique: clique.transpose().map_err(de::Error::custom)?,
            },
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error<T: FromStr<Err: fmt::Display> + fmt::Debug>(text: &str) -> String {
        match text.parse::<T>() {
            Ok(value) => panic!("{text} was taken as {value:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn memory() {
        let m: MemorySpec = "4G,hugepages=2M".parse().unwrap();
        assert_eq!((m.size, m.huge_pages), (4 << 30, HugePages::Size2M));
        let m: MemorySpec = "512M".parse().unwrap();
        assert_eq!(m.huge_pages, HugePages::Transparent);
        assert!(error::<MemorySpec>("4G,hugepages=4M").contains("off, transparent, 2M, 1G"));
        assert!(error::<MemorySpec>("4G,huge=2M").contains("known: hugepages"));
        assert!(error::<MemorySpec>("4096").contains("4096M"));
        assert!(error::<MemorySpec>("").contains("SIZE"));
    }

    #[test]
    fn disks_and_discs() {
        let d: Disk = "path=/a,,b.img,readonly".parse().unwrap();
        assert_eq!((d.path.to_str(), d.readonly), (Some("/a,b.img"), true));
        assert!(error::<Disk>("readonly").contains("path=…"));
        assert!(error::<Disk>("/a.img").contains("unknown option '/a.img'; known: path, readonly"));
        assert!(error::<Cdrom>("path=/a,readonly").contains("known: path"));
    }

    #[test]
    fn nets() {
        let n: NetSpec = "tap=tap0,mac=02:00:00:00:00:01".parse().unwrap();
        assert_eq!(n.backend, NetBackend::Tap("tap0".into()));
        assert_eq!(n.mac.unwrap().to_string(), "02:00:00:00:00:01");
        let n: NetSpec = "user,forward=tcp:2222:22,forward=udp:127.0.0.1/5353:53,forward=8080"
            .parse()
            .unwrap();
        let NetBackend::User(forwards) = n.backend else {
            panic!()
        };
        let shown: Vec<_> = forwards.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["tcp:2222:22", "udp:127.0.0.1/5353:53", "tcp:8080:8080"]
        );
        for text in ["", "mac=02:00:00:00:00:01", "tap=tap0,user"] {
            assert!(
                error::<NetSpec>(text).contains("tap=NAME or user"),
                "{text}"
            );
        }
        assert!(error::<NetSpec>("tap=tap0,forward=tcp:1:1").contains("user networking"));
        assert!(error::<NetSpec>("user,mac=01:00:00:00:00:00").contains("multicast"));
        assert!(error::<NetSpec>("user,mac=00:00:00:00:00:00").contains("not an address"));
        for forward in ["tcp:0:22", "tcp:", "sctp:1:1", "tcp:70000:1", "x/1:1"] {
            assert!(error::<NetSpec>(&format!("user,forward={forward}")).contains("tcp:2222:22"));
        }
    }

    #[test]
    fn assigned_devices() {
        let a: AssignSpec = "02:10.0,port=3".parse().unwrap();
        assert_eq!(
            (a.device.to_string().as_str(), a.port),
            ("0000:02:10.0", Some(3))
        );
        assert_eq!("0000:02:10.0".parse::<AssignSpec>().unwrap().port, None);
        for port in ["0", "33", "-1", "x"] {
            let text = format!("02:10.0,port={port}");
            assert!(error::<AssignSpec>(&text).contains("from 1 to 32"));
        }
        assert!(error::<AssignSpec>("port=3").contains("is not a PCI address"));
    }

    #[test]
    fn how_an_assigned_device_is_shown() {
        let shown = |text: &str| text.parse::<AssignSpec>().unwrap().presentation;
        assert_eq!(shown("02:10.0"), Presentation::default());
        let p = shown("02:10.0,rom=/a,,b.rom,no-mmap,hide=msix+aer");
        assert_eq!(p.rom, RomSource::File("/a,b.rom".into()));
        assert!(p.no_mmap);
        assert_eq!(p.hide, ["msix", "aer"].map(|name| name.parse().unwrap()));
        assert_eq!(shown("02:10.0,rom=on").rom, RomSource::Device);
        assert_eq!(shown("02:10.0,rom=off").rom, RomSource::Off);
        assert!(error::<AssignSpec>("02:10.0,hide=msi-x").contains("hide: 'msi-x' is no"));
        assert!(error::<AssignSpec>("02:10.0,no-mmap=on").contains("takes no value"));
        assert!(error::<AssignSpec>("02:10.0,rom=").contains("needs a value"));
        assert_eq!(shown("02:10.0,clique=15").clique, "15".parse().ok());
        assert!(error::<AssignSpec>("02:10.0,clique=16").contains("a number from 0 to 15"));
    }

    #[test]
    fn serial() {
        assert_eq!("stdio".parse(), Ok(Serial::Stdio));
        assert_eq!("file=/x,,y".parse(), Ok(Serial::File("/x,y".into())));
        assert_eq!("socket=/s".parse(), Ok(Serial::Socket("/s".into())));
        for text in ["", "stdio,file=/x", "file=/x,socket=/y"] {
            assert!(error::<Serial>(text).contains("write stdio, file=… or socket=…"));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9=,:./]{0,40}|\\PC{0,20}") {
            let _ = text.parse::<MemorySpec>();
            let _ = text.parse::<NetSpec>();
            let _ = text.parse::<AssignSpec>();
            let _ = text.parse::<Disk>();
            let _ = text.parse::<Serial>();
        }
    }
}
