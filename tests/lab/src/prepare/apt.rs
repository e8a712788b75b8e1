//! Debian packages, from the machine's own mirror.
//!
//! The machine's sources are left as they are: apt is pointed at private copies. One has the suites of the machine's
//! own release, for what is installed. The other has those of [`PARTS_RELEASE`] and knows of nothing installed, for
//! what is only unpacked. Package lists lie beside them, so nothing the machine has is refreshed.

use super::step;
use crate::error::{Context, Error, Result, fail};
use crate::process::{on_path, output_of};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program the lab runs and the package that brings it.
const PROGRAMS: [(&str, &str); 11] = [
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("lspci", "pciutils"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("passt", "passt"),
    ("mkfs.ext4", "e2fsprogs"),
    ("xorriso", "xorriso"),
    ("xz", "xz-utils"),
    // For the tests of the ACPI tables.
    ("iasl", "acpica-tools"),
    // For the fuzzer, which is compiled with it.
    ("c++", "g++"),
];

/// The Debian release whose kernel and QEMU make up the emulated host, whatever the machine itself runs.
const PARTS_RELEASE: &str = "trixie";

/// A private view of the package archive.
pub struct Apt {
    directory: PathBuf,
    suites: Suites,
    updated: Cell<bool>,
}

/// What a view is of.
enum Suites {
    /// The machine's own release.
    Installable,
    /// [`PARTS_RELEASE`], with nothing installed.
    Parts,
}

impl Apt {
    /// The view of what can be installed on this machine, kept in `directory`; nothing is written until something is
    /// missing.
    pub fn of_this_machine(directory: PathBuf) -> Self {
        Self {
            directory,
            suites: Suites::Installable,
            updated: Cell::new(false),
        }
    }

    /// The view of what the emulated host is made of.
    pub fn of_parts(directory: PathBuf) -> Self {
        Self {
            directory,
            suites: Suites::Parts,
            updated: Cell::new(false),
        }
    }

    /// Installs the programs that are not there yet.
    pub fn install_missing(&self) -> Result<()> {
        let missing: Vec<&str> = PROGRAMS
            .iter()
            .filter(|(program, _)| !on_path(program))
            .map(|(_, package)| *package)
            .collect();
        self.install_packages(&missing)
    }

    /// Installs these packages, if there are any.
    pub fn install_packages(&self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        self.update()?;
        step(&format!("installing {}", packages.join(" ")), || {
            let mut command = self.privileged("apt-get");
            command
                .args(["-q", "-y", "--no-install-recommends", "install"])
                .env("DEBIAN_FRONTEND", "noninteractive");
            output_of(command.args(packages)).map(drop)
        })
    }

    /// The names of packages that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.update()?;
        let names = output_of(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads a package's archive into `directory`, without installing it.
    pub fn download(&self, package: &str, directory: &Path) -> Result<()> {
        output_of(
            self.command("apt-get")
                .args(["-q", "download", package])
                .current_dir(directory),
        )?;
        Ok(())
    }

    /// Downloads the archives of a package and of all it needs into `directory`, preferring backports.
    pub fn download_with_dependencies(&self, package: &str, directory: &Path) -> Result<()> {
        self.update()?;
        let partial = directory.join("partial");
        fs::create_dir_all(&partial).path(&partial)?;
        let mut command = self.command("apt-get");
        command.arg("-o");
        command.arg(format!("Dir::Cache::archives={}", directory.display()));
        command.args(["-q", "-y", "--no-install-recommends", "--download-only"]);
        command.arg("-t").arg(format!("{PARTS_RELEASE}-backports"));
        output_of(command.args(["install", package])).map(drop)
    }

    /// Reads the package lists, once a run.
    pub fn update(&self) -> Result<()> {
        if self.updated.get() {
            return Ok(());
        }
        let what = match self.suites {
            Suites::Installable => "reading the package lists".to_owned(),
            Suites::Parts => format!("reading the package lists of Debian {PARTS_RELEASE}"),
        };
        step(&what, || {
            let sources = self.directory.join("sources");
            for directory in [&sources, &self.directory.join("lists/partial")] {
                fs::create_dir_all(directory).path(directory)?;
            }
            let written = sources.join("lab.sources");
            let codename = codename()?;
            let own = own_stanzas(&codename)?;
            let text = match self.suites {
                Suites::Installable => own.join("\n\n"),
                Suites::Parts => parts_stanza(&own, &codename)?,
            };
            fs::write(&written, text + "\n").path(&written)?;
            let status = self.directory.join("status");
            fs::write(&status, "").path(&status)?;
            output_of(self.command("apt-get").args(["-q", "update"]))
        })?;
        self.updated.set(true);
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        self.with_options(Command::new(program))
    }

    fn privileged(&self, program: &str) -> Command {
        if nix::unistd::geteuid().is_root() {
            return self.command(program);
        }
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        self.with_options(command)
    }

    fn with_options(&self, mut command: Command) -> Command {
        let shown = self.directory.display();
        for option in [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={shown}/sources"),
            format!("Dir::State::lists={shown}/lists"),
            // The cache may lie where apt's own user cannot go.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        if let Suites::Parts = self.suites {
            for option in [
                format!("Dir::State::status={shown}/status"),
                // Nothing of the machine's is read or written, so nothing need be locked.
                "Dir::Cache::pkgcache=".to_owned(),
                "Dir::Cache::srcpkgcache=".to_owned(),
                "Debug::NoLocking=true".to_owned(),
            ] {
                command.arg("-o").arg(option);
            }
        }
        command
    }
}

/// Unpacks all the packages in `archives` into one tree.
pub fn unpack_all(archives: &Path, root: &Path) -> Result<()> {
    for entry in fs::read_dir(archives).path(archives)?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "deb") {
            output_of(Command::new("dpkg").arg("-x").arg(entry.path()).arg(root))?;
        }
    }
    Ok(())
}

fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .ok_or_else(|| {
            Error::Other("/etc/os-release names no Debian release (VERSION_CODENAME)".into())
        })
}

/// The machine's own stanzas for `codename`, in the one format.
fn own_stanzas(codename: &str) -> Result<Vec<String>> {
    let mut stanzas = Vec::new();
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for path in parts.chain([PathBuf::from("/etc/apt/sources.list")]) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas.extend(deb822_stanzas(&text)),
            Some("list") => stanzas.extend(text.lines().filter_map(one_line_stanza)),
            _ => {}
        }
    }
    stanzas.retain(|stanza| is_of_release(stanza, codename));
    if stanzas.is_empty() {
        return fail(format!(
            "/etc/apt/sources.list.d names no Debian archive for {codename}"
        ));
    }
    Ok(stanzas)
}

fn deb822_stanzas(text: &str) -> Vec<String> {
    let uncommented: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    uncommented
        .join("\n")
        .split("\n\n")
        .map(|stanza| stanza.trim().to_owned())
        .filter(|s| !s.is_empty())
        .collect()
}

/// `deb [options] URI suite components` in the stanza format.
fn one_line_stanza(line: &str) -> Option<String> {
    let mut rest = line.trim().strip_prefix("deb ")?.trim();
    let mut options = String::new();
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']')?;
        for option in inside.split_whitespace() {
            if let Some(("signed-by", value)) = option.split_once('=') {
                options = format!("\nSigned-By: {value}");
            }
        }
        rest = after.trim();
    }
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let components = words.collect::<Vec<_>>().join(" ");
    Some(format!(
        "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}{options}"
    ))
}

fn is_of_release(stanza: &str, codename: &str) -> bool {
    let of_this_release = |suite: &str| {
        suite
            .strip_prefix(codename)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let has = |name, wanted: &dyn Fn(&str) -> bool| {
        field(stanza, name).is_some_and(|words| words.split_whitespace().any(wanted))
    };
    has("Suites", &of_this_release) && has("Types", &|types| types == "deb")
}

/// The machine's main archive, with the suites of [`PARTS_RELEASE`] in it instead of its own.
fn parts_stanza(own: &[String], codename: &str) -> Result<String> {
    let is_main = |stanza: &&String| {
        field(stanza, "Suites")
            .is_some_and(|suites| suites.split_whitespace().any(|suite| suite == codename))
    };
    let Some(main) = own.iter().find(is_main) else {
        return fail(format!(
            "/etc/apt/sources.list.d names no archive with all of {codename}"
        ));
    };
    let lines: Vec<String> = main
        .lines()
        .map(|line| match line.split_once(':') {
            Some((name, _)) if name.eq_ignore_ascii_case("Suites") => {
                format!("Suites: {PARTS_RELEASE} {PARTS_RELEASE}-backports")
            }
            _ => line.to_owned(),
        })
        .collect();
    Ok(lines.join("\n"))
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &str = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n\n\
                    Types: deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n\n\
                    Types: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n";

    fn own() -> Vec<String> {
        let mut stanzas = deb822_stanzas(SOURCES);
        stanzas.retain(|stanza| is_of_release(stanza, "bookworm"));
        stanzas
    }

    #[test]
    fn only_stanzas_of_this_release_are_the_machines_own() {
        let suites: Vec<_> = own()
            .iter()
            .map(|stanza| field(stanza, "Suites").map(str::to_owned))
            .collect();
        assert_eq!(
            suites,
            [
                Some("bookworm bookworm-updates".to_owned()),
                Some("bookworm-security".to_owned())
            ]
        );
    }

    #[test]
    fn parts_come_from_the_same_archive_and_another_release() {
        assert_eq!(
            parts_stanza(&own(), "bookworm").unwrap(),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-backports\nComponents: main"
        );
        assert!(parts_stanza(&own()[1..], "bookworm").is_err());
    }

    #[test]
    fn one_line_sources_are_understood() {
        let stanza = one_line_stanza(
            "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib",
        );
        assert_eq!(
            stanza.as_deref(),
            Some(
                "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main contrib\nSigned-By: /k.gpg"
            )
        );
        assert_eq!(
            one_line_stanza("deb-src http://mirror.example/debian bookworm main"),
            None
        );
    }
}
