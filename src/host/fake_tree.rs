//! A host made of files, for tests: `sys`, `proc` and `dev` in a temporary directory, laid
//! out as the kernel does it. `sys/bus/pci/devices/BDF` is a link into
//! `sys/devices/pciDDDD:BB/…`, where a function lies in the directory of the port that it is
//! behind; drivers, IOMMU groups, and a VF and its PF point at each other by links.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Host;

/// The kernel's `IORESOURCE_*` flags, as sysfs shows them, of a 32-bit memory BAR, a
/// prefetchable one of 64 bits, an I/O BAR and a ROM.
pub(crate) const MEMORY: u64 = 0x0004_0200;
pub(crate) const MEMORY_64: u64 = 0x0014_220c;
pub(crate) const PORTS: u64 = 0x0004_0101;
pub(crate) const ROM: u64 = 0x0004_6200;

/// No BAR.
pub(crate) const NO_BAR: (u64, u64, u64) = (0, 0, 0);

/// The tree; gone when dropped.
pub(crate) struct FakeTree(tempfile::TempDir);

impl FakeTree {
    /// A host with VFIO loaded and nothing on its bus.
    pub(crate) fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for dir in [
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers",
            "sys/kernel/iommu_groups",
            "dev/vfio",
            "proc",
        ] {
            fs::create_dir_all(tree.path(dir)).unwrap();
        }
        tree.write("dev/vfio/vfio", "")
            .driver("vfio-pci")
            .write("sys/bus/pci/drivers_probe", "");
        tree
    }

    /// The host whose files these are.
    pub(crate) fn host(&self) -> Host {
        Host::at(self.0.path())
    }

    /// A path inside, such as `proc/meminfo`.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and makes the directories it lies in.
    pub(crate) fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// What is in a file, without white space around it.
    #[allow(dead_code)]
    pub(crate) fn read(&self, name: impl AsRef<Path>) -> String {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.trim().to_owned()
    }

    /// Removes a file, link or directory.
    pub(crate) fn remove(&self, name: impl AsRef<Path>) -> &Self {
        let path = self.path(name);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self
    }

    /// Makes a link to another path inside, and the directories it lies in.
    pub(crate) fn link(&self, name: impl AsRef<Path>, to: impl AsRef<Path>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.path(to), path).unwrap();
        self
    }

    /// A driver that is loaded.
    pub(crate) fn driver(&self, name: &str) -> &Self {
        let dir = Path::new("sys/bus/pci/drivers").join(name);
        for file in ["bind", "unbind", "new_id"] {
            self.write(dir.join(file), "");
        }
        self
    }

    /// An attribute of a function: `sys/bus/pci/devices/BDF/NAME`.
    pub(crate) fn attribute(&self, address: &str, name: &str) -> PathBuf {
        self.path("sys/bus/pci/devices").join(address).join(name)
    }

    /// Puts a function on the bus. Its port, if it has one, must be there already.
    pub(crate) fn add(&self, function: &FakeFunction) -> &Self {
        let address = function.address;
        let dir = match function.behind {
            Some(port) => fs::canonicalize(self.attribute(port, "")).unwrap(),
            None => self
                .path("sys/devices")
                .join(format!("pci{}", &address[..7])),
        }
        .join(address);
        fs::create_dir_all(&dir).unwrap();
        self.link(Path::new("sys/bus/pci/devices").join(address), &dir);
        for (name, text) in function.attributes() {
            self.write(dir.join(name), text);
        }
        if !function.config.is_empty() {
            self.write(dir.join("config"), &function.config);
        }
        if let Some(driver) = function.driver {
            self.bind(address, driver);
        }
        if let Some(group) = function.group {
            let to = format!("sys/kernel/iommu_groups/{group}");
            self.link(format!("{to}/devices/{address}"), &dir)
                .link(dir.join("iommu_group"), to)
                .write(format!("dev/vfio/{group}"), "");
        }
        if let Some(pf) = function.physical {
            let parent = Path::new("sys/bus/pci/devices").join(pf);
            let mut free =
                (0..).filter(|n| !self.attribute(pf, &format!("virtfn{n}")).is_symlink());
            let number = free.next().unwrap();
            self.link(dir.join("physfn"), &parent)
                .link(parent.join(format!("virtfn{number}")), &dir);
        }
        self
    }

    /// Binds a function that has no driver.
    pub(crate) fn bind(&self, address: &str, driver: &str) -> &Self {
        let dir = Path::new("sys/bus/pci/drivers").join(driver);
        self.driver(driver)
            .link(self.attribute(address, "driver"), &dir)
            .link(dir.join(address), self.attribute(address, ""))
    }

    /// Takes a function from its driver.
    #[allow(dead_code)]
    pub(crate) fn unbind(&self, address: &str) -> &Self {
        let link = self.attribute(address, "driver");
        let driver = fs::read_link(&link).unwrap();
        self.remove(driver.join(address)).remove(link)
    }
}

