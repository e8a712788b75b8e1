//! `--iommu`: an IOMMU for the guest, in front of all its devices.

use std::str::FromStr;

use iommu::vtd::Width;
use serde::de::{self, Deserialize, Deserializer};

use super::device::from_text;
use super::option::{OptionError, Options, leading};
use super::switch::Switch;
use super::validate::{Problem, error};
use super::{Assign, ConfigError, Control, Given};

/// An IOMMU for the guest: a VT-d unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Iommu {
    /// The widest I/O virtual addresses.
    pub width: Width,
    /// It remaps interrupts too.
    pub interrupt_remapping: bool,
    /// APIC ids have 32 bits in it (x2APIC).
    pub eim: bool,
    /// The guest announces mappings that it adds, without which no device can be assigned.
    pub caching_mode: bool,
    /// The guest may ask for DMA to be snooped.
    pub snoop_control: bool,
    /// It has scalable mode.
    pub scalable: bool,
    /// It knows of Device-TLBs, and assigned devices that have one show it.
    pub device_tlb: bool,
}

/// An `--iommu` as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IommuSpec {
    width: Width,
    interrupt_remapping: bool,
    eim: Option<bool>,
    caching_mode: CachingMode,
    snoop_control: bool,
    scalable: bool,
    device_tlb: bool,
}

/// `auto` is `on` where a device is assigned or may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum CachingMode {
    #[default]
    Auto,
    On,
    Off,
}

impl FromStr for CachingMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("'{text}' is none of auto, on, off")),
        }
    }
}

/// The width of I/O virtual addresses.
struct Bits(Width);

impl FromStr for Bits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "39" => Ok(Self(Width::Bits39)),
            "48" => Ok(Self(Width::Bits48)),
            "57" => Ok(Self(Width::Bits57)),
            _ => Err(format!("'{text}' is none of 39, 48, 57")),
        }
    }
}

/// What kind of IOMMU it is.
struct Vtd;

impl FromStr for Vtd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vtd" => Ok(Self),
            _ => Err(format!("'{text}' is no IOMMU that there is; write vtd")),
        }
    }
}

/// What was given of it.
#[derive(Default)]
struct Wishes {
    width: Option<Bits>,
    interrupt_remapping: Option<Switch>,
    eim: Option<Switch>,
    caching_mode: CachingMode,
    snoop_control: Option<Switch>,
    scalable: Option<Switch>,
    device_tlb: Option<Switch>,
}

impl From<Wishes> for IommuSpec {
    fn from(wishes: Wishes) -> Self {
        Self {
            width: wishes.width.map_or(Width::Bits48, |Bits(width)| width),
            interrupt_remapping: wishes.interrupt_remapping.is_none_or(|Switch(on)| on),
            eim: wishes.eim.map(|Switch(on)| on),
            caching_mode: wishes.caching_mode,
            snoop_control: wishes.snoop_control.is_some_and(|Switch(on)| on),
            scalable: wishes.scalable.is_some_and(|Switch(on)| on),
            device_tlb: wishes.device_tlb.is_some_and(|Switch(on)| on),
        }
    }
}

impl FromStr for IommuSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        const KEYS: [&str; 7] = [
            "aw",
            "intremap",
            "eim",
            "caching-mode",
            "snoop-control",
            "scalable",
            "device-tlb",
        ];
        let (kind, rest) = leading(text);
        if kind.is_empty() {
            return Err(OptionError::Empty("vtd"));
        }
        let _: Vtd = kind
            .parse()
            .map_err(|problem| OptionError::Value("KIND", problem))?;
        let options = Options::parse(rest, &KEYS, &[])?;
        let wishes = Wishes {
            width: options.read("aw")?,
            interrupt_remapping: options.read("intremap")?,
            eim: options.read("eim")?,
            caching_mode: options.read("caching-mode")?.unwrap_or_default(),
            snoop_control: options.read("snoop-control")?,
            scalable: options.read("scalable")?,
            device_tlb: options.read("device-tlb")?,
        };
        Ok(wishes.into())
    }
}

impl<'de> Deserialize<'de> for IommuSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(rename = "kind", deserialize_with = "from_text")]
            _kind: Vtd,
            aw: Option<i64>,
            intremap: Option<Switch>,
            eim: Option<Switch>,
            #[serde(default, rename = "caching-mode", deserialize_with = "from_text")]
            caching_mode: CachingMode,
            #[serde(rename = "snoop-control")]
            snoop_control: Option<Switch>,
            scalable: Option<Switch>,
            #[serde(rename = "device-tlb")]
            device_tlb: Option<Switch>,
        }
        let table = Table::deserialize(deserializer)?;
        let width = table.aw.map(|bits| bits.to_string().parse());
        let wishes = Wishes {
            width: width.transpose().map_err(de::Error::custom)?,
            interrupt_remapping: table.intremap,
            eim: table.eim,
            caching_mode: table.caching_mode,
            snoop_control: table.snoop_control,
            scalable: table.scalable,
            device_tlb: table.device_tlb,
        };
        Ok(wishes.into())
    }
}

