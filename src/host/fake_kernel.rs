//! A kernel for tests: what it is asked changes the files of a [`FakeTree`] as the real one
//! changes sysfs, and any of its calls can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use devices::net::Mac;

use super::fake_tree::{FakeFunction, FakeTree};
use super::kernel::Kernel;
use super::netlink::Link;
use super::vf::{Rate, VfLink, VfSetting, VfSettings, Vlan};
use super::{Host, names_in};

const DEVICES: &str = "sys/bus/pci/devices";
const DRIVERS: &str = "sys/bus/pci/drivers";

/// The PF that [`FakeKernel::with_pf`] has, and its interface.
pub(crate) const PF: &str = "0000:02:00.0";
pub(crate) const ETH0: &str = "eth0";

pub(crate) struct FakeKernel {
    pub(crate) tree: FakeTree,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was asked, in order.
    calls: Vec<String>,
    /// Which call is to fail, counted from 0.
    fails: Option<usize>,
    /// Which driver the kernel finds for a function.
    finds: BTreeMap<String, String>,
    /// Drivers that refuse whatever they are to be bound to.
    refusing: BTreeSet<String>,
    links: BTreeMap<String, Link>,
    /// How often time passes until VFs answer or a link has carrier; `None` for ever.
    slow: Option<u32>,
    answering: u32,
}

