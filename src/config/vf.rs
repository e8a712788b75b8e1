//! Virtual functions and their settings: `--vf` of `sluice run` and of `sluice sriov`, and
//! `[[vf]]` of the file.

use std::collections::BTreeMap;
use std::str::FromStr;

use devices::net::Mac;
use pci::HostBdf;
use serde::de::{self, Deserialize, Deserializer};

use super::option::{OptionError, Options, leading, split};
use super::switch::Switch;
use super::{Assign, AssignSpec, DeviceSpec};
use crate::host::{HostDevice, Rate, VfLink, VfSettings, Vlan};

/// A `--vf` of a machine as it was written: what `--assign` takes, of a device that is yet to
/// be lent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VfSpec(pub AssignSpec);

/// A `--vf` of `sluice sriov`: the virtual function of this number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NumberedVf {
    /// The number, from 0.
    pub number: u32,
    /// What is to be set for it.
    pub settings: VfSettings,
}

const SETTINGS: [&str; 6] = ["mac", "vlan", "trust", "spoofcheck", "rate", "link"];

fn settings(options: &Options) -> Result<VfSettings, OptionError> {
    Ok(VfSettings {
        mac: options.read::<Mac>("mac")?,
        vlan: options.read("vlan")?.map(|VlanId(vlan)| vlan),
        trust: options.read("trust")?.map(|Switch(on)| on),
        spoofcheck: options.read("spoofcheck")?.map(|Switch(on)| on),
        rate: options.read("rate")?.map(|MaxRate(rate)| rate),
        link: options.read("link")?,
    })
}

impl FromStr for NumberedVf {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (number, rest) = leading(text);
        if number.is_empty() {
            return Err(OptionError::Empty("a virtual function's number, such as 0"));
        }
        let unread = || format!("'{number}' is not the number of a virtual function");
        Ok(Self {
            number: number
                .parse()
                .map_err(|_| OptionError::Value("I", unread()))?,
            settings: settings(&Options::parse(rest, &SETTINGS, &[])?)?,
        })
    }
}

impl FromStr for VfSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (pf, rest) = leading(text);
        if pf.is_empty() {
            return Err(OptionError::Empty(
                "the PCI address of a physical function, such as 0000:02:00.0",
            ));
        }
        let is_setting = |part: &String| {
            let key = part.split_once('=').map_or(part.as_str(), |(key, _)| key);
            SETTINGS.contains(&key)
        };
        let (mine, others): (Vec<_>, Vec<_>) = split(rest).into_iter().partition(is_setting);
        let mut spec: AssignSpec = joined(pf, &others).parse().map_err(|e| match e {
            OptionError::Unknown { key, known } => OptionError::Unknown {
                key,
                known: format!("{}, {known}", SETTINGS.join(", ")),
            },
            OptionError::Value("BDF", why) => OptionError::Value("PF", why),
            other => other,
        })?;
        if !matches!(spec.device, DeviceSpec::Named(HostDevice::Pci(_))) {
            let why = format!("'{pf}' is not the PCI address of a physical function");
            return Err(OptionError::Value("PF", why));
        }
        let mine = mine.join(",");
        spec.lent = Some(settings(&Options::parse(&mine, &SETTINGS, &[])?)?);
        Ok(Self(spec))
    }
}

/// Options after a leading value, as they are written.
fn joined(leading: &str, options: &[String]) -> String {
    let options = options.iter().map(|part| part.replace(',', ",,"));
    let parts: Vec<_> = std::iter::once(leading.to_owned()).chain(options).collect();
    parts.join(",")
}

impl Assign {
    /// This virtual function is lent to the machine, in the place of the physical one.
    pub fn is_lent(&mut self, function: HostBdf) {
        if self.id == self.device.to_string() {
            self.id = function.to_string();
        }
        self.device = function.into();
        self.lent = None;
    }
}

/// A VLAN's number.
struct VlanId(Vlan);

impl FromStr for VlanId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(id @ 0..=4094) => Ok(Self(Vlan {
                id,
                ..Vlan::default()
            })),
            _ => Err(format!(
                "'{text}' is no VLAN; write a number from 1 to 4094, or 0 for none"
            )),
        }
    }
}

/// The most that a VF may send.
struct MaxRate(Rate);

impl FromStr for MaxRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let max = text.parse();
        let max = max.map_err(|_| format!("'{text}' is no rate; write Mbit/s, or 0 for no limit"));
        Ok(Self(Rate { min: 0, max: max? }))
    }
}

impl FromStr for VfLink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Enable, Self::Disable];
        all.into_iter()
            .find(|link| link.to_string() == text)
            .ok_or_else(|| format!("'{text}' is none of auto, enable, disable"))
    }
}

