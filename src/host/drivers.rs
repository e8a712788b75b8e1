//! Which driver has a function (Documentation/ABI/testing/sysfs-bus-pci: `driver_override`,
//! `bind`, `unbind`, `drivers_probe`).

use std::fs;
use std::io;
use std::path::PathBuf;

use pci::HostBdf;

use super::changes::{Attempt, ChangeError, Changes, VFIO_PCI};
use super::group::is_vfio;
use super::journal::Step;
use super::{Host, PciFunction};

impl Host {
    /// The only driver that may have the function, if there is one preferred so.
    pub(super) fn preferred_driver(&self, address: HostBdf) -> io::Result<Option<String>> {
        let text = fs::read_to_string(self.sysfs_path(address).join("driver_override"))?;
        let text = text.trim();
        // The kernel prints a null pointer.
        Ok((!text.is_empty() && text != "(null)").then(|| text.to_owned()))
    }

    pub(super) fn driver_dir(&self, driver: &str) -> PathBuf {
        self.root.join("sys/bus/pci/drivers").join(driver)
    }
}

impl Changes<'_> {
    /// Loads vfio-pci if it is not there.
    pub(super) fn load_vfio_pci(&self) -> io::Result<()> {
        if self.host.driver_dir(VFIO_PCI).exists() {
            return Ok(());
        }
        self.kernel.load_module(VFIO_PCI)
    }

    /// Gives a function to vfio-pci, which must be loaded. What one of VFIO's drivers has
    /// already stays with it.
    pub(super) fn give_to_vfio(
        &self,
        attempt: &mut Attempt,
        function: &PciFunction,
    ) -> Result<(), ChangeError> {
        if function.driver.as_deref().is_some_and(is_vfio) {
            return Ok(());
        }
        let address = function.address;
        attempt.note(Step::Driver {
            function: address,
            driver: function.driver.clone(),
            preferred: self.preferred(address)?,
        })?;
        self.prefer(address, Some(VFIO_PCI))?;
        self.unbind(function)?;
        self.probe(address)?;
        self.expect_driver(address, Some(VFIO_PCI))
    }

    /// Gives a function back to the driver that had it, with the preference there was.
    pub(super) fn restore_driver(
        &self,
        address: HostBdf,
        driver: Option<&str>,
        preferred: Option<&str>,
    ) -> Result<(), ChangeError> {
        let function = match self.function(address) {
            Err(ChangeError::Gone(_)) => return Ok(()),
            function => function?,
        };
        if function.driver.as_deref() != driver {
            // Another preference than this driver would keep it from binding.
            self.prefer(
                address,
                preferred.filter(|preferred| Some(*preferred) == driver),
            )?;
            self.unbind(&function)?;
            if let Some(driver) = driver {
                let bind = self.host.driver_dir(driver).join("bind");
                let bound = self.write(&bind, &address.to_string());
                // The driver may have been unloaded, and be loaded again by this.
                bound.or_else(|_| self.probe(address))?;
            }
            self.expect_driver(address, driver)?;
        }
        self.prefer(address, preferred)
    }

    /// Takes a function from vfio-pci and lets the kernel find it a driver.
    pub(super) fn give_to_host(&self, function: &PciFunction) -> Result<(), ChangeError> {
        self.prefer(function.address, None)?;
        self.unbind(function)?;
        self.probe(function.address)
    }

    fn preferred(&self, address: HostBdf) -> Result<Option<String>, ChangeError> {
        let preferred = self.host.preferred_driver(address);
        preferred.map_err(|e| ChangeError::Read(address, e))
    }

    fn prefer(&self, address: HostBdf, driver: Option<&str>) -> Result<(), ChangeError> {
        if self.preferred(address)?.as_deref() == driver {
            return Ok(());
        }
        let path = self.host.sysfs_path(address).join("driver_override");
        // A new line alone is no driver.
        self.write(&path, driver.unwrap_or("\n"))
    }

    fn unbind(&self, function: &PciFunction) -> Result<(), ChangeError> {
        let Some(driver) = &function.driver else {
            return Ok(());
        };
        let path = self.host.driver_dir(driver).join("unbind");
        self.write(&path, &function.address.to_string())
    }

    fn probe(&self, address: HostBdf) -> Result<(), ChangeError> {
        let path = self.host.root.join("sys/bus/pci/drivers_probe");
        self.write(&path, &address.to_string())
    }

    fn expect_driver(&self, address: HostBdf, driver: Option<&str>) -> Result<(), ChangeError> {
        let now = self.function(address)?.driver;
        match driver {
            Some(driver) if now.as_deref() != Some(driver) => Err(ChangeError::NotTaken {
                address,
                driver: driver.to_owned(),
                now,
            }),
            _ => Ok(()),
        }
    }
}