impl FakeKernel {
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            slow: Some(0),
            ..State::default()
        };
        let tree = FakeTree::new();
        tree.write("proc/self/mountinfo", "");
        Arc::new(Self {
            tree,
            state: Mutex::new(state),
        })
    }

    /// With an 82576 that can have seven VFs and has none. Its interface is down.
    pub(crate) fn with_pf() -> Arc<Self> {
        let kernel = Self::new();
        kernel.tree.add(&FakeFunction {
            ids: (0x8086, 0x10c9),
            driver: Some("igb"),
            group: Some(20),
            sriov: Some((7, 0)),
            ..FakeFunction::at(PF)
        });
        kernel.interface(PF, ETH0);
        kernel.tree.driver("igbvf");
        kernel
    }

    /// Gives a function a network interface, which is down.
    pub(crate) fn interface(&self, address: &str, name: &str) {
        let dir = fs::canonicalize(self.tree.attribute(address, "")).unwrap();
        let dir = dir.join("net").join(name);
        self.tree.write(dir.join("address"), "");
        self.tree.link(format!("sys/class/net/{name}"), dir);
        self.state().links.insert(name.into(), Link::default());
    }

    pub(crate) fn host(&self) -> Host {
        self.tree.host()
    }

    /// The kernel finds this driver for a function.
    pub(crate) fn finds(&self, address: &str, driver: &str) {
        self.tree.driver(driver);
        self.state().finds.insert(address.into(), driver.into());
    }

    /// A driver refuses every function.
    pub(crate) fn refuses(&self, driver: &str) {
        self.state().refusing.insert(driver.into());
    }

    /// The call of this number fails, counted from now.
    pub(crate) fn fail_at(&self, call: usize) {
        let mut state = self.state();
        state.calls.clear();
        state.fails = Some(call);
    }

    /// New VFs answer, and a link has carrier, only when time has passed so often; or never.
    pub(crate) fn slow(&self, pauses: Option<u32>) {
        self.state().slow = pauses;
    }

    /// What was asked since last time.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// What an interface is like.
    pub(crate) fn link_now(&self, interface: &str) -> Link {
        self.state().links[interface].clone()
    }

    /// Whether a function is bound, and to what.
    pub(crate) fn driver_of(&self, address: &str) -> Option<String> {
        super::link_name(&self.tree.attribute(address, "driver"))
    }

    /// Everything that Sluice could have changed.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        let mut facts = BTreeMap::new();
        walk(&self.tree.path("sys"), &mut facts);
        let nodes = names_in(&self.tree.path("dev/vfio")).unwrap();
        facts.insert("dev/vfio".into(), nodes.join(" "));
        for (name, link) in &self.state().links {
            // Carrier comes and goes with time.
            let told = format!("up: {}, VFs: {:?}", link.up, link.vfs);
            facts.insert(name.into(), told);
        }
        facts
    }

    /// The records that are left.
    pub(crate) fn records(&self) -> Vec<String> {
        let mut names = names_in(&self.tree.path("run/sluice")).unwrap();
        names.retain(|name| name != "lock");
        names
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn called(&self, call: String) -> io::Result<()> {
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push(call);
        match state.fails {
            Some(fails) if fails == number => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(()),
        }
    }

    fn attribute(&self, address: &str, name: &str, text: &str) -> io::Result<()> {
        let path = Path::new(DEVICES).join(address).join(name);
        if !self.tree.path(&path).exists() {
            return Err(error(libc::ENOENT));
        }
        match name {
            "driver_override" if text.trim().is_empty() => {
                self.tree.write(path, "(null)\n");
            }
            "sriov_numvfs" => self.make_vfs(address, text.trim().parse().unwrap())?,
            _ => {
                self.tree.write(path, format!("{}\n", text.trim()));
            }
        }
        Ok(())
    }

    fn make_vfs(&self, pf: &str, count: u16) -> io::Result<()> {
        let number = |name: &str| -> u16 {
            let path = Path::new(DEVICES).join(pf).join(name);
            self.tree.read(path).parse().unwrap()
        };
        let now = number("sriov_numvfs");
        if count > number("sriov_totalvfs") {
            return Err(error(libc::ERANGE));
        }
        if now > 0 && count > 0 {
            return Err(error(libc::EBUSY));
        }
        (0..now).for_each(|n| self.remove_vf(pf, n));
        for n in 0..count {
            self.add_vf(pf, n);
            if number("sriov_drivers_autoprobe") == 1 {
                self.tree.bind(&vf(n), "igbvf");
            }
        }
        let path = Path::new(DEVICES).join(pf).join("sriov_numvfs");
        self.tree.write(path, format!("{count}\n"));
        let mut state = self.state();
        state.answering = state.slow.unwrap_or(u32::MAX);
        if let Some(link) = state.links.get_mut(ETH0) {
            link.vfs = vec![new_vf(); count.into()];
        }
        Ok(())
    }

    fn add_vf(&self, pf: &str, number: u16) {
        let address: &'static str = vf(number).leak();
        let answers = self.state().slow == Some(0);
        let mut config = vec![0xff; 64];
        if answers {
            config[8..12].copy_from_slice(&[1, 0, 0, 2]);
        }
        self.tree.add(&FakeFunction {
            group: Some(40 + u32::from(number)),
            physical: Some(pf.to_owned().leak()),
            config,
            ..FakeFunction::at(address)
        });
    }

    fn remove_vf(&self, pf: &str, number: u16) {
        let address = vf(number);
        if self.driver_of(&address).is_some() {
            self.tree.unbind(&address);
        }
        let dir = fs::canonicalize(self.tree.attribute(&address, "")).unwrap();
        let group = 40 + number;
        self.tree
            .remove(dir)
            .remove(Path::new(DEVICES).join(&address))
            .remove(self.tree.attribute(pf, &format!("virtfn{number}")))
            .remove(format!("sys/kernel/iommu_groups/{group}"))
            .remove(format!("dev/vfio/{group}"));
    }

    fn bind(&self, address: &str, driver: &str) -> io::Result<()> {
        let preferred = self.host().preferred_driver(address.parse().unwrap())?;
        let refusing = self.state().refusing.contains(driver);
        let other = preferred.is_some_and(|preferred| preferred != driver);
        if other || refusing || self.driver_of(address).is_some() {
            return Err(error(libc::ENODEV));
        }
        self.tree.bind(address, driver);
        Ok(())
    }

    /// As the kernel does it: whoever may have it gets it, and it is no error if nobody does.
    fn probe(&self, address: &str) -> io::Result<()> {
        let preferred = self.host().preferred_driver(address.parse().unwrap())?;
        let found = preferred.or_else(|| self.state().finds.get(address).cloned());
        if let Some(driver) = found
            && self.tree.path(DRIVERS).join(&driver).exists()
        {
            let _ = self.bind(address, &driver);
        }
        Ok(())
    }
}

