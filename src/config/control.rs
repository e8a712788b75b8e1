//! `--control`, read from a flag's value or from a table of the file.

use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};

use super::option::{OptionError, Options};
use super::{Control, MAX_PORT};

/// Empty root ports of a machine that is controlled.
const DEFAULT_PORTS: u8 = 4;

/// How many root ports.
struct Ports(u8);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(ports @ 0..=MAX_PORT) => Ok(Self(ports)),
            _ => Err(format!("'{text}' is no number from 0 to {MAX_PORT}")),
        }
    }
}

impl FromStr for Control {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let options = Options::parse(text, &["path", "ports"], &[])?;
        let path = options.value("path")?;
        Ok(Self {
            path: path.ok_or(OptionError::Missing("path", "path=…"))?.into(),
            ports: options.read("ports")?.map_or(DEFAULT_PORTS, |Ports(n)| n),
        })
    }
}

impl<'de> Deserialize<'de> for Control {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: PathBuf,
            ports: Option<i64>,
        }
        let table = Table::deserialize(deserializer)?;
        let ports = table.ports.map(|n| n.to_string().parse::<Ports>());
        let ports = ports.transpose().map_err(de::Error::custom)?;
        Ok(Self {
            path: table.path,
            ports: ports.map_or(DEFAULT_PORTS, |Ports(n)| n),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_ports_unless_told_otherwise() {
        let read = |text: &str| text.parse::<Control>();
        let control = read("path=/run/vm,,1.sock").unwrap();
        assert_eq!(control.path.to_str(), Some("/run/vm,1.sock"));
        assert_eq!(control.ports, DEFAULT_PORTS);
        assert_eq!(read("path=/s,ports=0").unwrap().ports, 0);
        let error = |text| read(text).unwrap_err().to_string();
        assert!(error("path=/s,ports=33").contains("no number from 0 to 32"));
        assert!(error("/s").contains("known: path, ports"));
        assert!(error("ports=1").contains("path=…"));
    }
}
