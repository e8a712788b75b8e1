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
}

/// An `--assign` as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignSpec {
    /// Which device.
    pub device: DeviceSpec,
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

const ASSIGN_KEYS: [&str; 8] = [
    "port", "rom", "no-mmap", "hide", "clique", "on-error", "iommu", "iommufd",
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
            port: options.read("port")?.map(|Port(port)| port),
            interface: options.read("iommu")?.unwrap_or_default(),
            iommufd: options.read("iommufd")?.map(|Descriptor(n)| n),
            presentation: Presentation {
                rom: options.value("rom")?.map(rom_source).unwrap_or_default(),
                no_mmap: options.word("no-mmap")?,
                hide: hide.map(|names| names.0).unwrap_or_default(),
                clique: options.read("clique")?,
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
            port: number(table.port)?.map(|Port(port)| port),
            interface: table.iommu,
            iommufd: number(table.iommufd)?.map(|Descriptor(n)| n),
            presentation: Presentation {
                rom: table.rom.as_deref().map(rom_source).unwrap_or_default(),
                no_mmap: table.no_mmap,
                hide: table.hide.0,
                clique: number(table.clique)?,
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
    fn devices_without_an_address() {
        const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let device = |text: &str| text.parse::<AssignSpec>().unwrap().device.to_string();
        assert_eq!(
            device(&format!("mdev={UUID},port=2")),
            format!("mdev {UUID}")
        );
        assert_eq!(device(UUID), format!("mdev {UUID}"));
        assert_eq!(device("fd=5,port=2"), "fd=5");
        assert!(error::<AssignSpec>("mdev=5").contains("mdev: '5' is not a UUID"));
        for fd in ["fd=", "fd=-1", "fd=x", "fd=99999999999"] {
            assert!(
                error::<AssignSpec>(fd).contains("is no file descriptor"),
                "{fd}"
            );
        }
    }

    #[test]
    fn interfaces() {
        let given = |text: &str| {
            let a: AssignSpec = text.parse().unwrap();
            (a.interface, a.iommufd)
        };
        assert_eq!(given("02:10.0"), (Interface::Auto, None));
        assert_eq!(given("02:10.0,iommu=type1"), (Interface::Type1, None));
        assert_eq!(given("fd=5,iommufd=4"), (Interface::Auto, Some(4)));
        assert!(error::<AssignSpec>("02:10.0,iommu=on").contains("auto, iommufd, type1"));
        assert!(error::<AssignSpec>("02:10.0,iommufd=x").contains("is no file descriptor"));
        for interface in Interface::ALL {
            assert_eq!(interface.to_string().parse(), Ok(interface));
        }
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
    fn what_is_done_when_it_fails() {
        let on_error = |text: &str| text.parse::<AssignSpec>().unwrap().on_error;
        assert_eq!(on_error("02:10.0"), OnError::Report);
        assert_eq!(on_error("02:10.0,on-error=quarantine"), OnError::Quarantine);
        assert!(error::<AssignSpec>("02:10.0,on-error=stop").contains("report or quarantine"));
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
        fn no_text_panics(
            text in "[a-z0-9=,:./]{0,40}|\\PC{0,20}|(fd|mdev|iommu|iommufd|,|=|[0-9a-f-]){0,12}",
        ) {
            let _ = text.parse::<MemorySpec>();
            let _ = text.parse::<NetSpec>();
            let _ = text.parse::<AssignSpec>();
            let _ = text.parse::<Disk>();
            let _ = text.parse::<Serial>();
        }
    }
}