/// A function to put on the bus.
#[derive(Clone)]
pub(crate) struct FakeFunction {
    pub(crate) address: &'static str,
    /// The port that it is behind; none on a root bus.
    pub(crate) behind: Option<&'static str>,
    pub(crate) ids: (u16, u16),
    pub(crate) class: u32,
    pub(crate) driver: Option<&'static str>,
    pub(crate) group: Option<u32>,
    pub(crate) numa_node: i32,
    pub(crate) reset: &'static str,
    /// First address, length and flags of each line of `resource`; a length of 0 is none.
    pub(crate) resources: Vec<(u64, u64, u64)>,
    /// Config space, where a test looks at it.
    pub(crate) config: Vec<u8>,
    /// How many VFs it can have and has, if it has SR-IOV.
    pub(crate) sriov: Option<(u16, u16)>,
    /// Its PF, if it is a VF; the PF must be there already.
    pub(crate) physical: Option<&'static str>,
}

impl FakeFunction {
    /// A VF of an 82576 at `address`, without driver or group, with one memory BAR.
    pub(crate) fn at(address: &'static str) -> Self {
        Self {
            address,
            behind: None,
            ids: (0x8086, 0x10ca),
            class: 0x02_0000,
            driver: None,
            group: None,
            numa_node: -1,
            reset: "flr bus",
            resources: vec![(0xfe00_0000, 0x4000, MEMORY)],
            config: Vec::new(),
            sriov: None,
            physical: None,
        }
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("vendor", format!("0x{:04x}\n", self.ids.0)),
            ("device", format!("0x{:04x}\n", self.ids.1)),
            ("subsystem_vendor", "0x1af4\n".into()),
            ("subsystem_device", "0x1100\n".into()),
            ("class", format!("0x{:06x}\n", self.class)),
            ("revision", "0x01\n".into()),
            ("numa_node", format!("{}\n", self.numa_node)),
            ("reset_method", format!("{}\n", self.reset)),
            ("driver_override", "(null)\n".into()),
            ("resource", self.resource_lines()),
        ];
        if let Some((total, made)) = self.sriov {
            all.push(("sriov_totalvfs", format!("{total}\n")));
            all.push(("sriov_numvfs", format!("{made}\n")));
            all.push(("sriov_drivers_autoprobe", "1\n".into()));
        }
        all
    }

    /// Thirteen lines at least: six BARs, the ROM, and the windows or VF BARs.
    fn resource_lines(&self) -> String {
        let count = self.resources.len().max(13);
        let lines = (0..count).map(|n| match self.resources.get(n) {
            Some(&(start, len, flags)) if len > 0 => {
                format!("0x{start:016x} 0x{:016x} 0x{flags:016x}\n", start + len - 1)
            }
            _ => format!("0x{0:016x} 0x{0:016x} 0x{0:016x}\n", 0),
        });
        lines.collect()
    }
}

/// The config space of a port of this type, with ACS capability and control if given.
pub(crate) fn port(kind: u8, acs: Option<(u8, u8)>) -> Vec<u8> {
    let mut config = vec![0; 4096];
    config[0x06] = 0x10;
    config[0x34] = 0x50;
    // MSI, then PCI Express.
    config[0x50..0x52].copy_from_slice(&[0x05, 0x60]);
    config[0x60..0x64].copy_from_slice(&[0x10, 0x00, 0x02 | kind << 4, 0x01]);
    // AER, then ACS.
    config[0x100..0x104].copy_from_slice(&[0x01, 0x00, 0x02, 0x15]);
    if let Some((has, on)) = acs {
        config[0x150..0x158].copy_from_slice(&[0x0d, 0x00, 0x01, 0x00, has, 0, on, 0]);
    }
    config
}
