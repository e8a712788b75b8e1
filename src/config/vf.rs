//! Virtual functions and their settings: `--vf` of `sluice run` and of `sluice sriov`, and
//! `[[vf]]` of the file.

use std::str::FromStr;

use devices::net::Mac;
use pci::HostBdf;
use serde::de::{self, Deserialize, Deserializer};

use super::device::{Port, from_text, from_text_if};
use super::option::{OptionError, Options, leading};
use crate::host::{Rate, VfLink, VfSettings, Vlan};

/// A `--vf` of a machine as it was written: a virtual function of this physical one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VfSpec {
    /// The physical function.
    pub pf: HostBdf,
    /// What is to be set for the virtual one.
    pub settings: VfSettings,
    /// The port it asks for.
    pub port: Option<u8>,
}

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
        trust: options.read("trust")?.map(|OnOff(on)| on),
        spoofcheck: options.read("spoofcheck")?.map(|OnOff(on)| on),
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
        let known = [&SETTINGS[..], &["port"]].concat();
        let options = Options::parse(rest, &known, &[])?;
        Ok(Self {
            pf: pf
                .parse()
                .map_err(|e: pci::ParseBdfError| OptionError::Value("PF", e.to_string()))?,
            settings: settings(&options)?,
            port: options.read("port")?.map(|Port(port)| port),
        })
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

struct OnOff(bool);

impl FromStr for OnOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err(format!("'{text}' is neither on nor off")),
        }
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

impl<'de> Deserialize<'de> for VfSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(deserialize_with = "from_text")]
            pf: HostBdf,
            #[serde(default, deserialize_with = "from_text_if")]
            mac: Option<Mac>,
            vlan: Option<i64>,
            trust: Option<bool>,
            spoofcheck: Option<bool>,
            rate: Option<i64>,
            link: Option<VfLink>,
            port: Option<i64>,
        }
        fn number<E: de::Error, T>(value: Option<i64>) -> Result<Option<T>, E>
        where
            T: FromStr<Err = String>,
        {
            let value = value.map(|value| value.to_string().parse());
            value.transpose().map_err(E::custom)
        }
        let table = Table::deserialize(deserializer)?;
        Ok(Self {
            pf: table.pf,
            settings: VfSettings {
                mac: table.mac,
                vlan: number(table.vlan)?.map(|VlanId(vlan)| vlan),
                trust: table.trust,
                spoofcheck: table.spoofcheck,
                rate: number(table.rate)?.map(|MaxRate(rate)| rate),
                link: table.link,
            },
            port: number(table.port)?.map(|Port(port)| port),
        })
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
        let vf: VfSpec = "02:00.0,mac=02:00:00:00:00:01,vlan=100,trust=on,spoofcheck=off,rate=200,\
                          link=enable,port=3"
            .parse()
            .unwrap();
        assert_eq!(vf.pf.to_string(), "0000:02:00.0");
        let settings: Vec<_> = vf.settings.each().map(|s| s.to_string()).collect();
        assert_eq!(
            settings.join(" "),
            "trust=on mac=02:00:00:00:00:01 vlan=100 spoofcheck=off rate=200 link=enable"
        );
        assert_eq!(vf.port, Some(3));
        let vf: VfSpec = "0000:02:00.0".parse().unwrap();
        assert!(vf.settings.is_empty() && vf.port.is_none());
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
            ("02:00.0,vlan=4095", "vlan: '4095' is no VLAN"),
            ("02:00.0,trust=yes", "trust: 'yes' is neither on nor off"),
            ("02:00.0,rate=fast", "rate: 'fast' is no rate"),
            (
                "02:00.0,link=up",
                "link: 'up' is none of auto, enable, disable",
            ),
            ("02:00.0,port=0", "port: '0' is no port"),
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