impl Kernel for FakeKernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let path = path.strip_prefix(self.tree.path("")).unwrap();
        self.called(format!("{} < {}", path.display(), text.trim()))?;
        let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
        match parts[..] {
            ["sys", "bus", "pci", "drivers_probe"] => self.probe(text),
            ["sys", "bus", "pci", "drivers", driver, "bind"] => {
                if !self.tree.path(path).exists() {
                    return Err(error(libc::ENOENT));
                }
                self.bind(text, driver)
            }
            ["sys", "bus", "pci", "drivers", driver, "unbind"] => {
                if self.driver_of(text).as_deref() != Some(driver) {
                    return Err(error(libc::ENODEV));
                }
                self.tree.unbind(text);
                Ok(())
            }
            ["sys", "bus", "pci", "devices", address, name] => self.attribute(address, name, text),
            _ => panic!("a write to {}", path.display()),
        }
    }

    fn load_module(&self, name: &str) -> io::Result<()> {
        self.called(format!("modprobe {name}"))?;
        self.tree.driver(name);
        Ok(())
    }

    fn link(&self, interface: &str) -> io::Result<Link> {
        self.called(format!("{interface}?"))?;
        let state = self.state();
        let link = state.links.get(interface).cloned();
        link.ok_or_else(|| error(libc::ENODEV))
    }

    fn set_up(&self, interface: &str, up: bool) -> io::Result<()> {
        self.called(format!("{interface} up: {up}"))?;
        let mut state = self.state();
        state.answering = state.slow.unwrap_or(u32::MAX);
        let carrier = up && state.slow == Some(0);
        let link = state.links.get_mut(interface).unwrap();
        (link.up, link.carrier) = (up, carrier);
        Ok(())
    }

    fn set_vf(&self, interface: &str, number: u32, setting: VfSetting) -> io::Result<()> {
        self.called(format!("{interface} vf {number} {setting}"))?;
        let mut state = self.state();
        let link = state.links.get_mut(interface).unwrap();
        let vf = link.vfs.get_mut(number as usize);
        vf.ok_or_else(|| error(libc::EINVAL))?.set(setting);
        Ok(())
    }

    fn pause(&self, _: Duration) {
        let mut state = self.state();
        state.answering = state.answering.saturating_sub(1);
        if state.slow.is_some() && state.answering == 0 {
            state
                .links
                .values_mut()
                .for_each(|link| link.carrier = link.up);
            drop(state);
            for number in 0..7 {
                let config = self.tree.attribute(&vf(number), "config");
                if config.exists() {
                    fs::write(config, [1, 0, 0, 2].repeat(16)).unwrap();
                }
            }
        }
    }
}

/// Where the VF of this number of an 82576 at bus 2 is: at offset 128, stride 2.
pub(crate) fn vf(number: u16) -> String {
    format!("0000:02:{:02x}.{}", 0x10 + number / 4, number % 4 * 2)
}

/// What is set for a VF that was just made.
pub(crate) fn new_vf() -> VfSettings {
    VfSettings {
        mac: Some(Mac([0; 6])),
        vlan: Some(Vlan::default()),
        trust: Some(false),
        spoofcheck: Some(true),
        rate: Some(Rate::default()),
        link: Some(VfLink::Auto),
    }
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn walk(dir: &Path, facts: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if let Ok(target) = fs::read_link(&path) {
            facts.insert(path, format!("-> {}", target.display()));
        } else if path.is_dir() {
            facts.insert(path.clone(), "a directory".into());
            walk(&path, facts);
        } else {
            let text = fs::read(&path).unwrap();
            facts.insert(path, String::from_utf8_lossy(&text).into_owned());
        }
    }
}
