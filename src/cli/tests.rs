//! Whole command lines.

use super::*;
use crate::config::{NetBackend, Serial};
use crate::memory::HugePages;
use std::path::PathBuf;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["kernel", "initrd", "disk", "iso"] {
            folder.write(name, "x");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Parses a command line in which `@` stands for the folder.
    fn parse(&self, line: &str) -> Result<Command, CliError> {
        let folder = self.0.path().to_str().unwrap();
        let words = line.split(' ').map(|w| w.replace('@', folder).into());
        parse(std::iter::once("sluice".into()).chain(words))
    }

    fn machine(&self, line: &str) -> Machine {
        match self
            .parse(line)
            .unwrap_or_else(|e| panic!("{}", one_line(&e)))
        {
            Command::Run(machine) => *machine,
            other => panic!("{other:?}"),
        }
    }

    fn error(&self, line: &str) -> String {
        let line = one_line(&self.parse(line).unwrap_err());
        assert!(!line.contains('\n'), "{line}");
        line.replace(self.0.path().to_str().unwrap(), "@")
    }
}

#[test]
fn every_flag_reaches_the_machine() {
    let folder = Folder::new();
    let m = folder.machine(
        "run --kernel @/kernel --initrd @/initrd --cmdline quiet --cpus 4 \
         --memory 2G,hugepages=off --disk path=@/disk,readonly --cdrom path=@/iso \
         --net tap=tap0 --net user,forward=tcp:2222:22 --assign 02:10.0,port=2 \
         --assign 0000:02:10.2 --vf 02:00.0,mac=02:00:00:00:00:01,port=3 --serial file=@/log --no-reboot \
         --control path=@/ctl,ports=7",
    );
    assert_eq!(m.kernel, folder.path("kernel"));
    assert_eq!(m.initrd, Some(folder.path("initrd")));
    assert_eq!((m.cmdline.as_str(), m.cpus), ("quiet", 4));
    assert_eq!(
        (m.memory.size, m.memory.huge_pages),
        (2 << 30, HugePages::Off)
    );
    assert!(m.disks[0].readonly && m.cdroms.len() == 1);
    assert_eq!(m.nets[0].backend, NetBackend::Tap("tap0".into()));
    assert!(matches!(&m.nets[1].backend, NetBackend::User(f) if f.len() == 1));
    assert_eq!((m.assigns[0].port, m.assigns[1].port), (1, 2));
    let lent = m.assigns[2].lent.unwrap();
    assert_eq!((m.assigns[2].port, lent.mac.is_some()), (3, true));
    assert_eq!(m.serial, Serial::File(folder.path("log")));
    assert!(m.no_reboot);
    let control = m.control.unwrap();
    assert_eq!((control.path, control.ports), (folder.path("ctl"), 7));
}

#[test]
fn a_file_says_the_same_and_flags_win() {
    let folder = Folder::new();
    folder.write(
        "vm.toml",
        "kernel = 'kernel'\ncmdline = 'quiet'\ncpus = 2\nno-reboot = true\nmemory = '2G'\n",
    );
    let by_file = folder.machine("run --config @/vm.toml");
    let by_flags =
        folder.machine("run --kernel @/kernel --cmdline quiet --cpus 2 --memory 2G --no-reboot");
    assert_eq!(by_file, by_flags);
    let m = folder.machine("run --config @/vm.toml --cpus 8 --no-reboot=false");
    assert_eq!(
        (m.cpus, m.no_reboot, m.cmdline.as_str()),
        (8, false, "quiet")
    );
}