/// Checks that it can be, with these devices behind it, and perhaps others at run time.
pub(super) fn iommu(
    given: Option<Given<IommuSpec>>,
    assigns: &[Assign],
    control: Option<&Control>,
) -> Result<Option<Iommu>, ConfigError> {
    let Some(Given { value, origin }) = given else {
        return Ok(None);
    };
    if value.eim == Some(true) && !value.interrupt_remapping {
        return Err(error(&origin, Problem::EimAlone));
    }
    let caching_mode = match value.caching_mode {
        CachingMode::On => true,
        CachingMode::Off => false,
        CachingMode::Auto => !assigns.is_empty() || control.is_some_and(|it| it.ports > 0),
    };
    if let (false, Some(assign)) = (caching_mode, assigns.first()) {
        return Err(error(&origin, Problem::NoCachingMode(assign.device)));
    }
    Ok(Some(Iommu {
        width: value.width,
        interrupt_remapping: value.interrupt_remapping,
        // KVM takes 32-bit APIC ids in any machine of ours.
        eim: value.eim.unwrap_or(value.interrupt_remapping),
        caching_mode,
        snoop_control: value.snoop_control,
        scalable: value.scalable,
        device_tlb: value.device_tlb,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Result<Iommu, String> {
        made_with(text, None)
    }

    fn made_with(text: &str, ports: Option<u8>) -> Result<Iommu, String> {
        let spec = text.parse().map_err(|e: OptionError| e.to_string())?;
        let control = ports.map(|ports| Control {
            path: "/run/vm".into(),
            ports,
        });
        let made = iommu(Some(Given::by_flag("--iommu", spec)), &[], control.as_ref());
        let made = made.map_err(|e| e.problem.to_string())?;
        Ok(made.unwrap())
    }

    fn table(text: &str) -> Result<IommuSpec, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn what_is_not_given_is_what_most_guests_want() {
        let all = Iommu {
            width: Width::Bits48,
            interrupt_remapping: true,
            eim: true,
            caching_mode: false,
            snoop_control: false,
            scalable: false,
            device_tlb: false,
        };
        assert_eq!(made("vtd"), Ok(all));
        let few = Iommu {
            width: Width::Bits39,
            interrupt_remapping: false,
            eim: false,
            caching_mode: true,
            snoop_control: true,
            scalable: true,
            device_tlb: true,
        };
        let text = "vtd,aw=39,intremap=off,caching-mode=on,snoop-control=on,scalable=on,\
                    device-tlb=on";
        assert_eq!(made(text), Ok(few));
        assert_eq!(made("vtd,scalable=off,device-tlb=off"), Ok(all));
        let device_tlb = Iommu {
            device_tlb: true,
            ..all
        };
        assert_eq!(made("vtd,device-tlb=on"), Ok(device_tlb));
        let xapic = Iommu { eim: false, ..all };
        assert_eq!(made("vtd,eim=off,caching-mode=auto"), Ok(xapic));
        assert_eq!(iommu(None, &[], None).unwrap(), None);
    }

    #[test]
    fn caching_mode_is_on_by_itself_where_a_device_may_come() {
        for (text, ports, on) in [
            ("vtd", None, false),
            ("vtd", Some(0), false),
            ("vtd", Some(1), true),
            ("vtd,caching-mode=off", Some(1), false),
            ("vtd,caching-mode=on", None, true),
        ] {
            let made = made_with(text, ports).unwrap();
            assert_eq!(made.caching_mode, on, "{text} {ports:?}");
        }
    }

    #[test]
    fn text_and_table_say_the_same() {
        let text = "vtd,aw=57,intremap=on,eim=off,caching-mode=on,snoop-control=on,scalable=on,\
                    device-tlb=on";
        let keys = "kind = 'vtd'\naw = 57\nintremap = true\neim = 'off'\n\
                    caching-mode = 'on'\nsnoop-control = 'on'\nscalable = true\n\
                    device-tlb = true";
        assert_eq!(table(keys), text.parse().map_err(|_| String::new()));
        assert_eq!(table("kind = 'vtd'"), "vtd".parse().map_err(|_| "".into()));
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (text, told) in [
            ("", "nothing given; write vtd"),
            ("amd", "KIND: 'amd' is no IOMMU that there is; write vtd"),
            ("vtd,aw=40", "aw: '40' is none of 39, 48, 57"),
            ("vtd,intremap", "'intremap' needs a value"),
            ("vtd,eim=1", "eim: '1' is neither on nor off"),
            ("vtd,scalable=1", "scalable: '1' is neither on nor off"),
            ("vtd,device-tlb", "'device-tlb' needs a value"),
            ("vtd,device-tlb=1", "device-tlb: '1' is neither on nor off"),
            ("vtd,caching-mode=no", "'no' is none of auto, on, off"),
            (
                "vtd,pasid=on",
                "unknown option 'pasid'; known: aw, intremap",
            ),
            ("vtd,intremap=off,eim=on", "eim=on needs intremap=on"),
        ] {
            let error = made(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        for (text, told) in [
            ("aw = 48", "missing field `kind`"),
            ("kind = 'vtd'\naw = 64", "'64' is none of 39, 48, 57"),
            ("kind = 'vtd'\neim = 1", "expected on or off"),
            (
                "kind = 'vtd'\ndevice_tlb = 'on'",
                "unknown field `device_tlb`",
            ),
        ] {
            let error = table(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
