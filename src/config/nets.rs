//! Network cards: those of the start, checked against each other, and one that comes later.

use devices::net::Protocol;

use super::validate::{Once, Problem, error};
use super::{ConfigError, Given, MAX_NETS, Net, NetBackend, NetSpec, id, mac};

/// The cards of a machine, on the host of this identity; `ids` are those of all its devices.
pub(super) fn nets(
    given: Vec<Given<NetSpec>>,
    host: &str,
    ids: &mut Once<String>,
) -> Result<Vec<Net>, ConfigError> {
    if let Some(extra) = given.get(MAX_NETS) {
        return Err(error(&extra.origin, Problem::TooManyNets(given.len())));
    }
    let (mut taps, mut macs) = (Once::new(), Once::new());
    let mut ports = Once::<(Protocol, u16)>::new();
    let mut nets = Vec::new();
    for (number, Given { value, origin }) in given.into_iter().enumerate() {
        check_name(&value.backend).map_err(|problem| error(&origin, problem))?;
        match &value.backend {
            NetBackend::Tap(name) => {
                taps.check(name.clone(), &origin, || format!("TAP {name}"))?;
            }
            NetBackend::User(forwards) => {
                for f in forwards {
                    let what = || format!("forward={f}: the host's port");
                    ports.check((f.protocol, f.host), &origin, what)?;
                }
            }
        }
        let net = resolve(value, host, number);
        macs.check(net.mac, &origin, || format!("MAC {}", net.mac))?;
        ids.check(net.id.clone(), &origin, || format!("id={}", net.id))?;
        nets.push(net);
    }
    Ok(nets)
}

impl NetSpec {
    /// The card that is plugged into a running machine under this name.
    pub fn plugged_as(self, id: &str) -> Result<Net, Problem> {
        check_name(&self.backend)?;
        let derive = || mac::derived(&[&host_identity(), "plugged", id]);
        Ok(Net {
            mac: self.mac.unwrap_or_else(derive),
            id: id.to_owned(),
            backend: self.backend,
        })
    }
}

/// Fills in what a machine's card of this number was not given.
fn resolve(spec: NetSpec, host: &str, number: usize) -> Net {
    let name = match &spec.backend {
        NetBackend::Tap(name) => name.as_str(),
        NetBackend::User(_) => "user",
    };
    let derive = || mac::derived(&[host, name, &number.to_string()]);
    Net {
        mac: spec.mac.unwrap_or_else(derive),
        id: spec.id.unwrap_or_else(|| id::of_card(number)),
        backend: spec.backend,
    }
}

fn check_name(backend: &NetBackend) -> Result<(), Problem> {
    match backend {
        NetBackend::Tap(name) if !interface_name(name) => Err(Problem::TapName(name.clone())),
        _ => Ok(()),
    }
}

/// What Linux takes for an interface's name (`dev_valid_name`).
fn interface_name(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace())
}

/// The host's identity, so that derived MACs differ between hosts on one network.
pub(super) fn host_identity() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(texts: &[&str]) -> Vec<Given<NetSpec>> {
        let each = |text: &&str| Given::by_flag("--net", text.parse().unwrap());
        texts.iter().map(each).collect()
    }

    #[test]
    fn cards_are_called_as_told_or_by_their_number() {
        let texts = ["user", "tap=tap0,id=lan", "tap=tap1"];
        let nets = nets(given(&texts), "host", &mut Once::new()).unwrap();
        let ids: Vec<_> = nets.iter().map(|net| net.id.as_str()).collect();
        assert_eq!(ids, ["net0", "lan", "net2"]);
    }

    #[test]
    fn a_card_that_comes_later_has_an_address_of_its_own() {
        let plugged = |text: &str, id| text.parse::<NetSpec>().unwrap().plugged_as(id);
        let (a, b) = (plugged("user", "a").unwrap(), plugged("user", "b").unwrap());
        assert_eq!((a.id.as_str(), b.id.as_str()), ("a", "b"));
        assert_ne!(a.mac, b.mac);
        assert_eq!(plugged("user", "a").unwrap(), a);
        let error = plugged("tap=a/b", "a").unwrap_err().to_string();
        assert!(error.contains("cannot be the name"), "{error}");
    }

    #[test]
    fn ids_that_were_given_twice_are_named() {
        let error = nets(
            given(&["user,id=net1", "tap=tap0"]),
            "host",
            &mut Once::new(),
        );
        let problem = error.unwrap_err().problem.to_string();
        assert!(problem.starts_with("id=net1 is given twice"), "{problem}");
    }
}
