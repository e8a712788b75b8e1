//! Whether this host can run guests with assigned devices: one finding for each thing that
//! it takes, and what to do about those that are wanting.

mod devices;
mod groups;
mod iommu;
mod kvm;
mod memory;
mod vfio;

use super::Host;

/// How a thing stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Status {
    /// As it should be, or nothing can be done about it.
    Ok,
    /// Assignment works, but not for all devices or guests, or not as well as it could.
    Warn,
    /// Assignment cannot work.
    Fail,
}

/// What was found out about one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The thing.
    pub topic: &'static str,
    /// How it stands.
    pub status: Status,
    /// What there is.
    pub what: String,
    /// What to do, where something can be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(topic: &'static str, what: impl Into<String>) -> Self {
        Self {
            topic,
            status: Status::Ok,
            what: what.into(),
            remedy: None,
        }
    }

    fn warn(topic: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            topic,
            status: Status::Warn,
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn fail(topic: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(topic, what, remedy)
        }
    }
}

impl Host {
    /// Looks at everything that assignment takes. Errors are findings too.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = vec![
            kvm::check(self),
            iommu::translation(self),
            iommu::remapping(self),
            iommu::posting(self),
            vfio::driver(self),
            vfio::interface(self),
            memory::huge_pages(self),
            memory::lock_limit(self),
        ];
        findings.extend(groups::check(self));
        findings.extend(devices::check(self));
        findings
    }
}

/// The words of the first line of a file that begins with `key` and a colon, as those of
/// `/proc/cpuinfo`.
fn words_of<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let of_key = |line: &&str| line.split(':').next().is_some_and(|k| k.trim() == key);
    let line = text.lines().find(of_key).unwrap_or_default();
    line.split(':')
        .nth(1)
        .unwrap_or_default()
        .split_whitespace()
}

/// A module's parameter that is a yes or a no; `None` if there is no such parameter.
fn is_on(host: &Host, module: &str, parameter: &str) -> Option<bool> {
    let value = host.text(&format!("sys/module/{module}/parameters/{parameter}"))?;
    Some(matches!(value.as_str(), "Y" | "1"))
}

#[cfg(test)]
mod tests;
