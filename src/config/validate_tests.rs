use super::*;
use std::error::Error;
use std::os::unix::fs::symlink;
use std::str::FromStr;

use crate::config::Serial;

/// A folder with a kernel and two disks in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kernel", "a.img", "b.img"] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings {
            kernel: Some(Given::by_flag("--kernel", self.path("kernel"))),
            ..Default::default()
        }
    }
}

fn given<T: FromStr<Err: std::fmt::Debug>>(flag: &'static str, texts: &[&str]) -> Vec<Given<T>> {
    let each = |text: &&str| Given::by_flag(flag, text.parse().unwrap());
    texts.iter().map(each).collect()
}

/// The error as `sluice: error:` shows it.
fn line(settings: Settings) -> String {
    let error = settings.validate().unwrap_err();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_kernel_is_all_one_must_give() {
    let machine = Folder::new().settings().validate();
    // The folder is gone by now; the check was at the time.
    let machine = machine.unwrap();
    assert_eq!(machine.cpus, 1);
    assert_eq!(machine.memory.size, 1 << 30);
    assert_eq!(machine.cmdline, "console=ttyS0");
    assert_eq!(machine.serial, Serial::Stdio);
    assert!(!machine.no_reboot);
    let none = line(Settings::default());
    assert!(
        none.starts_with("--kernel: no kernel given; write --kernel PATH"),
        "{none}"
    );
}

#[test]
fn files_that_cannot_be_opened_are_named_with_the_flag_and_the_cause() {
    let folder = Folder::new();
    let mut s = folder.settings();
    s.kernel = Some(Given::by_flag("--kernel", "/nowhere/vmlinuz".into()));
    assert_eq!(
        line(s),
        "--kernel: cannot open /nowhere/vmlinuz for reading: No such file or directory (os error 2)"
    );
    let mut s = folder.settings();
    s.initrd = Some(Given::by_flag("--initrd", folder.0.path().into()));
    assert!(line(s).contains("is a folder; it must be a regular file"));
    let mut s = folder.settings();
    s.disk = given("--disk", &["path=/dev/null"]);
    assert!(line(s).contains("/dev/null is a character device; it must be an image file"));
    let mut s = folder.settings();
    s.cdrom = given("--cdrom", &["path=/nowhere.iso"]);
    assert!(line(s).starts_with("--cdrom: cannot open /nowhere.iso for reading: "));
}

#[test]
fn many_vcpus_need_wide_apic_ids() {
    let folder = Folder::new();
    let with = |cpus, iommu: Option<&str>| {
        let mut s = folder.settings();
        s.cpus = Some(Given::by_flag("--cpus", cpus));
        s.iommu = iommu.map(|text| Given::by_flag("--iommu", text.parse().unwrap()));
        s
    };
    for iommu in [None, Some("vtd,eim=off"), Some("vtd,intremap=off")] {
        assert!(line(with(256, iommu)).contains("do not reach all of 256 vCPUs"));
        assert_eq!(with(255, iommu).validate().unwrap().cpus, 255);
    }
    assert_eq!(with(1024, Some("vtd")).validate().unwrap().cpus, 1024);
}

#[test]
fn numbers_are_in_range() {
    let folder = Folder::new();
    for cpus in [0, 1025, u32::MAX] {
        let mut s = folder.settings();
        s.cpus = Some(Given::by_flag("--cpus", cpus));
        assert_eq!(
            line(s),
            format!("--cpus: {cpus} vCPUs are not possible; write a number from 1 to 1024")
        );
    }
    for (memory, want) in [
        (
            "8M",
            "--memory: 8M is too little; a machine needs at least 16M",
        ),
        ("20000K", "--memory: 20000K is no multiple of 1M"),
        ("33M,hugepages=2M", "--memory: 33M is no multiple of 2M"),
        ("1536M,hugepages=1G", "--memory: 1536M is no multiple of 1G"),
    ] {
        let mut s = folder.settings();
        s.memory = given("--memory", &[memory]).pop();
        assert_eq!(line(s), want);
    }
}

#[test]
fn one_image_is_written_by_one_drive_only() {
    let folder = Folder::new();
    symlink(folder.path("a.img"), folder.path("link")).unwrap();
    let disk = |name: &str, readonly| {
        let path = folder.path(name);
        Given::by_flag("--disk", Disk { path, readonly })
    };
    for (first, second, fine) in [
        (disk("a.img", false), disk("b.img", false), true),
        (disk("a.img", false), disk("a.img", false), false),
        (disk("a.img", false), disk("link", true), false),
        (disk("link", true), disk("a.img", false), false),
        (disk("a.img", true), disk("link", true), true),
    ] {
        let mut s = folder.settings();
        s.disk = vec![first, second];
        match fine {
            true => drop(s.validate().unwrap()),
            false => assert!(line(s).contains("is the same disk as the one at --disk")),
        }
    }
    let mut s = folder.settings();
    s.disk = vec![disk("a.img", true); MAX_DRIVES + 1];
    assert!(line(s).contains("5 disks and CD-ROMs are given; the IDE controller has 4 drives"));
}

#[test]
fn ports_are_chosen_around_those_asked_for() {
    let folder = Folder::new();
    let mut s = folder.settings();
    s.assign = given(
        "--assign",
        &["02:10.0", "02:10.2,port=1", "02:10.4", "02:10.6,port=3"],
    );
    let machine = s.validate().unwrap();
    let shown: Vec<_> = machine
        .assigns
        .iter()
        .map(|a| format!("{}={}", a.port, a.device.pci().unwrap().bdf))
        .collect();
    assert_eq!(shown, ["1=02:10.2", "2=02:10.0", "3=02:10.6", "4=02:10.4"]);
}

#[test]
fn two_devices_on_one_slot_are_both_named() {
    let folder = Folder::new();
    let mut s = folder.settings();
    s.assign = given("--assign", &["02:10.0,port=2", "0000:03:00.0,port=2"]);
    assert!(line(s).starts_with(
        "--assign: 0000:03:00.0 and 0000:02:10.0 are both on port 2 and are not functions of one device; "
    ));
    let mut s = folder.settings();
    s.assign = given("--assign", &["02:10.0", "0000:02:10.0,port=2"]);
    assert!(line(s).contains("0000:02:10.0 is given twice (also at --assign)"));
    let many: Vec<String> = (0..33)
        .map(|n| format!("02:{n:02x}.0", n = n % 32))
        .collect();
    let mut s = folder.settings();
    s.assign = many[..32]
        .iter()
        .map(|t| Given::by_flag("--assign", t.parse().unwrap()))
        .collect();
    s.assign.extend(given("--assign", &["03:00.0"]));
    assert!(line(s).contains("no port is left for 0000:03:00.0"));
}

#[test]
fn cards_do_not_collide() {
    let folder = Folder::new();
    let with = |nets: &[&str]| {
        let mut s = folder.settings();
        s.net = given("--net", nets);
        s
    };
    assert!(line(with(&["tap=tap0", "tap=tap0"])).contains("TAP tap0 is given twice"));
    let mac = "user,mac=02:00:00:00:00:01";
    assert!(line(with(&[mac, mac])).contains("MAC 02:00:00:00:00:01 is given twice"));
    let many: Vec<_> = (0..=MAX_NETS).map(|i| format!("tap=tap{i}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert!(line(with(&many)).contains("15 network cards are given"));
    assert!(with(&many[1..]).validate().is_ok());
    let forward = "user,forward=tcp:2222:22";
    assert!(line(with(&[forward, forward])).contains("forward=tcp:2222:22: the host's port"));
    assert!(line(with(&["tap=a-name-of-16-chs"])).contains("cannot be the name"));
    let two = with(&[
        "user,forward=tcp:2222:22,forward=udp:2222:22",
        "user",
        "tap=tap0",
    ]);
    let nets = two.clone().validate().unwrap().nets;
    assert_ne!(nets[0].mac, nets[1].mac);
    assert_eq!(
        nets,
        two.validate().unwrap().nets,
        "derived MACs are stable"
    );
}

#[test]
fn flags_win_over_the_file() {
    let mut file = Settings {
        cpus: Some(Given::by_flag("--cpus", 2)),
        cmdline: Some(Given::by_flag("--cmdline", "quiet".into())),
        ..Default::default()
    };
    file.assign = given("--assign", &["02:10.0", "02:10.2"]);
    let mut flags = Settings {
        cpus: Some(Given::by_flag("--cpus", 4)),
        ..Default::default()
    };
    flags.assign = given("--assign", &["03:00.0"]);
    let both = flags.over(file);
    assert_eq!(both.cpus.unwrap().value, 4);
    assert_eq!(both.cmdline.unwrap().value, "quiet");
    assert_eq!(both.assign.len(), 1);
}

#[test]
fn a_controlled_machine_has_empty_ports() {
    let folder = Folder::new();
    let control = |assigned: usize, ports: &str| {
        let mut s = folder.settings();
        let devices = (0..assigned).map(|n| format!("{:02x}:{:02x}.0", n / 32, n % 32));
        s.assign = devices
            .map(|device| Given::by_flag("--assign", device.parse().unwrap()))
            .collect();
        let text = format!("path={}{ports}", folder.path("ctl").display());
        s.control = given("--control", &[&text]).pop();
        s
    };
    let ports = |assigned, text| {
        let machine = control(assigned, text).validate().unwrap();
        let control = machine.control.unwrap();
        assert_eq!(control.path, folder.path("ctl"));
        control.ports
    };
    assert_eq!(folder.settings().validate().unwrap().control, None);
    assert_eq!(ports(2, ""), 4);
    assert_eq!(ports(30, ""), 2);
    assert_eq!(ports(32, ""), 0);
    assert_eq!(ports(0, ",ports=32"), 32);
    assert_eq!(ports(0, ",ports=0"), 0);
    assert_eq!(
        line(control(30, ",ports=3")),
        "--control: 3 empty ports are not left; a machine has 32, so write at most 2"
    );
}

#[test]
fn the_control_socket_has_a_place() {
    let folder = Folder::new();
    let at = |path: PathBuf| {
        let mut s = folder.settings();
        let text = format!("path={}", path.display());
        s.control = given("--control", &[&text]).pop();
        s
    };
    let socket = folder.path("ctl");
    let live = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = line(at(socket.clone()));
    let shown = socket.display();
    assert_eq!(
        error,
        format!("--control: at {shown} another process listens; name another path")
    );
    drop(live);
    assert!(at(socket.clone()).validate().is_ok());
    assert!(socket.exists(), "a check removes nothing");
    let error = line(at(folder.path("a.img")));
    assert!(
        error.contains("a.img is there already and is no socket"),
        "{error}"
    );
    let error = line(at(folder.path("none/ctl")));
    assert!(error.contains("there is no folder"), "{error}");
    let error = line(at(folder.path(&"x".repeat(120))));
    assert!(error.contains("bytes of at most 107"), "{error}");
}

#[test]
fn what_comes_and_goes_has_a_name_of_its_own() {
    let folder = Folder::new();
    let with = |assigns: &[&str], nets: &[&str], vfs: &[&str]| {
        let mut s = folder.settings();
        s.assign = given("--assign", assigns);
        s.net = given("--net", nets);
        s.vf = given("--vf", vfs);
        s
    };
    let vfs = ["03:00.0", "03:00.0,id=c", "03:00.0"];
    let machine = with(
        &["02:10.0", "02:10.2,id=a"],
        &["user", "tap=tap0,id=b"],
        &vfs,
    );
    let mut machine = machine.validate().unwrap();
    let mut assigned: Vec<_> = machine.assigns.iter().map(|a| a.id.clone()).collect();
    assigned.sort_unstable();
    let wanted = ["0000:02:10.0", "0000:03:00.0", "0000:03:00.0", "a", "c"];
    assert_eq!(assigned, wanted);
    let cards: Vec<_> = machine.nets.iter().map(|net| net.id.as_str()).collect();
    assert_eq!(cards, ["net0", "b"]);
    // What is lent is called by its own address, or as it was told.
    let lent = machine.assigns.iter_mut().filter(|a| a.lent.is_some());
    let mut lent: Vec<_> = lent
        .enumerate()
        .map(|(number, assign)| {
            assign.is_lent(format!("03:10.{number}").parse().unwrap());
            assign.id.clone()
        })
        .collect();
    lent.sort_unstable();
    assert!(lent[0].starts_with("0000:03:10.") && lent[1].starts_with("0000:03:10."));
    assert_eq!(lent[2], "c");
    for (assigns, nets, vfs) in [
        (&["02:10.0,id=a", "02:10.2,id=a"][..], &[][..], &[][..]),
        (&["02:10.0,id=a"], &["user,id=a"], &[]),
        (&["02:10.0,id=a"], &[], &["03:00.0,id=a"]),
        (&["02:10.0,id=net0"], &["user"], &[]),
    ] {
        let error = line(with(assigns, nets, vfs));
        assert!(error.contains(" is given twice (also at --"), "{error}");
        assert!(error.contains("id="), "{error}");
    }
}
