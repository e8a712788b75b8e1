//! A machine for tests of what is before it.

use std::sync::Mutex;
use std::time::Duration;

use super::{Added, Code, Control, Listing, NewDevice, Refused, Removal};

/// Remembers what it was asked, and has one device, `x`.
#[derive(Default)]
pub struct Fake {
    pub added: Mutex<Vec<NewDevice>>,
    pub removals: Mutex<Vec<(String, Removal)>>,
    /// How long a removal takes.
    pub slow: Duration,
}

impl Control for Fake {
    fn add(&self, device: NewDevice) -> Result<Added, Refused> {
        let id = match &device {
            NewDevice::Assign(functions) => functions[0].id.clone(),
            NewDevice::Net(spec) => spec.id.clone(),
        };
        let id = id.unwrap_or_default();
        self.added.lock().unwrap().push(device);
        Ok(Added {
            id,
            port: 2,
            guest: None,
        })
    }

    fn remove(&self, id: &str, removal: &Removal) -> Result<(), Refused> {
        std::thread::sleep(self.slow);
        if id != "x" {
            let message = format!("there is no {id}");
            let code = Code::UnknownId;
            return Err(Refused { code, message });
        }
        self.removals.lock().unwrap().push((id.into(), *removal));
        Ok(())
    }

    fn list(&self) -> Listing {
        Listing {
            devices: Vec::new(),
            free_ports: vec![1, 2],
        }
    }
}