#[test]
fn wrong_input_is_one_clear_line() {
    let folder = Folder::new();
    folder.write("bad.toml", "kernel = 'kernel'\ncpu = 2\n");
    folder.write("none.toml", "\nkernel = 'nowhere'\n");
    for (line, want) in [
        ("run", "--kernel: no kernel given; write --kernel PATH"),
        (
            "run --kernel @/nowhere",
            "--kernel: cannot open @/nowhere for reading: No such file",
        ),
        (
            "run --kernel @/kernel --disk file=x",
            "--disk file=x: unknown option 'file'; known: path, readonly",
        ),
        (
            "run --kernel @/kernel --memory 4X",
            "--memory 4X: SIZE: '4X' is not a size",
        ),
        (
            "run --kernel @/kernel --assign 02:10",
            "--assign 02:10: BDF: '02:10' is not a PCI address",
        ),
        (
            "run --kernel @/kernel --control @/ctl",
            "--control @/ctl: unknown option '@/ctl'; known: path, ports",
        ),
        (
            "run --kernel @/kernel --control path=@/disk",
            "--control: @/disk is there already and is no socket; remove it",
        ),
        (
            "ctl @/ctl add --assign 02:10",
            "--assign 02:10: BDF: '02:10' is not a PCI address",
        ),
        (
            "ctl @/ctl remove",
            "the following required arguments were not provided: <ID>",
        ),
        (
            "run --kernel @/kernel --cpus x",
            "invalid value 'x' for '--cpus <N>'",
        ),
        (
            "run --kernel @/kernel --cpu 2",
            "unexpected argument '--cpu' found",
        ),
        (
            "run --kernel @/kernel extra",
            "unexpected argument 'extra' found",
        ),
        (
            "devices lp0",
            "invalid value 'lp0' for '[BDF]...': 'lp0' is not a PCI address",
        ),
        (
            "run --config @/bad.toml",
            "@/bad.toml:2: cpu: unknown key `cpu`, the known keys are `kernel`",
        ),
        (
            "run --config @/none.toml",
            "@/none.toml:2: kernel: cannot open @/nowhere for reading",
        ),
        (
            "run --config @/absent.toml",
            "--config @/absent.toml: cannot read it: No such file",
        ),
        ("walk", "unrecognized subcommand 'walk'"),
    ] {
        let error = folder.error(line);
        assert!(error.starts_with(want), "{line}: {error}");
    }
}

#[test]
fn what_to_change_of_the_host() {
    let folder = Folder::new();
    match folder.parse("bind 03:00.0 0000:03:00.1 --force").unwrap() {
        Command::Bind(bind) => assert!(bind.force && bind.functions.len() == 2),
        other => panic!("{other:?}"),
    }
    match folder.parse("release 03:00.0").unwrap() {
        Command::Release(release) => assert_eq!(release.functions.len(), 1),
        other => panic!("{other:?}"),
    }
    match folder.parse("sriov 02:00.0 --vfs 4 --vf 1,vlan=7").unwrap() {
        Command::Sriov(sriov, vfs) => {
            assert_eq!((sriov.vfs, vfs[0].number), (Some(4), 1));
        }
        other => panic!("{other:?}"),
    }
    assert!(folder.parse("sriov 02:00.0 show").is_ok());
    for (line, says) in [
        ("bind", "required arguments were not provided: <BDF>"),
        ("release lp0", "'lp0' is not a PCI address"),
        ("sriov 02:00.0 show --vfs 4", "cannot be used with"),
        ("sriov 02:00.0 --vfs many", "invalid value 'many'"),
        (
            "sriov 02:00.0 --vf 1,vlan=x",
            "--vf 1,vlan=x: vlan: 'x' is no VLAN",
        ),
    ] {
        let error = folder.error(line);
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn what_to_show_of_the_host() {
    let folder = Folder::new();
    let devices = |line| match folder.parse(line).unwrap() {
        Command::Devices(devices) => devices,
        other => panic!("{other:?}"),
    };
    let all = devices("devices --json");
    assert!(all.json && all.only.is_empty());
    let some = devices("devices 02:10.0 0000:02:10.2");
    let names: Vec<_> = some.only.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["0000:02:10.0", "0000:02:10.2"]);
    assert!(!some.json);
    assert!(matches!(folder.parse("check").unwrap(), Command::Check));
}

#[test]
fn no_command_is_told_and_not_answered_with_a_page() {
    let error = parse(["sluice".into()]).unwrap_err();
    assert_eq!(one_line(&error), "no command given; see sluice --help");
}

#[test]
fn help_and_version_are_shown() {
    let folder = Folder::new();
    for (line, want) in [
        ("--help", "run"),
        ("run --help", "--assign"),
        ("--version", "sluice"),
    ] {
        match folder.parse(line).unwrap() {
            Command::Show(text) => assert!(text.contains(want), "{text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn causes_are_joined_and_told_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("top")]
    struct Top(#[source] Middle);
    #[derive(Debug, thiserror::Error)]
    #[error("middle:\n  {0}")]
    struct Middle(#[source] std::io::Error);
    let error = Top(Middle(std::io::Error::other("bottom")));
    assert_eq!(one_line(&error), "top: middle: bottom");
}
