//! `--control`: where a running machine is controlled, and its room for devices that come
//! later.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};

use super::option::{OptionError, Options};
use super::validate::{Problem, error};
use super::{Assign, ConfigError, Given, MAX_PORT, check_socket_path};

/// Empty ports where no number is given, as far as there are so many.
const DEFAULT_PORTS: u8 = 4;

/// Where a running machine is controlled, and its room for devices that come later.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Control {
    /// The UNIX socket that Sluice listens on.
    pub path: PathBuf,
    /// Root ports that are empty at first, beside those in use.
    pub ports: u8,
}

/// A `--control` as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlSpec {
    /// The socket.
    pub path: PathBuf,
    /// How many empty root ports, if given.
    pub ports: Option<u8>,
}

/// How many root ports.
struct Ports(u8);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(ports @ 0..=MAX_PORT) => Ok(Self(ports)),
            _ => Err(format!(
                "'{text}' is no number of ports; write one from 0 to {MAX_PORT}"
            )),
        }
    }
}

impl FromStr for ControlSpec {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let options = Options::parse(text, &["path", "ports"], &[])?;
        let path = options.value("path")?;
        Ok(Self {
            path: path.ok_or(OptionError::Missing("path", "path=…"))?.into(),
            ports: options.read("ports")?.map(|Ports(ports)| ports),
        })
    }
}

impl<'de> Deserialize<'de> for ControlSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: PathBuf,
            ports: Option<i64>,
        }
        let table = Table::deserialize(deserializer)?;
        let ports = table.ports.map(|ports| ports.to_string().parse());
        let ports = ports.transpose().map_err(de::Error::custom)?;
        Ok(Self {
            path: table.path,
            ports: ports.map(|Ports(ports)| ports),
        })
    }
}

/// Checks the path, and that there are as many ports beside those of `assigns`.
pub(super) fn control(
    given: Option<Given<ControlSpec>>,
    assigns: &[Assign],
) -> Result<Option<Control>, ConfigError> {
    let Some(Given { value, origin }) = given else {
        return Ok(None);
    };
    let ControlSpec { path, ports } = value;
    check_socket_path(&path).map_err(|problem| error(&origin, problem.into()))?;
    let used: BTreeSet<u8> = assigns.iter().map(|assign| assign.port).collect();
    let left = MAX_PORT.saturating_sub(used.len() as u8);
    match ports {
        Some(ports) if ports > left => Err(error(&origin, Problem::TooManyPorts { ports, left })),
        ports => Ok(Some(Control {
            path,
            ports: ports.unwrap_or(DEFAULT_PORTS.min(left)),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<ControlSpec>().unwrap_err().to_string()
    }

    #[test]
    fn text_and_table_say_the_same() {
        let spec: ControlSpec = "path=/run/vm,,1.ctl,ports=0".parse().unwrap();
        assert_eq!(spec.path.to_str(), Some("/run/vm,1.ctl"));
        assert_eq!(spec.ports, Some(0));
        let table = "path = '/run/vm,1.ctl'\nports = 0";
        assert_eq!(toml::from_str::<ControlSpec>(table).unwrap(), spec);
        assert_eq!("path=x".parse::<ControlSpec>().unwrap().ports, None);
        assert!(error("ports=1").contains("'path' is missing; write path=…"));
        assert!(error("/run/vm.ctl").contains("known: path, ports"));
        for ports in ["33", "-1", "many", "256"] {
            assert!(error(&format!("path=x,ports={ports}")).contains("from 0 to 32"));
        }
        let error = toml::from_str::<ControlSpec>("path = 'x'\nports = 33").unwrap_err();
        assert!(error.message().contains("from 0 to 32"), "{error}");
    }
}
