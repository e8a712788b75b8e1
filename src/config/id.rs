//! What the operator calls a device that may come and go: `id=` of a card or an assigned
//! device.

use std::str::FromStr;

use pci::HostBdf;

use crate::host::HostDevice;

/// An id that was given. It is no PCI address: those are the ids of devices that were given none.
#[derive(Debug)]
pub(super) struct Id(String);

/// The longest there is.
const LONGEST: usize = 64;

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if text.is_empty() || text.len() > LONGEST || !text.bytes().all(letter) {
            return Err(format!(
                "'{text}' is no id; write 1 to {LONGEST} letters, digits and -._:"
            ));
        }
        if text.parse::<HostBdf>().is_ok() {
            return Err(format!(
                "'{text}' is a PCI address, and only the device there is called by it; write \
                 another id, or none"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

/// Checks an id that comes without a flag.
pub fn check_id(text: &str) -> Result<(), String> {
    text.parse::<Id>().map(drop)
}

/// The id of a card that was given none: the machine's card of this number.
pub(super) fn of_card(number: usize) -> String {
    format!("net{number}")
}

/// The id of an assigned device that was given none: what the host calls it, in one word.
pub(super) fn of_device(device: HostDevice) -> String {
    match device {
        HostDevice::Pci(address) => address.to_string(),
        HostDevice::Mediated(uuid) => uuid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_words_and_no_addresses() {
        for fine in ["vf0", "a.b-c_d:e", "0", &"x".repeat(LONGEST)] {
            assert_eq!(String::from(fine.parse::<Id>().unwrap()), fine);
        }
        for wrong in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(LONGEST + 1)] {
            let error = wrong.parse::<Id>().unwrap_err();
            assert!(error.contains("letters, digits and -._:"), "{error}");
        }
        for address in ["0000:02:10.0", "02:10.0"] {
            let error = address.parse::<Id>().unwrap_err();
            assert!(error.contains("is a PCI address"), "{error}");
        }
    }

    #[test]
    fn devices_without_one_are_called_as_the_host_does() {
        let address: HostBdf = "02:10.0".parse().unwrap();
        assert_eq!(of_device(address.into()), "0000:02:10.0");
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let mediated = HostDevice::Mediated(uuid.parse().unwrap());
        assert_eq!(of_device(mediated), uuid);
    }

    proptest! {
        #[test]
        fn an_id_is_one_word_of_a_flag(text in "\\PC{0,70}|[a-zA-Z0-9._:-]{1,64}") {
            if let Ok(Id(id)) = text.parse() {
                prop_assert!(!id.contains([',', '=', ' ', '/']) && !id.is_empty());
            }
        }
    }
}