/// A table says what the flag's text does.
impl<'de> Deserialize<'de> for VfSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Value {
            Flag(bool),
            Number(i64),
            Text(String),
        }
        let table = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let mut pf = String::new();
        let mut options = Vec::new();
        for (key, value) in table {
            let value = match value {
                Value::Text(text) if key == "pf" => {
                    pf = text;
                    continue;
                }
                Value::Flag(on) if SETTINGS.contains(&key.as_str()) => {
                    if on { "on" } else { "off" }.to_owned()
                }
                Value::Flag(false) => continue,
                Value::Flag(true) => {
                    options.push(key);
                    continue;
                }
                Value::Number(number) => number.to_string(),
                Value::Text(text) => text,
            };
            options.push(format!("{key}={value}"));
        }
        if pf.is_empty() {
            return Err(de::Error::missing_field("pf"));
        }
        joined(&pf, &options).parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error<T: FromStr<Err = OptionError> + std::fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn a_machines_virtual_function() {
        let text = "02:00.0,mac=02:00:00:00:00:01,vlan=100,trust=on,rom=/a,,b,spoofcheck=off,\
                    rate=200,link=enable,port=3";
        let VfSpec(spec) = text.parse().unwrap();
        assert_eq!(spec.device.to_string(), "0000:02:00.0");
        let settings: Vec<_> = spec.lent.unwrap().each().map(|s| s.to_string()).collect();
        assert_eq!(
            settings.join(" "),
            "trust=on mac=02:00:00:00:00:01 vlan=100 spoofcheck=off rate=200 link=enable"
        );
        // The rest is as for --assign.
        let assign: AssignSpec = "02:00.0,rom=/a,,b,port=3".parse().unwrap();
        assert_eq!(AssignSpec { lent: None, ..spec }, assign);
        let VfSpec(spec) = "0000:02:00.0".parse().unwrap();
        assert_eq!(spec.lent, Some(VfSettings::default()));
    }

    #[test]
    fn a_table_says_the_same() {
        let table = "pf = '02:00.0'\nmac = '02:00:00:00:00:01'\nvlan = 100\ntrust = true\n\
                     rate = 200\nspoofcheck = false\nno-mmap = true\nrom = 'off'\nport = 3\n";
        let text = "02:00.0,mac=02:00:00:00:00:01,vlan=100,trust=on,rate=200,spoofcheck=off,\
                    no-mmap,rom=off,port=3";
        assert_eq!(
            toml::from_str::<VfSpec>(table).unwrap(),
            text.parse().unwrap()
        );
        for (table, says) in [
            ("vlan = 1", "missing field `pf`"),
            ("pf = '02:00.0'\nvlan = 5000", "'5000' is no VLAN"),
            ("pf = '02:00.0'\ncolour = 'red'", "unknown option 'colour'"),
        ] {
            let error = toml::from_str::<VfSpec>(table).unwrap_err();
            assert!(error.message().contains(says), "{error}");
        }
    }

    #[test]
    fn a_numbered_one() {
        let vf: NumberedVf = "3,vlan=0,link=auto".parse().unwrap();
        assert_eq!(vf.number, 3);
        assert_eq!(vf.settings.vlan, Some(Vlan::default()));
        assert!(error::<NumberedVf>("3,port=1").contains("known: mac, vlan, trust"));
        for text in ["x", "-1", "mac=02:00:00:00:00:01"] {
            assert!(error::<NumberedVf>(text).contains("not the number of a virtual function"));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, says) in [
            ("", "such as 0000:02:00.0"),
            ("mac=x", "PF: 'mac=x' is not a PCI address"),
            (
                "02:00.0,mac=01:00:00:00:00:00",
                "mac: 01:00:00:00:00:00 is a multicast",
            ),
            ("fd=5", "PF: 'fd=5' is not the PCI address"),
            ("02:00.0,iommu=x", "iommu: 'x' is none of auto"),
            ("02:00.0,vlan=4095", "vlan: '4095' is no VLAN"),
            ("02:00.0,trust=yes", "trust: 'yes' is neither on nor off"),
            ("02:00.0,rate=fast", "rate: 'fast' is no rate"),
            (
                "02:00.0,link=up",
                "link: 'up' is none of auto, enable, disable",
            ),
            ("02:00.0,port=0", "port: '0' is no port"),
            (
                "02:00.0,colour=red",
                "known: mac, vlan, trust, spoofcheck, rate, link, port",
            ),
        ] {
            assert!(
                error::<VfSpec>(text).contains(says),
                "{}",
                error::<VfSpec>(text)
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9=,:.]{0,40}|\\PC{0,20}") {
            let _ = text.parse::<VfSpec>();
            let _ = text.parse::<NumberedVf>();
        }
    }
}
