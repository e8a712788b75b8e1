use super::*;
use proptest::prelude::*;

fn error<T: FromStr<Err: fmt::Display> + fmt::Debug>(text: &str) -> String {
    match text.parse::<T>() {
        Ok(value) => panic!("{text} was taken as {value:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn memory() {
    let m: MemorySpec = "4G,hugepages=2M".parse().unwrap();
    assert_eq!((m.size, m.huge_pages), (4 << 30, HugePages::Size2M));
    let m: MemorySpec = "512M".parse().unwrap();
    assert_eq!(m.huge_pages, HugePages::Transparent);
    assert!(error::<MemorySpec>("4G,hugepages=4M").contains("off, transparent, 2M, 1G"));
    assert!(error::<MemorySpec>("4G,huge=2M").contains("known: hugepages"));
    assert!(error::<MemorySpec>("4096").contains("4096M"));
    assert!(error::<MemorySpec>("").contains("SIZE"));
}

#[test]
fn disks_and_discs() {
    let d: Disk = "path=/a,,b.img,readonly".parse().unwrap();
    assert_eq!((d.path.to_str(), d.readonly), (Some("/a,b.img"), true));
    assert!(error::<Disk>("readonly").contains("path=…"));
    assert!(error::<Disk>("/a.img").contains("unknown option '/a.img'; known: path, readonly"));
    assert!(error::<Cdrom>("path=/a,readonly").contains("known: path"));
}

#[test]
fn nets() {
    let n: NetSpec = "tap=tap0,mac=02:00:00:00:00:01".parse().unwrap();
    assert_eq!(n.backend, NetBackend::Tap("tap0".into()));
    assert_eq!(n.mac.unwrap().to_string(), "02:00:00:00:00:01");
    let n: NetSpec = "user,forward=tcp:2222:22,forward=udp:127.0.0.1/5353:53,forward=8080"
        .parse()
        .unwrap();
    let NetBackend::User(forwards) = n.backend else {
        panic!()
    };
    let shown: Vec<_> = forwards.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["tcp:2222:22", "udp:127.0.0.1/5353:53", "tcp:8080:8080"]
    );
    for text in ["", "mac=02:00:00:00:00:01", "tap=tap0,user"] {
        assert!(
            error::<NetSpec>(text).contains("tap=NAME or user"),
            "{text}"
        );
    }
    assert!(error::<NetSpec>("tap=tap0,forward=tcp:1:1").contains("user networking"));
    assert!(error::<NetSpec>("user,mac=01:00:00:00:00:00").contains("multicast"));
    assert!(error::<NetSpec>("user,mac=00:00:00:00:00:00").contains("not an address"));
    for forward in ["tcp:0:22", "tcp:", "sctp:1:1", "tcp:70000:1", "x/1:1"] {
        assert!(error::<NetSpec>(&format!("user,forward={forward}")).contains("tcp:2222:22"));
    }
}

#[test]
fn assigned_devices() {
    let a: AssignSpec = "02:10.0,port=3".parse().unwrap();
    assert_eq!(
        (a.device.to_string().as_str(), a.port),
        ("0000:02:10.0", Some(3))
    );
    assert_eq!("0000:02:10.0".parse::<AssignSpec>().unwrap().port, None);
    for port in ["0", "33", "-1", "x"] {
        let text = format!("02:10.0,port={port}");
        assert!(error::<AssignSpec>(&text).contains("from 1 to 32"));
    }
    assert!(error::<AssignSpec>("port=3").contains("is not a PCI address"));
}

#[test]
fn devices_without_an_address() {
    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    let device = |text: &str| text.parse::<AssignSpec>().unwrap().device.to_string();
    assert_eq!(
        device(&format!("mdev={UUID},port=2")),
        format!("mdev {UUID}")
    );
    assert_eq!(device(UUID), format!("mdev {UUID}"));
    assert_eq!(device("fd=5,port=2"), "fd=5");
    assert!(error::<AssignSpec>("mdev=5").contains("mdev: '5' is not a UUID"));
    for fd in ["fd=", "fd=-1", "fd=x", "fd=99999999999"] {
        assert!(
            error::<AssignSpec>(fd).contains("is no file descriptor"),
            "{fd}"
        );
    }
}

#[test]
fn interfaces() {
    let given = |text: &str| {
        let a: AssignSpec = text.parse().unwrap();
        (a.interface, a.iommufd)
    };
    assert_eq!(given("02:10.0"), (Interface::Auto, None));
    assert_eq!(given("02:10.0,iommu=type1"), (Interface::Type1, None));
    assert_eq!(given("fd=5,iommufd=4"), (Interface::Auto, Some(4)));
    assert!(error::<AssignSpec>("02:10.0,iommu=on").contains("auto, iommufd, type1"));
    assert!(error::<AssignSpec>("02:10.0,iommufd=x").contains("is no file descriptor"));
    for interface in Interface::ALL {
        assert_eq!(interface.to_string().parse(), Ok(interface));
    }
}

#[test]
fn how_an_assigned_device_is_shown() {
    let shown = |text: &str| text.parse::<AssignSpec>().unwrap().presentation;
    assert_eq!(shown("02:10.0"), Presentation::default());
    let p = shown("02:10.0,rom=/a,,b.rom,no-mmap,hide=msix+aer");
    assert_eq!(p.rom, RomSource::File("/a,b.rom".into()));
    assert!(p.no_mmap);
    assert_eq!(p.hide, ["msix", "aer"].map(|name| name.parse().unwrap()));
    assert_eq!(shown("02:10.0,rom=on").rom, RomSource::Device);
    assert_eq!(shown("02:10.0,rom=off").rom, RomSource::Off);
    assert!(error::<AssignSpec>("02:10.0,hide=msi-x").contains("hide: 'msi-x' is no"));
    assert!(error::<AssignSpec>("02:10.0,no-mmap=on").contains("takes no value"));
    assert!(error::<AssignSpec>("02:10.0,rom=").contains("needs a value"));
    assert_eq!(shown("02:10.0,clique=15").clique, "15".parse().ok());
    assert!(error::<AssignSpec>("02:10.0,clique=16").contains("a number from 0 to 15"));
}

#[test]
fn what_is_done_when_it_fails() {
    let on_error = |text: &str| text.parse::<AssignSpec>().unwrap().on_error;
    assert_eq!(on_error("02:10.0"), OnError::Report);
    assert_eq!(on_error("02:10.0,on-error=quarantine"), OnError::Quarantine);
    assert!(error::<AssignSpec>("02:10.0,on-error=stop").contains("report or quarantine"));
}

#[test]
fn ids() {
    let a: AssignSpec = "02:10.0,port=3,id=vf-1".parse().unwrap();
    assert_eq!(a.id.as_deref(), Some("vf-1"));
    assert_eq!("02:10.0".parse::<AssignSpec>().unwrap().id, None);
    let n: NetSpec = "user,id=lan".parse().unwrap();
    assert_eq!(n.id.as_deref(), Some("lan"));
    assert!(error::<AssignSpec>("02:10.0,id=a b").contains("id: 'a b' is no id"));
    assert!(error::<NetSpec>("user,id=02:10.0").contains("id: '02:10.0' is a PCI address"));
    assert!(error::<NetSpec>("user,id=").contains("'id' needs a value"));
}

#[test]
fn serial() {
    assert_eq!("stdio".parse(), Ok(Serial::Stdio));
    assert_eq!("file=/x,,y".parse(), Ok(Serial::File("/x,y".into())));
    assert_eq!("socket=/s".parse(), Ok(Serial::Socket("/s".into())));
    for text in ["", "stdio,file=/x", "file=/x,socket=/y"] {
        assert!(error::<Serial>(text).contains("write stdio, file=… or socket=…"));
    }
}

proptest! {
    #[test]
    fn no_text_panics(
        text in "[a-z0-9=,:./]{0,40}|\\PC{0,20}|(fd|mdev|iommu|iommufd|,|=|[0-9a-f-]){0,12}",
    ) {
        let _ = text.parse::<MemorySpec>();
        let _ = text.parse::<NetSpec>();
        let _ = text.parse::<AssignSpec>();
        let _ = text.parse::<Disk>();
        let _ = text.parse::<Serial>();
    }
}
