//! Functions that are plugged into a running machine together, as one device.

use super::ports::{Wish, place, share_slot};
use super::{Assign, AssignSpec, DeviceSpec};
use crate::host::HostDevice;

/// Why devices cannot be plugged in together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTogether {
    /// A descriptor is another one in another process.
    #[error("fd=N is for the command line of `sluice run`; name the device by its address")]
    Descriptor,
    /// The same one again.
    #[error("{0} is given twice; keep one")]
    Twice(HostDevice),
    /// They are in two places on the host.
    #[error("{0} and {1} are not functions of one device; plug them in one by one")]
    Strangers(HostDevice, HostDevice),
    /// Only one port can be theirs.
    #[error("port={0} and port={1} are asked for, and all functions of a device are behind one")]
    Ports(u8, u8),
}

/// Functions of one device.
#[derive(Debug, Default)]
pub struct Together {
    port: Option<u8>,
    functions: Vec<Wish>,
}

impl Together {
    /// Checks that they can be one device. Unlike at the start, being given together is asking
    /// for that: virtual functions in one place may be one device as well.
    pub fn new(specs: Vec<AssignSpec>) -> Result<Self, NotTogether> {
        let mut together = Self::default();
        specs.into_iter().try_for_each(|spec| together.join(spec))?;
        Ok(together)
    }

    fn join(&mut self, spec: AssignSpec) -> Result<(), NotTogether> {
        let DeviceSpec::Named(device) = spec.device else {
            return Err(NotTogether::Descriptor);
        };
        let file = None;
        let wish = Wish { device, file, spec };
        for other in &self.functions {
            if other.device == device {
                return Err(NotTogether::Twice(device));
            }
            if !share_slot(other, &wish) {
                return Err(NotTogether::Strangers(other.device, device));
            }
        }
        match (self.port, wish.spec.port) {
            (Some(one), Some(other)) if one != other => return Err(NotTogether::Ports(one, other)),
            (ours, theirs) => self.port = ours.or(theirs),
        }
        self.functions.push(wish);
        Ok(())
    }

    /// The port that they ask for, if they do.
    pub fn port(&self) -> Option<u8> {
        self.port
    }

    /// What they will be called.
    pub fn ids(&self) -> Vec<String> {
        self.functions.iter().map(Wish::id).collect()
    }

    /// The functions behind this port, by their numbers.
    pub fn placed(self, port: u8) -> Vec<Assign> {
        place(self.functions, port).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(texts: &[&str]) -> Result<Together, NotTogether> {
        let specs = texts.iter().map(|text| text.parse().unwrap());
        Together::new(specs.collect())
    }

    #[test]
    fn functions_keep_their_numbers_and_one_is_number_zero() {
        let both = together(&["02:10.4,iommu=type1,id=b", "02:10.2,port=7"]).unwrap();
        assert_eq!(both.port(), Some(7));
        let mut ids = both.ids();
        ids.sort();
        assert_eq!(ids, ["0000:02:10.2", "b"]);
        let placed: Vec<_> = both
            .placed(3)
            .into_iter()
            .map(|a| (a.id, a.port, a.function, a.interface.to_string()))
            .collect();
        let function =
            |id: &str, number, interface: &str| (id.to_owned(), 3, number, interface.to_owned());
        assert_eq!(
            placed,
            [
                function("0000:02:10.2", 0, "auto"),
                function("b", 4, "type1")
            ]
        );
    }

    #[test]
    fn what_cannot_be_one_device_is_told() {
        let why = |texts: &[&str]| together(texts).unwrap_err().to_string();
        assert!(why(&["02:10.0", "0000:02:10.0"]).starts_with("0000:02:10.0 is given twice"));
        assert!(why(&["02:10.0", "02:11.0"]).contains("not functions of one device"));
        assert!(why(&["02:10.0,port=2", "02:10.1,port=3"]).starts_with("port=2 and port=3"));
        assert!(why(&["02:10.0", "fd=5"]).starts_with("fd=N is for the command line"));
    }
}
