//! `sluice ctl`: a running machine, from outside.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::CliError;
use super::flags::read;
use super::page::Page;
use super::table::{self, Column, column, none};
use crate::config::{AssignSpec, NetSpec};
use crate::control::{AddRequest, Added, Client, ClientError, Functions, Listed, Listing, Request};

pub(super) const AFTER_CTL: &str = "\
SOCKET is what the machine was given with --control path=SOCKET. What goes over it is JSON, a \
line for each request; the README has the format.";

/// `sluice ctl`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Ctl {
    /// The machine's control socket
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
enum Verb {
    /// Plug a device in
    Add(Add),
    /// Ask the guest to let go of a device, and take it out when it has
    Remove {
        /// The device, as list names it
        id: String,
        /// Take it away without asking: the guest sees it torn out
        #[arg(long)]
        force: bool,
        /// Seconds that the guest has to let go [default: 30]
        #[arg(long, value_name = "SECONDS", conflicts_with = "force")]
        timeout: Option<u32>,
    },
    /// Show what is plugged in
    List {
        /// Write it as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Clone, PartialEq, Eq, Debug)]
struct Add {
    #[command(flatten)]
    device: Device,

    /// What the device will be called [default: its address on the host, or its network's name]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
}

#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[group(required = true, multiple = false)]
struct Device {
    /// A device of the host's, with the options of sluice run --assign; once for each of its
    /// functions, if it is to have several
    #[arg(long, value_name = "BDF[,…]")]
    assign: Vec<String>,

    /// A network card, with the options of sluice run --net
    #[arg(long, value_name = "tap=…|user[,…]")]
    net: Option<String>,
}

impl Ctl {
    /// Finds out what no machine would understand before one is asked.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if let Verb::Add(Add { device, .. }) = &self.verb {
            read::<AssignSpec>("--assign", &device.assign)?;
            read::<NetSpec>("--net", device.net.as_slice())?;
        }
        Ok(())
    }
}

/// Asks the machine, and says what came of it.
pub fn ctl(flags: &Ctl, page: Page) -> Result<String, ClientError> {
    let mut client = Client::connect(&flags.socket)?;
    let strange = |source| ClientError::Strange {
        path: flags.socket.clone(),
        source,
    };
    let answer = client.ask(&request(&flags.verb))?;
    Ok(match &flags.verb {
        Verb::Add(_) => added(&serde_json::from_value(answer).map_err(strange)?),
        Verb::Remove { .. } => String::new(),
        Verb::List { json: true } => format!("{answer:#}\n"),
        Verb::List { json: false } => {
            listed(&serde_json::from_value(answer).map_err(strange)?, page)
        }
    })
}

fn request(verb: &Verb) -> Request {
    match verb.clone() {
        Verb::Add(Add { device, id }) => Request::Add(AddRequest {
            assign: Functions(device.assign),
            net: device.net,
            id,
            folder: std::env::current_dir().ok(),
        }),
        Verb::Remove { id, force, timeout } => Request::Remove { id, force, timeout },
        Verb::List { .. } => Request::List {},
    }
}

fn added(added: &Added) -> String {
    let Added { id, port, guest } = added;
    match guest {
        Some(guest) => format!("{id} is at root port {port}, for the guest {guest}\n"),
        None => format!("{id} is at root port {port}\n"),
    }
}

const COLUMNS: [Column<Listed>; 4] = [
    column(0, "PORT", |d| d.port.to_string()),
    column(0, "ID", |d| d.id.clone()),
    column(0, "STATE", |d| d.state.clone()),
    column(1, "GUEST", |d| d.guest.clone().unwrap_or_else(none)),
];

fn listed(listing: &Listing, page: Page) -> String {
    let ports: Vec<_> = listing.free_ports.iter().map(u8::to_string).collect();
    let ports = match ports.as_slice() {
        [] => "none".to_owned(),
        ports => ports.join(", "),
    };
    let free = page.paragraph("Free root ports: ", &ports);
    if listing.devices.is_empty() {
        return format!("Nothing is plugged in.\n{free}");
    }
    let rows = table::render(&COLUMNS, &listing.devices, |d| d.name.clone(), page);
    format!("{rows}\n{free}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::golden::assert_golden;

    fn device(id: &str, port: u8, guest: Option<&str>) -> Listed {
        Listed {
            id: id.to_owned(),
            kind: "assigned".to_owned(),
            name: "Intel Corporation 82576 Virtual Function".to_owned(),
            host: Some("0000:01:10.0".to_owned()),
            port,
            guest: guest.map(str::to_owned),
            state: "plugged".to_owned(),
        }
    }

    #[test]
    fn a_listing_is_a_table() {
        let listing = Listing {
            devices: vec![
                device("0000:01:10.0", 1, Some("01:00.0")),
                device("copper", 12, None),
            ],
            free_ports: vec![2, 3],
        };
        for (name, columns) in [("ctl-80.txt", 80), ("ctl-60.txt", 60)] {
            let text = listed(&listing, Page::of_width(Some(columns)));
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(columns), "{widest:?} of {columns}:\n{text}");
            assert_golden(name, &text);
        }
        assert_golden("ctl-pipe.txt", &listed(&listing, Page::of_width(None)));
        let full = Listing {
            devices: Vec::new(),
            free_ports: Vec::new(),
        };
        assert_eq!(
            listed(&full, Page::of_width(Some(80))),
            "Nothing is plugged in.\nFree root ports: none\n"
        );
    }

    #[test]
    fn flags_become_requests() {
        let verb = Verb::Remove {
            id: "x".into(),
            force: true,
            timeout: None,
        };
        let text = serde_json::to_string(&request(&verb)).unwrap();
        assert_eq!(text, r#"{"do":"remove","id":"x","force":true}"#);
        let text = serde_json::to_string(&request(&Verb::List { json: false })).unwrap();
        assert_eq!(text, r#"{"do":"list"}"#);
    }
}
