//! What the devices of a machine ask of the interface to the IOMMU, made one.

use std::os::fd::RawFd;

use super::validate::{Problem, error};
use super::{AssignSpec, ConfigError, DeviceSpec, Given, Interface, Origin};
use crate::host::{Host, Inherited};

/// The interface for all, and the `/dev/iommu` that this process was given, if it was.
pub(super) fn agree(
    given: &[Given<AssignSpec>],
    host: &Host,
) -> Result<(Interface, Option<Inherited>), ConfigError> {
    let (interface, iommufd) = wanted(given)?;
    let adopt = |(descriptor, origin): (_, &Origin)| {
        let adopted = host.inherited_iommufd(descriptor);
        adopted.map_err(|problem| error(origin, problem.into()))
    };
    Ok((interface, iommufd.map(adopt).transpose()?))
}

/// An interface, and a descriptor with where it was given.
type Wanted<'a> = (Interface, Option<(RawFd, &'a Origin)>);

fn wanted(given: &[Given<AssignSpec>]) -> Result<Wanted<'_>, ConfigError> {
    let mut interface: Option<(Interface, String, &Origin)> = None;
    let mut iommufd: Option<(RawFd, String, &Origin)> = None;
    for Given { value, origin } in given {
        if let Some((wish, words)) = wish(value, origin)? {
            one(&mut interface, wish, words, origin)?;
        }
        if let Some(descriptor) = value.iommufd {
            one(
                &mut iommufd,
                descriptor,
                format!("iommufd={descriptor}"),
                origin,
            )?;
        }
    }
    let interface = interface.map(|(interface, ..)| interface);
    Ok((
        interface.unwrap_or_default(),
        iommufd.map(|(descriptor, _, origin)| (descriptor, origin)),
    ))
}

/// What one device asks for, and in which words.
fn wish(spec: &AssignSpec, origin: &Origin) -> Result<Option<(Interface, String)>, ConfigError> {
    let open = match (spec.device, spec.iommufd) {
        (device @ DeviceSpec::Open(_), _) => Some(device.to_string()),
        (_, Some(descriptor)) => Some(format!("iommufd={descriptor}")),
        _ => None,
    };
    match (open, spec.interface) {
        (Some(words), Interface::Type1) => Err(error(origin, Problem::NotForType1(words))),
        (Some(words), _) => Ok(Some((Interface::Iommufd, words))),
        (None, Interface::Auto) => Ok(None),
        (None, wish) => Ok(Some((wish, format!("iommu={wish}")))),
    }
}

/// Takes a wish if it is the first or the same as that.
fn one<'a, T: PartialEq>(
    first: &mut Option<(T, String, &'a Origin)>,
    wish: T,
    words: String,
    origin: &'a Origin,
) -> Result<(), ConfigError> {
    match first {
        None => *first = Some((wish, words, origin)),
        Some((other, _, _)) if *other == wish => (),
        Some((_, other, at)) => {
            let problem = Problem::Interfaces {
                this: words,
                other: other.clone(),
                origin: (*at).clone(),
            };
            return Err(error(origin, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(wishes: &[&str]) -> Result<(Interface, Option<RawFd>), String> {
        let given = wishes
            .iter()
            .map(|text| Given::by_flag("--assign", text.parse().unwrap()));
        let given: Vec<_> = given.collect();
        let (interface, iommufd) = wanted(&given).map_err(|e| e.problem.to_string())?;
        Ok((interface, iommufd.map(|(descriptor, _)| descriptor)))
    }

    #[test]
    fn one_interface_for_all() {
        assert_eq!(agreed(&[]), Ok((Interface::Auto, None)));
        assert_eq!(agreed(&["02:10.0", "02:10.2"]), Ok((Interface::Auto, None)));
        let type1 = agreed(&["02:10.0", "02:10.2,iommu=type1"]);
        assert_eq!(type1, Ok((Interface::Type1, None)));
        let open = agreed(&["fd=5", "02:10.0,iommu=iommufd", "02:10.2,iommufd=4"]);
        assert_eq!(open, Ok((Interface::Iommufd, Some(4))));
    }

    #[test]
    fn wishes_that_conflict_are_both_told() {
        let mixed = agreed(&["02:10.0,iommu=iommufd", "02:10.2,iommu=type1"]).unwrap_err();
        assert!(mixed.contains("iommu=type1 is asked for here"), "{mixed}");
        assert!(mixed.contains("iommu=iommufd at --assign"), "{mixed}");
        let open = agreed(&["02:10.0,iommu=type1", "fd=5"]).unwrap_err();
        assert!(
            open.contains("fd=5 is asked for here, and iommu=type1"),
            "{open}"
        );
        let two = agreed(&["fd=5,iommufd=3", "fd=6,iommufd=4"]).unwrap_err();
        assert!(
            two.contains("iommufd=4 is asked for here, and iommufd=3"),
            "{two}"
        );
        for text in ["fd=5,iommu=type1", "02:10.0,iommufd=3,iommu=type1"] {
            assert!(
                agreed(&[text])
                    .unwrap_err()
                    .contains("leave iommu=type1 out")
            );
        }
    }
}
