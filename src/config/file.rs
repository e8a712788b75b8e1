//! The TOML file. Its keys are the flags' names; a structured value may be written as the
//! flag's text or as a table:
//!
//! ```toml
//! kernel = "vmlinuz"
//! memory = "4G,hugepages=2M"
//! serial = { file = "console.log" }
//! net = ["user,forward=tcp:2222:22"]
//!
//! [[disk]]
//! path = "disk.img"
//! readonly = true
//! ```
//!
//! Relative paths are relative to the file's folder.

use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use devices::vfio::RomSource;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    AssignSpec, Cdrom, ControlSpec, Disk, Given, IommuSpec, MemorySpec, NetSpec, Origin, Serial,
    Settings, VfSpec,
};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("--config {}: cannot read it", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {}{message}", .path.display(), .key.as_ref().map(|k| format!("{k}: ")).unwrap_or_default())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key, where one is to blame.
        key: Option<String>,
        /// What is wrong.
        message: String,
    },
}

/// A value written as text or as a table.
struct Either<T>(T);

impl<'de, T> Deserialize<'de> for Either<T>
where
    T: Deserialize<'de> + FromStr<Err: std::fmt::Display>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable<T>(PhantomData<T>);

        impl<'de, T> Visitor<'de> for TextOrTable<T>
        where
            T: Deserialize<'de> + FromStr<Err: std::fmt::Display>,
        {
            type Value = T;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("text or a table")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer
            .deserialize_any(TextOrTable(PhantomData))
            .map(Self)
    }
}

type One<T> = Option<Spanned<T>>;
type Many<T> = Vec<Spanned<Either<T>>>;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    kernel: One<PathBuf>,
    initrd: One<PathBuf>,
    cmdline: One<String>,
    cpus: One<u32>,
    memory: One<Either<MemorySpec>>,
    #[serde(default)]
    disk: Many<Disk>,
    #[serde(default)]
    cdrom: Many<Cdrom>,
    #[serde(default)]
    net: Many<NetSpec>,
    #[serde(default)]
    assign: Many<AssignSpec>,
    #[serde(default)]
    vf: Many<VfSpec>,
    iommu: One<Either<IommuSpec>>,
    serial: One<Either<Serial>>,
    control: One<Either<ControlSpec>>,
    #[serde(rename = "no-reboot")]
    no_reboot: One<bool>,
}

/// Reads the settings in the file at `path`.
pub fn load(path: &Path) -> Result<Settings, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Settings, FileError> {
    let document: Document = toml::from_str(text).map_err(|e| content_error(path, text, &e))?;
    let file = Source {
        path: path.into(),
        folder: path.parent().unwrap_or(Path::new("")),
        text,
    };
    Ok(file.settings(document))
}

struct Source<'a> {
    path: Arc<Path>,
    folder: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn settings(&self, d: Document) -> Settings {
        let path = |p: PathBuf| self.folder.join(p);
        let assign = |mut assign: AssignSpec| {
            if let RomSource::File(rom) = &mut assign.presentation.rom {
                *rom = path(std::mem::take(rom));
            }
            assign
        };
        Settings {
            kernel: self.one("kernel", d.kernel, path),
            initrd: self.one("initrd", d.initrd, path),
            cmdline: self.one("cmdline", d.cmdline, |text| text),
            cpus: self.one("cpus", d.cpus, |n| n),
            memory: self.one("memory", d.memory, |m| m.0),
            disk: self.many("disk", d.disk, |disk| Disk {
                path: path(disk.path),
                ..disk
            }),
            cdrom: self.many("cdrom", d.cdrom, |disc| Cdrom {
                path: path(disc.path),
            }),
            net: self.many("net", d.net, |net| net),
            assign: self.many("assign", d.assign, assign),
            vf: self.many("vf", d.vf, |vf| VfSpec(assign(vf.0))),
            iommu: self.one("iommu", d.iommu, |iommu| iommu.0),
            serial: self.one("serial", d.serial, |serial| match serial.0 {
                Serial::Stdio => Serial::Stdio,
                Serial::File(p) => Serial::File(path(p)),
                Serial::Socket(p) => Serial::Socket(path(p)),
            }),
            control: self.one("control", d.control, |control| ControlSpec {
                path: path(control.0.path),
                ..control.0
            }),
            no_reboot: self.one("no-reboot", d.no_reboot, |on| on),
        }
    }

    fn one<T, U>(
        &self,
        key: &'static str,
        value: One<T>,
        make: impl Fn(T) -> U,
    ) -> Option<Given<U>> {
        value.map(|value| self.given(key, value, &make))
    }

    fn many<T>(&self, key: &'static str, values: Many<T>, make: impl Fn(T) -> T) -> Vec<Given<T>> {
        let each = |value| self.given(key, value, &|Either(value): Either<T>| make(value));
        values.into_iter().map(each).collect()
    }

    fn given<T, U>(
        &self,
        key: &'static str,
        value: Spanned<T>,
        make: &impl Fn(T) -> U,
    ) -> Given<U> {
        let line = line_of(self.text, value.span().start);
        Given {
            value: make(value.into_inner()),
            origin: Origin::File {
                path: self.path.clone(),
                line,
                key,
            },
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|&&b| b == b'\n').count()
}

