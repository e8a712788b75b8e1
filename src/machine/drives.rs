//! Disks and CD-ROMs, on the IDE controller.

use std::sync::Arc;

use devices::block::{BlockBackend, RawImage};
use devices::bus::PciDevice;
use devices::ide::{DriveConfig, DriveKind, IdeConfig, IdeController, LEGACY_IRQS};
use pci::{BusAt, Space, Topology};

use super::Error;
use super::fabric::Fabric;
use super::installer::{Installed, Placement};
use crate::config;

/// Where the controller sits on the root bus.
const DEVICE: u8 = 1;

/// Opened images, in the order of the drives: both of the first channel, then the second's.
pub struct Images(Vec<DriveConfig>);

impl Images {
    /// Opens and locks every image.
    pub fn open(disks: &[config::Disk], cdroms: &[config::Cdrom]) -> Result<Self, Error> {
        let disks = disks.iter().enumerate().map(|(i, disk)| {
            let image = RawImage::open(&disk.path, disk.readonly).map_err(Error::Disk)?;
            Ok(drive(DriveKind::Disk, image, i))
        });
        let cdroms = cdroms.iter().enumerate().map(|(i, cdrom)| {
            let image = RawImage::open(&cdrom.path, true).map_err(Error::Cdrom)?;
            Ok(drive(DriveKind::Cdrom, image, i))
        });
        disks.chain(cdroms).collect::<Result<_, _>>().map(Self)
    }
}

fn drive(kind: DriveKind, image: RawImage, index: usize) -> DriveConfig {
    let letter = match kind {
        DriveKind::Disk => 'D',
        DriveKind::Cdrom => 'C',
    };
    let backend: Arc<dyn BlockBackend> = Arc::new(image);
    DriveConfig {
        kind,
        backend,
        serial: format!("SLUICE{letter}{index:04}"),
    }
}

/// Which drive goes where: by channel, then place on its cable. Two drives do not share a
/// cable, as only one drive of a cable can be busy; more are put there in their order.
fn places(drives: Vec<DriveConfig>) -> [[Option<DriveConfig>; 2]; 2] {
    let few = drives.len() <= 2;
    let mut drives = drives.into_iter();
    if few {
        return [[drives.next(), None], [drives.next(), None]];
    }
    let mut cable = || [drives.next(), drives.next()];
    [cable(), cable()]
}

/// The IDE controller with its drives.
pub struct Drives {
    controller: Arc<IdeController>,
    _ports: Vec<Installed>,
}

impl Drives {
    /// Makes the controller, if there are drives, and puts it on the bus.
    pub fn attach(
        images: Images,
        fabric: &Fabric,
        topology: &mut Topology<dyn PciDevice>,
    ) -> Result<Option<Self>, Error> {
        if images.0.is_empty() {
            return Ok(None);
        }
        let drives = places(images.0);
        let config = IdeConfig {
            drives,
            dma: fabric.dma(),
            lines: LEGACY_IRQS.map(|irq| fabric.wires.isa_line(irq)),
            deferred: fabric.deferred.clone(),
        };
        let controller = Arc::new(IdeController::new(config).map_err(Error::Ide)?);
        topology.attach(
            BusAt::Root,
            DEVICE,
            0,
            "the IDE controller",
            controller.clone() as _,
        )?;
        let ports = controller
            .legacy_ports()
            .into_iter()
            .map(|ports| {
                fabric.installer.install(Placement {
                    space: Space::Io,
                    base: ports.base.into(),
                    size: ports.len.into(),
                    name: ports.name,
                    region: ports.region,
                    fast_paths: ports.fast_paths,
                })
            })
            .collect::<Result<_, _>>()?;
        controller.start().map_err(Error::Ide)?;
        Ok(Some(Self {
            controller,
            _ports: ports,
        }))
    }
}

impl Drop for Drives {
    fn drop(&mut self) {
        self.controller.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The serial numbers, cable by cable, of `count` drives.
    fn placed(count: usize) -> [[Option<String>; 2]; 2] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(512).unwrap();
        let drives = (0..count).map(|i| {
            let image = RawImage::open(file.path(), true).unwrap();
            drive(DriveKind::Disk, image, i)
        });
        places(drives.collect()).map(|cable| cable.map(|drive| Some(drive?.serial)))
    }

    #[test]
    fn two_drives_have_a_cable_each_and_more_share() {
        let name = |i: usize| Some(format!("SLUICED{i:04}"));
        assert_eq!(placed(1), [[name(0), None], [None, None]]);
        assert_eq!(placed(2), [[name(0), None], [name(1), None]]);
        assert_eq!(placed(3), [[name(0), name(1)], [name(2), None]]);
        assert_eq!(placed(4), [[name(0), name(1)], [name(2), name(3)]]);
    }
}
