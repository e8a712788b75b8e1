//! Functions for tests.

use std::sync::{Arc, Mutex};

use crate::{Changes, ClassCode, ConfigSpace, ConfigWrite, Function, Ids, Register, Window};

/// IDs of a function that no class describes.
pub fn ids(device: u16) -> Ids {
    Ids {
        vendor: 0x1234,
        device,
        revision: 0,
        class: ClassCode {
            base: 0xff,
            sub: 0,
            interface: 0,
        },
        subsystem_vendor: 0,
        subsystem: 0,
    }
}

/// A config space with no device behind it.
pub struct Endpoint(Mutex<ConfigSpace>);

impl Endpoint {
    pub fn shared(space: ConfigSpace) -> Arc<dyn Function> {
        Arc::new(Self(Mutex::new(space)))
    }
}

impl Function for Endpoint {
    fn read_config(&self, register: Register) -> u32 {
        self.0.lock().unwrap().read(register)
    }
    fn write_config(&self, write: ConfigWrite) -> Changes {
        self.0.lock().unwrap().write(write)
    }
    fn windows(&self) -> Vec<Window> {
        self.0.lock().unwrap().windows()
    }
    fn reset(&self) {
        self.0.lock().unwrap().reset();
    }
}
