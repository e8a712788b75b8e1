//! What a network card's driver lets its owner set for each virtual function, whoever
//! drives that function (ip-link(8), `vf`; the kernel's `IFLA_VF_*`).

use std::fmt;

use devices::net::Mac;
use serde::{Deserialize, Serialize};

/// Settings of one VF; `None` for what is not given or not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VfSettings {
    /// Its address. All zeros: whoever drives the VF chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The VLAN its frames are put in and taken out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// It may do what otherwise only the PF may, such as being promiscuous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// Frames that do not bear its own address are not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoofcheck: Option<bool>,
    /// How much it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The link that it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<VfLink>,
}

/// A VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Vlan {
    /// 1 to 4094; 0 for none.
    pub id: u16,
    /// Priority, 0 to 7.
    pub qos: u8,
    /// A service tag (802.1ad) rather than a customer's (802.1Q).
    pub service: bool,
}

/// Bounds of what a VF sends, in Mbit/s; 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rate {
    /// What it is sure of.
    pub min: u32,
    /// What it gets at most.
    pub max: u32,
}

/// The link that a VF sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VfLink {
    /// The PF's.
    #[default]
    Auto,
    /// Up, whatever the PF's is: VFs reach each other without a cable.
    Enable,
    /// Down.
    Disable,
}

/// One of the settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as in VfSettings
pub enum VfSetting {
    Mac(Mac),
    Vlan(Vlan),
    Trust(bool),
    SpoofCheck(bool),
    Rate(Rate),
    Link(VfLink),
}

impl VfSettings {
    /// Every setting that is given.
    pub fn each(&self) -> impl Iterator<Item = VfSetting> {
        [
            self.trust.map(VfSetting::Trust),
            self.mac.map(VfSetting::Mac),
            self.vlan.map(VfSetting::Vlan),
            self.spoofcheck.map(VfSetting::SpoofCheck),
            self.rate.map(VfSetting::Rate),
            self.link.map(VfSetting::Link),
        ]
        .into_iter()
        .flatten()
    }

    /// Nothing is given.
    pub fn is_empty(&self) -> bool {
        self.each().next().is_none()
    }

    /// Those of these settings that `other` gives too: what was there before `other` is set.
    pub fn where_given(&self, other: &Self) -> Self {
        Self {
            mac: self.mac.filter(|_| other.mac.is_some()),
            vlan: self.vlan.filter(|_| other.vlan.is_some()),
            trust: self.trust.filter(|_| other.trust.is_some()),
            spoofcheck: self.spoofcheck.filter(|_| other.spoofcheck.is_some()),
            rate: self.rate.filter(|_| other.rate.is_some()),
            link: self.link.filter(|_| other.link.is_some()),
        }
    }

    /// Those of these settings that are otherwise in `now`.
    pub fn but(&self, now: &Self) -> Self {
        let mut changed = Self::default();
        let now: Vec<_> = now.each().collect();
        for setting in self.each().filter(|setting| !now.contains(setting)) {
            changed.set(setting);
        }
        changed
    }

    /// Changes one.
    pub fn set(&mut self, setting: VfSetting) {
        match setting {
            VfSetting::Mac(mac) => self.mac = Some(mac),
            VfSetting::Vlan(vlan) => self.vlan = Some(vlan),
            VfSetting::Trust(on) => self.trust = Some(on),
            VfSetting::SpoofCheck(on) => self.spoofcheck = Some(on),
            VfSetting::Rate(rate) => self.rate = Some(rate),
            VfSetting::Link(link) => self.link = Some(link),
        }
    }
}

impl fmt::Display for VfLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Enable => "enable",
            Self::Disable => "disable",
        })
    }
}

/// As the operator writes it.
impl fmt::Display for VfSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_off = |on: bool| if on { "on" } else { "off" };
        match self {
            Self::Mac(mac) => write!(f, "mac={mac}"),
            Self::Vlan(vlan) => write!(f, "vlan={}", vlan.id),
            Self::Trust(on) => write!(f, "trust={}", on_off(*on)),
            Self::SpoofCheck(on) => write!(f, "spoofcheck={}", on_off(*on)),
            Self::Rate(rate) => write!(f, "rate={}", rate.max),
            Self::Link(link) => write!(f, "link={link}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_only_what_will_be_set() {
        let before = VfSettings {
            mac: Some(Mac([0; 6])),
            vlan: Some(Vlan::default()),
            trust: Some(false),
            spoofcheck: Some(true),
            rate: Some(Rate::default()),
            link: Some(VfLink::Auto),
        };
        let mut wanted = VfSettings::default();
        assert!(before.where_given(&wanted).is_empty());
        wanted.set(VfSetting::Mac(Mac([2, 0, 0, 0, 0, 1])));
        wanted.set(VfSetting::SpoofCheck(false));
        let kept: Vec<_> = before.where_given(&wanted).each().collect();
        assert_eq!(
            kept,
            [VfSetting::Mac(Mac([0; 6])), VfSetting::SpoofCheck(true)]
        );
        let all: Vec<_> = before.each().map(|s| s.to_string()).collect();
        let words = "trust=off mac=00:00:00:00:00:00 vlan=0 spoofcheck=on rate=0 link=auto";
        assert_eq!(all.join(" "), words);
    }
}
