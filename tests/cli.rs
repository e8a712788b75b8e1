//! What the operator gets wrong: each is one clear line on standard error that names the
//! thing, exit status 1, and nothing left behind.

#[path = "bare_metal/guest.rs"]
#[allow(dead_code)]
mod guest;
#[path = "bare_metal/payload.rs"]
mod payload;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest::Guest;
use tempfile::TempDir;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// A folder with a kernel that is good enough to be opened and a disk.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().expect("a folder"));
        fs::write(desk.path("kernel"), [0; 4096]).expect("a kernel");
        fs::write(desk.path("disk.img"), [0; 1 << 16]).expect("a disk");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `sluice run`, with the kernel and `arguments`, in which `@` is this folder.
    fn run(&self, arguments: &str) -> Command {
        let mut command = Command::new(SLUICE);
        command.args(["run", "--kernel"]).arg(self.path("kernel"));
        command.args(self.words(arguments));
        command
    }

    fn words(&self, arguments: &str) -> Vec<String> {
        let folder = self.0.path().display().to_string();
        let words = arguments.split_whitespace();
        words.map(|word| word.replace('@', &folder)).collect()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("a folder");
        let name = |e: std::io::Result<fs::DirEntry>| e.expect("an entry").file_name();
        let mut names: Vec<_> = entries
            .map(|e| name(e).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Runs `command`, which fails with one line that holds all of `words`.
    fn fails(&self, command: &mut Command, words: &[&str]) -> String {
        let before = self.files();
        let line = fails(command, words);
        assert_eq!(self.files(), before, "files left behind after: {line}");
        line
    }

    fn fails_with(&self, arguments: &str, words: &[&str]) -> String {
        self.fails(&mut self.run(arguments), words)
    }
}

/// Runs `command` to its end, which is an error: one line with all of `words`.
fn fails(command: &mut Command, words: &[&str]) -> String {
    let begin = Instant::now();
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "something on standard output");
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "too slow: {said}"
    );
    let line = said.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n'), "more than a line:\n{said}");
    assert!(line.starts_with("sluice: error: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    line.to_owned()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// True if `program` runs; a test that needs it says so otherwise.
fn can(program: &str, arguments: &[&str]) -> bool {
    let run = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let can = run.is_ok_and(|status| status.success());
    if !can {
        eprintln!(
            "skipped: {program} {} is not possible here",
            arguments.join(" ")
        );
    }
    can
}

/// `command` without the right to read what its mode forbids, which root has.
fn without_privilege(command: &Command) -> Option<Command> {
    const DROP: &str = "-dac_override,-dac_read_search";
    if !is_root() {
        return Some(behind(&[], command));
    }
    if !can("setpriv", &["--bounding-set", DROP, "true"]) {
        return None;
    }
    let setpriv = ["setpriv", "--inh-caps", DROP, "--bounding-set", DROP];
    Some(behind(&setpriv, command))
}

/// `command` where /dev holds only what `prepare` (a shell script) makes.
fn with_empty_dev(command: &Command, prepare: &str) -> Option<Command> {
    let flags = ["--mount", "--propagation", "private", "sh", "-c"];
    let probe: Vec<&str> = [&flags[..], &["mount -t tmpfs none /dev"]].concat();
    if !can("unshare", &probe) {
        return None;
    }
    let script = format!("mount -t tmpfs none /dev && {prepare} && exec \"$0\" \"$@\"");
    let unshare: Vec<&str> = [&["unshare"], &flags[..], &[&script]].concat();
    Some(behind(&unshare, command))
}

/// `command` as the arguments of another that runs it.
fn behind(runner: &[&str], command: &Command) -> Command {
    let words = runner.iter().map(AsRef::as_ref);
    let mut words = words
        .chain([command.get_program()])
        .chain(command.get_args());
    let mut other = Command::new(words.next().expect("a program"));
    other.args(words);
    other
}

#[test]
fn no_dev_kvm() {
    let Some(kernel) = payload::payload("serial") else {
        return;
    };
    let desk = Desk::new();
    let mut run = Command::new(SLUICE);
    run.args(["run", "--kernel"]).arg(kernel);
    if let Some(mut command) = with_empty_dev(&run, "true") {
        desk.fails(&mut command, &["no /dev/kvm"]);
    }
    // Something is there, and it is no KVM.
    if let Some(mut command) = with_empty_dev(&run, "mknod -m 666 /dev/kvm c 1 3") {
        desk.fails(&mut command, &["/dev/kvm"]);
    }
    // It is there, and not for us.
    let node = "mknod -m 000 /dev/kvm c 10 232";
    let command = without_privilege(&run).and_then(|run| with_empty_dev(&run, node));
    if let Some(mut command) = command {
        desk.fails(&mut command, &["/dev/kvm", "ermission denied"]);
    }
}

#[test]
fn kernels() {
    let desk = Desk::new();
    let kernel = |name: &str| {
        let mut command = Command::new(SLUICE);
        command.args(["run", "--kernel"]).arg(desk.path(name));
        command
    };
    desk.fails(Command::new(SLUICE).arg("run"), &["--kernel"]);
    desk.fails(
        &mut kernel("nothing"),
        &["--kernel", "nothing", "No such file"],
    );
    fs::create_dir(desk.path("folder")).expect("a folder");
    desk.fails(&mut kernel("folder"), &["folder", "regular file"]);
    // Neither a bzImage nor an ELF file.
    desk.fails(&mut kernel("kernel"), &["kernel"]);
    fs::write(desk.path("empty"), "").expect("a file");
    desk.fails(&mut kernel("empty"), &["empty"]);

    fs::set_permissions(desk.path("kernel"), PermissionsExt::from_mode(0o000)).expect("its mode");
    if let Some(mut command) = without_privilege(&kernel("kernel")) {
        desk.fails(&mut command, &["kernel", "ermission denied"]);
    }
}

#[test]
fn initrds() {
    let desk = Desk::new();
    desk.fails_with("--initrd @/nothing", &["--initrd", "nothing"]);
}

#[test]
fn disks() {
    let desk = Desk::new();
    desk.fails_with(
        "--disk path=@/nothing",
        &["--disk", "nothing", "No such file"],
    );
    desk.fails_with("--disk path=@", &["--disk", "folder"]);
    desk.fails_with("--cdrom path=@/nothing", &["--cdrom", "nothing"]);
    desk.fails_with("--disk path=/dev/null", &["/dev/null"]);
    let twice = "--disk path=@/disk.img --disk path=@/./disk.img";
    desk.fails_with(twice, &["disk.img", "same disk"]);
    desk.fails_with("--disk path=@/disk.img,rw", &["--disk", "rw"]);

    fs::set_permissions(desk.path("disk.img"), PermissionsExt::from_mode(0o400)).expect("mode");
    if let Some(mut command) = without_privilege(&desk.run("--disk path=@/disk.img")) {
        desk.fails(&mut command, &["disk.img", "writing", "ermission denied"]);
    }
}

#[test]
fn a_disk_in_use_by_another_sluice() {
    let desk = Desk::new();
    let disk = format!("path={}", desk.path("disk.img").display());
    let Some(first) = Guest::start("serial", "bytes=1", &["--disk", &disk]) else {
        return;
    };
    first.expect("READY\n");
    let kernel = payload::payload("serial").expect("it was built");
    let mut second = Command::new(SLUICE);
    second.args(["run", "--kernel"]).arg(&kernel);
    desk.fails(second.args(["--disk", &disk]), &["disk.img", "in use"]);
    let mut third = Command::new(SLUICE);
    third.args(["run", "--kernel"]).arg(&kernel);
    desk.fails(
        third.args(["--disk", &format!("{disk},readonly")]),
        &["disk.img", "in use"],
    );
    // Killed, it leaves nothing locked.
    drop(first);
    let mut again = Guest::start("serial", "bytes=1", &["--disk", &disk]).expect("as before");
    again.expect("READY\n");
    again.send(b"x");
    again.passes();
}

#[test]
fn memory_that_does_not_fit() {
    let desk = Desk::new();
    desk.fails_with("--memory 4", &["--memory"]);
    desk.fails_with("--memory 4X", &["--memory", "4X"]);
    desk.fails_with("--memory 8M", &["--memory", "8M"]);
    // The kernel is looked at last, so a real one is not needed for what follows.
    let Some(kernel) = payload::payload("serial") else {
        return;
    };
    for memory in ["30T", "4096P"] {
        let mut command = Command::new(SLUICE);
        command.args(["run", "--kernel"]).arg(&kernel);
        desk.fails(command.args(["--memory", memory]), &["--memory", memory]);
    }
    let free = "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages";
    if fs::read_to_string(free).is_ok_and(|free| free.trim() == "0") {
        let mut command = Command::new(SLUICE);
        command.args(["run", "--kernel"]).arg(&kernel);
        let flags = ["--memory", "1G,hugepages=1G"];
        desk.fails(command.args(flags), &["--memory", "1G"]);
    }
}

#[test]
fn toml_keys() {
    let desk = Desk::new();
    let run = |text: &str, words: &[&str]| {
        fs::write(desk.path("vm.toml"), text).expect("a file");
        let mut command = Command::new(SLUICE);
        command.args(["run", "--config"]).arg(desk.path("vm.toml"));
        desk.fails(&mut command, words);
    };
    run(
        "kernel = 'kernel'\n\nkernal = 'k'\n",
        &["vm.toml:3", "kernal"],
    );
    run("kernel = 'kernel'\ncpus = 'four'\n", &["vm.toml:2", "cpus"]);
    run(
        "kernel = 'kernel'\n[[disk]]\npath = 'no.img'\n",
        &["vm.toml:2", "no.img"],
    );
    run("kernel = 'kernel\n", &["vm.toml:1"]);
    let mut command = Command::new(SLUICE);
    command
        .args(["run", "--config"])
        .arg(desk.path("nothing.toml"));
    desk.fails(&mut command, &["nothing.toml", "No such file"]);
}

#[test]
fn flags() {
    let desk = Desk::new();
    desk.fails_with("--cpus 0", &["--cpus"]);
    desk.fails_with("--cpus 1000", &["--cpus", "1000"]);
    desk.fails_with("--colour", &["--colour"]);
    desk.fails_with("--serial telnet", &["--serial", "telnet"]);
    desk.fails_with("--serial file=@/no/such/log", &["--serial", "/no/such/log"]);
    desk.fails(&mut Command::new(SLUICE), &["command"]);
}

#[test]
fn assigned_devices() {
    let desk = Desk::new();
    desk.fails_with("--assign 0000:fe:1f.7", &["0000:fe:1f.7"]);
    desk.fails_with("--assign lp0", &["--assign", "lp0"]);
    let line = desk.fails_with(
        "--assign 0000:02:10.0,port=3 --assign 0000:03:00.0,port=3",
        &["0000:02:10.0", "0000:03:00.0", "port 3"],
    );
    assert!(!line.contains("no PCI device"), "{line}");
    desk.fails_with(
        "--assign 02:10.0 --assign 02:10.0",
        &["0000:02:10.0", "twice"],
    );
    // A function of this machine's that its own driver has.
    let Ok(mut functions) = fs::read_dir("/sys/bus/pci/devices") else {
        eprintln!("skipped: this machine has no PCI");
        return;
    };
    let bound = functions.find_map(|entry| {
        let path = entry.ok()?.path();
        let driver = fs::canonicalize(path.join("driver")).ok()?;
        let theirs = !driver.ends_with("vfio-pci");
        theirs.then(|| path.file_name().map(|n| n.to_string_lossy().into_owned()))?
    });
    match bound {
        Some(function) => {
            desk.fails_with(&format!("--assign {function}"), &[&function]);
        }
        None => eprintln!("skipped: no PCI function of this machine's has a driver"),
    }
}

#[test]
fn taps() {
    let Some(kernel) = payload::payload("serial") else {
        return;
    };
    let desk = Desk::new();
    let run = |net: &str| {
        let mut command = Command::new(SLUICE);
        command.args(["run", "--kernel"]).arg(&kernel);
        command.args(["--net", net]);
        command
    };
    desk.fails(&mut run("tap=nosuchtap0"), &["nosuchtap0"]);
    desk.fails(&mut run("tap=a/b"), &["a/b"]);
    desk.fails(
        &mut run("tap=this-name-is-too-long"),
        &["this-name-is-too-long"],
    );
    desk.fails(&mut run("bridge=br0"), &["--net", "bridge"]);
    // An interface that is no TAP.
    desk.fails(&mut run("tap=lo"), &["lo"]);
    assert!(Path::new("/sys/class/net/lo").exists());
    assert!(
        !Path::new("/sys/class/net/nosuchtap0").exists(),
        "it was made"
    );
}

#[test]
fn a_socket_is_gone_after_an_error() {
    let Some(kernel) = payload::payload("serial") else {
        return;
    };
    let desk = Desk::new();
    let socket = format!("socket={}", desk.path("console").display());
    let mut command = Command::new(SLUICE);
    command.args(["run", "--kernel"]).arg(&kernel);
    command.args(["--serial", &socket, "--net", "tap=nosuchtap0"]);
    desk.fails(&mut command, &["nosuchtap0"]);
    // Something else is at its place: it stays.
    let taken = format!("socket={}", desk.path("disk.img").display());
    let mut command = Command::new(SLUICE);
    command.args(["run", "--kernel"]).arg(&kernel);
    desk.fails(command.args(["--serial", &taken]), &["disk.img"]);
}

#[test]
fn the_control_socket() {
    let desk = Desk::new();
    desk.fails_with("--control @/ctl", &["--control", "known: path, ports"]);
    desk.fails_with("--control path=@/disk.img", &["--control", "disk.img"]);
    desk.fails_with("--control path=@/no/ctl", &["--control", "/no"]);
    desk.fails_with("--control path=@/ctl,ports=33", &["--control", "33"]);
    let long = format!("--control path=@/{}", "x".repeat(120));
    desk.fails_with(&long, &["--control", "too long"]);
    let live = std::os::unix::net::UnixListener::bind(desk.path("ctl")).expect("a socket");
    desk.fails_with("--control path=@/ctl", &["--control", "another process"]);
    drop(live);
}

#[test]
fn a_machine_that_is_not_running() {
    let desk = Desk::new();
    let ctl = |socket: &str, arguments: &str| {
        let mut command = Command::new(SLUICE);
        command.arg("ctl").arg(desk.path(socket));
        command.args(desk.words(arguments));
        command
    };
    let nobody = ["no machine listens at", "ctl", "No such file"];
    desk.fails(&mut ctl("ctl", "list"), &nobody);
    desk.fails(&mut ctl("ctl", "list --json"), &nobody);
    desk.fails(&mut ctl("ctl", "remove a --force"), &nobody);
    desk.fails(&mut ctl("ctl", "add --net user"), &nobody);
    desk.fails(
        &mut ctl("disk.img", "list"),
        &["no machine listens at", "disk.img", "refused"],
    );
    desk.fails(&mut ctl("ctl", "add --assign lp0"), &["--assign", "lp0"]);
    desk.fails(&mut ctl("ctl", "add"), &["--assign", "--net"]);
    drop(std::os::unix::net::UnixListener::bind(desk.path("ctl")).expect("a socket"));
    desk.fails(
        &mut ctl("ctl", "list"),
        &["no machine listens at", "ctl", "refused"],
    );
}

#[test]
fn a_machine_that_is_running() {
    let desk = Desk::new();
    let socket = format!("path={},ports=2", desk.path("ctl").display());
    let Some(mut guest) = Guest::start("serial", "bytes=1", &["--control", &socket]) else {
        return;
    };
    guest.expect("READY\n");
    let mode = fs::metadata(desk.path("ctl"))
        .expect("a socket")
        .permissions();
    assert_eq!(mode.mode() & 0o7777, 0o600);
    let ctl = |arguments: &str| {
        let mut command = Command::new(SLUICE);
        command.arg("ctl").arg(desk.path("ctl"));
        command.args(arguments.split(' '));
        command
    };
    let list = ctl("list").output().expect("it starts");
    assert!(list.status.success());
    assert_eq!(
        String::from_utf8_lossy(&list.stdout),
        "Nothing is plugged in.\nFree root ports: 1, 2\n"
    );
    desk.fails(&mut ctl("remove disk"), &["disk", "list"]);
    desk.fails(&mut ctl("add --assign 0000:fe:1f.7"), &["0000:fe:1f.7"]);
    desk.fails_with("--control path=@/ctl", &["--control", "another process"]);
    guest.send(b"x");
    guest.passes();
    assert!(!desk.path("ctl").exists());
}
