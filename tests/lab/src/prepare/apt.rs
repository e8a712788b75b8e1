//! Debian packages, from the machine's own mirror, with its backports suite added.
//!
//! The machine's sources are left as they are: apt is pointed at a private copy in which each stanza for this Debian
//! release gains a `-backports` sibling. Package lists live beside it, so nothing the machine has is refreshed.

use super::step;
use crate::error::{Context, Error, Result, fail};
use crate::process::{on_path, output_of};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program the lab runs and the package that brings it.
const PROGRAMS: [(&str, &str); 10] = [
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
];

const QEMU: &str = "qemu-system-x86_64";
/// The first release that emulates the 82576 (`igb`) with working virtual functions.
const QEMU_MAJOR: u32 = 10;

/// The private view of the package archive.
pub struct Apt {
    directory: PathBuf,
    updated: Cell<bool>,
}

impl Apt {
    /// A view kept in `directory`; nothing is written until something is missing.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
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
        self.install_packages(&missing)?;
        if qemu_major() < QEMU_MAJOR {
            self.update()?;
            let suite = format!("{}-backports", codename()?);
            step(&format!("installing qemu-system-x86 from {suite}"), || {
                self.install(&["qemu-system-x86"], Some(&suite))
            })?;
            if qemu_major() < QEMU_MAJOR {
                return fail(format!(
                    "{QEMU} is older than {QEMU_MAJOR}.0, even from {suite}"
                ));
            }
        }
        Ok(())
    }

    /// Installs these packages, if there are any.
    pub fn install_packages(&self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        self.update()?;
        step(&format!("installing {}", packages.join(" ")), || {
            self.install(packages, None)
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

    fn install(&self, packages: &[&str], suite: Option<&str>) -> Result<()> {
        let mut command = self.privileged("apt-get");
        command
            .args(["-q", "-y", "--no-install-recommends"])
            .env("DEBIAN_FRONTEND", "noninteractive");
        if let Some(suite) = suite {
            command.args(["-t", suite]);
        }
        output_of(command.arg("install").args(packages))?;
        Ok(())
    }

    /// Reads the package lists, once a run.
    pub fn update(&self) -> Result<()> {
        if self.updated.get() {
            return Ok(());
        }
        step("reading the package lists", || {
            let sources = self.directory.join("sources");
            for directory in [&sources, &self.directory.join("lists/partial")] {
                fs::create_dir_all(directory).path(directory)?;
            }
            let written = sources.join("lab.sources");
            fs::write(&written, private_sources(&codename()?)?).path(&written)?;
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
        command
    }
}

fn qemu_major() -> u32 {
    let version = output_of(Command::new(QEMU).arg("--version")).unwrap_or_default();
    major_version(&version).unwrap_or(0)
}

fn major_version(version: &str) -> Option<u32> {
    version
        .split_whitespace()
        .find_map(|word| word.split_once('.')?.0.parse().ok())
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

/// The machine's own stanzas for `codename`, in the one format, each main archive with its backports beside it.
fn private_sources(codename: &str) -> Result<String> {
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
    let chosen = with_backports(&stanzas, codename);
    if chosen.is_empty() {
        return fail(format!(
            "/etc/apt/sources.list.d names no Debian archive for {codename}"
        ));
    }
    Ok(chosen)
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

fn with_backports(stanzas: &[String], codename: &str) -> String {
    let mut chosen = String::new();
    for stanza in stanzas {
        let suites = field(stanza, "Suites").unwrap_or_default();
        let of_this_release = |suite: &str| {
            suite == codename
                || suite
                    .strip_prefix(codename)
                    .is_some_and(|s| s.starts_with('-'))
        };
        if !suites.split_whitespace().any(of_this_release)
            || field(stanza, "Types")
                .is_none_or(|types| !types.split_whitespace().any(|t| t == "deb"))
        {
            continue;
        }
        chosen.push_str(stanza);
        chosen.push_str("\n\n");
        let backports = format!("{codename}-backports");
        if suites.split_whitespace().any(|suite| suite == codename) && !suites.contains(&backports)
        {
            for line in stanza.lines() {
                match line.split_once(':') {
                    Some((name, _)) if name.eq_ignore_ascii_case("Suites") => {
                        chosen.push_str(&format!("Suites: {backports}\n"))
                    }
                    _ => chosen.push_str(&format!("{line}\n")),
                }
            }
            chosen.push('\n');
        }
    }
    chosen
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

    #[test]
    fn a_stanza_of_this_release_gains_its_backports() {
        let text = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n\n\
                    Types: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n";
        let chosen = with_backports(&deb822_stanzas(text), "bookworm");
        let suites: Vec<&str> = chosen
            .lines()
            .filter_map(|line| line.strip_prefix("Suites: "))
            .collect();
        assert_eq!(
            suites,
            [
                "bookworm bookworm-updates",
                "bookworm-backports",
                "bookworm-security"
            ]
        );
        assert!(!chosen.contains("other.example"));
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

    #[test]
    fn qemu_tells_its_version() {
        assert_eq!(
            major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"),
            Some(10)
        );
        assert_eq!(major_version(""), None);
    }
}