fn content_error(path: &Path, text: &str, error: &toml::de::Error) -> FileError {
    let at = error.span().map_or(0, |span| span.start);
    let message = error.message().replace('\n', "; ");
    // Serde speaks of fields, the file of keys.
    let message = message.replace("missing field", "missing key");
    let message = match message.strip_prefix("unknown field") {
        Some(rest) => format!("unknown key{rest}")
            .replace("expected one of", "the known keys are")
            .replace("expected `", "the known key is `"),
        None => message,
    };
    FileError::Content {
        path: path.to_owned(),
        line: line_of(text, at),
        key: DeTable::parse(text)
            .ok()
            .and_then(|table| key_at(table.get_ref(), at)),
        message,
    }
}

/// The dotted key whose name or value lies at `offset`.
fn key_at(table: &DeTable, offset: usize) -> Option<String> {
    let covers = |span: Range<usize>| span.contains(&offset);
    let mut found = None;
    for (key, value) in table.iter() {
        let name = key.get_ref();
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, offset),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => key_at(inner, offset),
                _ => None,
            }),
            _ => None,
        };
        match inner {
            Some(inner) => return Some(format!("{name}.{inner}")),
            None if covers(key.span()) || covers(value.span()) => found = Some(name.to_string()),
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DeviceSpec, Interface, NetBackend};
    use crate::memory::HugePages;
    use proptest::prelude::*;

    fn read(text: &str) -> Settings {
        parse(Path::new("/vms/vm.toml"), text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn error(text: &str) -> String {
        let error = parse(Path::new("vm.toml"), text).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn every_flag_has_its_key() {
        let s = read(
            r#"
            kernel = "vmlinuz"
            initrd = "/boot/initrd"
            cmdline = "console=ttyS0"
            cpus = 4
            memory = "4G,hugepages=2M"
            iommu = "vtd,aw=39"
            serial = "socket=s"
            control = "path=ctl,ports=2"
            no-reboot = true
            cdrom = ["path=a.iso", { path = "b.iso" }]
            net = ["tap=tap0"]

            [[disk]]
            path = "disk.img"
            readonly = true

            [[assign]]
            bdf = "02:10.0"
            port = 2
            [[assign]]
            bdf = "02:10.2"
            iommu = "type1"
            [[assign]]
            mdev = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
            [[assign]]
            fd = 5
            iommufd = 4
            "#,
        );
        assert_eq!(s.kernel.unwrap().value, Path::new("/vms/vmlinuz"));
        assert_eq!(s.initrd.unwrap().value, Path::new("/boot/initrd"));
        assert_eq!(s.cpus.as_ref().unwrap().value, 4);
        assert_eq!(s.cpus.unwrap().origin.to_string(), "/vms/vm.toml:5: cpus");
        assert_eq!(s.memory.unwrap().value.huge_pages, HugePages::Size2M);
        assert_eq!(s.serial.unwrap().value, Serial::Socket("/vms/s".into()));
        assert_eq!(s.iommu.unwrap().value, "vtd,aw=39".parse().unwrap());
        assert!(s.no_reboot.unwrap().value);
        assert_eq!(s.cdrom[1].value.path, Path::new("/vms/b.iso"));
        assert_eq!(s.net[0].value.backend, NetBackend::Tap("tap0".into()));
        assert!(s.disk[0].value.readonly);
        let control = s.control.unwrap().value;
        assert_eq!(
            (control.path.to_str(), control.ports),
            (Some("/vms/ctl"), Some(2))
        );
        assert_eq!(s.disk[0].origin.to_string(), "/vms/vm.toml:14: disk");
        assert_eq!(s.assign[0].value.port, Some(2));
        assert_eq!(s.assign[1].value.device.to_string(), "0000:02:10.2");
        assert_eq!(s.assign[1].value.interface, Interface::Type1);
        let mediated = s.assign[2].value.device.to_string();
        assert_eq!(mediated, "mdev 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001");
        let open = &s.assign[3].value;
        assert_eq!((open.device, open.iommufd), (DeviceSpec::Open(5), Some(4)));
    }

    #[test]
    fn tables_say_the_same_as_text() {
        let text = read(
            "memory = '1G,hugepages=off'\niommu = 'vtd,eim=off'\nserial = 'file=x'\ncontrol = 'path=y'\n\
             assign = ['02:10.0,id=a']\n\
             net = ['user,forward=tcp:1:2,id=b', 'tap=t,mac=02:00:00:00:00:01']",
        );
        let table = read(
            "memory = { size = '1G', hugepages = 'off' }\nserial = { file = 'x' }\n\
             iommu = { kind = 'vtd', eim = 'off' }\ncontrol = { path = 'y' }\nassign = [{ bdf = '02:10.0', id = 'a' }]\n\
             net = [{ user = true, forward = ['tcp:1:2'], id = 'b' }, { tap = 't', mac = '02:00:00:00:00:01' }]",
        );
        assert_eq!(text.memory.unwrap().value, table.memory.unwrap().value);
        assert_eq!(text.iommu.unwrap().value, table.iommu.unwrap().value);
        assert_eq!(text.serial.unwrap().value, table.serial.unwrap().value);
        assert_eq!(text.control.unwrap().value, table.control.unwrap().value);
        assert_eq!(text.assign[0].value, table.assign[0].value);
        for (a, b) in text.net.iter().zip(&table.net) {
            assert_eq!(a.value, b.value);
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_known_ones() {
        let e = error("kernel = 'x'\n\nkernal = 'y'\n");
        assert!(
            e.starts_with(
                "vm.toml:3: kernal: unknown key `kernal`, the known keys are `kernel`, `initrd`"
            ),
            "{e}"
        );
        let e =
            error("kernel = 'x'\n[[disk]]\npath = 'd'\n\n[[disk]]\npath = 'e'\nread-only = true\n");
        assert!(
            e.starts_with("vm.toml:7: disk.read-only: unknown key"),
            "{e}"
        );
        assert!(e.contains("`path`") && e.contains("`readonly`"), "{e}");
    }

    #[test]
    fn a_bad_value_is_named_with_its_line_and_key() {
        for (text, start) in [
            ("cpus = 'four'", "vm.toml:1: cpus: invalid type"),
            ("\ncpus = -1", "vm.toml:2: cpus: invalid value"),
            (
                "\nmemory = '4X'",
                "vm.toml:2: memory: SIZE: '4X' is not a size",
            ),
            (
                "memory = { size = '4G',\nhugepages = 'big' }",
                "vm.toml:2: memory.hugepages: 'big' is none of",
            ),
            (
                "disk = ['path=d,rw']",
                "vm.toml:1: disk: unknown option 'rw'; known: path, readonly",
            ),
            (
                "\n[[disk]]\nreadonly = true",
                "vm.toml:2: disk: missing key `path`",
            ),
            (
                "[[net]]\ntap = 't'\nmac = 'x'",
                "vm.toml:3: net.mac: 'x' is not a MAC",
            ),
            (
                "[[assign]]\nbdf = '02'",
                "vm.toml:2: assign.bdf: '02' is not a PCI address",
            ),
            (
                "[[assign]]\nbdf = '02:00.0'\nfd = 5",
                "vm.toml:1: assign: a table is about one device: write one of bdf, mdev and fd",
            ),
            (
                "[[assign]]\nport = 5",
                "vm.toml:1: assign: a table is about one device",
            ),
            (
                "[[assign]]\nfd = -5",
                "vm.toml:1: assign: '-5' is no file descriptor",
            ),
            (
                "[[assign]]\nmdev = '5'",
                "vm.toml:2: assign.mdev: '5' is not a UUID",
            ),
            (
                "[[assign]]\nbdf = '02:00.0'\niommu = 'on'",
                "vm.toml:3: assign.iommu: 'on' is none of auto",
            ),
            (
                "[[assign]]\nbdf = '02:00.0'\nport = 99",
                "vm.toml:1: assign: '99' is no port",
            ),
            (
                "[[assign]]\nbdf = '02:00.0'\nid = 'a b'",
                "vm.toml:3: assign.id: 'a b' is no id",
            ),
            (
                "control = { path = 'x',\nports = 33 }",
                "vm.toml:1: control: '33' is no number of ports",
            ),
            (
                "iommu = { kind = 'vtd',\neim = 'yes' }",
                "vm.toml:2: iommu.eim: 'yes' is neither on nor off",
            ),
            ("net = 'user'", "vm.toml:1: net: invalid type"),
            ("cpus = \n", "vm.toml:1: "),
            (
                "kernel = 'x",
                "vm.toml:1: invalid literal string, expected `'`",
            ),
            ("cpus = 1\ncpus = 2", "vm.toml:2: "),
        ] {
            let e = error(text);
            assert!(e.starts_with(start), "{text:?}: {e}");
        }
    }

    #[test]
    fn a_missing_file_is_one_line() {
        let e = load(Path::new("/nowhere/vm.toml")).unwrap_err();
        assert_eq!(e.to_string(), "--config /nowhere/vm.toml: cannot read it");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([a-z\\[\\]{}='\"., \n#-]|cpus|disk|net|memory){0,40}") {
            let _ = parse(Path::new("vm.toml"), &text);
        }
    }
}
