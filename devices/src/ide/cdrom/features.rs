//! What the drive says it can do: features (MMC-5 §5) and mode pages (MMC-5 §7, annex E).

/// A kind of disc, as GET CONFIGURATION names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// No disc.
    None = 0,
    /// CD-ROM.
    CdRom = 0x08,
    /// DVD-ROM.
    DvdRom = 0x10,
}

/// A feature descriptor: code, version and flags, and its own data.
struct Feature {
    code: u16,
    flags: u8,
    current: bool,
    data: Vec<u8>,
}

/// Bits of a descriptor's third byte: always there, and current.
const PERSISTENT: u8 = 2;
const CURRENT: u8 = 1;

fn features(profile: Profile) -> Vec<Feature> {
    let listed = |p: Profile| {
        let [high, low] = (p as u16).to_be_bytes();
        [high, low, u8::from(p == profile), 0]
    };
    let feature = |code, flags, current, data| Feature {
        code,
        flags,
        current,
        data,
    };
    let (cd, dvd) = (profile == Profile::CdRom, profile == Profile::DvdRom);
    vec![
        feature(
            0,
            PERSISTENT,
            true,
            [listed(Profile::DvdRom), listed(Profile::CdRom)].concat(),
        ),
        // Core, version 2: ATAPI, answers GET EVENT STATUS by polling.
        feature(1, 2 << 2 | PERSISTENT, true, vec![0, 0, 0, 2, 1, 0, 0, 0]),
        // Morphing, version 1.
        feature(2, 1 << 2 | PERSISTENT, true, vec![0, 0, 0, 0]),
        // Removable medium: a tray that ejects and locks.
        feature(3, PERSISTENT, true, vec![0x29, 0, 0, 0]),
        // Random readable: 2048-byte blocks.
        feature(0x10, 0, cd || dvd, vec![0, 0, 8, 0, 0, 1, 0, 0]),
        // CD read, version 2.
        feature(0x1e, 2 << 2, cd, vec![0, 0, 0, 0]),
        // DVD read, version 1.
        feature(0x1f, 1 << 2, dvd, vec![0, 0, 0, 0]),
    ]
}

/// GET CONFIGURATION data; `None` for a request type that does not exist.
pub fn configuration(profile: Profile, request: u8, start: u16) -> Option<Vec<u8>> {
    let wanted = |feature: &Feature| match request {
        0 => feature.code >= start,
        1 => feature.code >= start && feature.current,
        _ => feature.code == start,
    };
    if request == 3 {
        return None;
    }
    let mut bytes = vec![0; 8];
    bytes[6..8].copy_from_slice(&(profile as u16).to_be_bytes());
    for feature in features(profile).iter().filter(|f| wanted(f)) {
        bytes.extend(feature.code.to_be_bytes());
        let current = if feature.current { CURRENT } else { 0 };
        bytes.extend([feature.flags | current, feature.data.len() as u8]);
        bytes.extend(&feature.data);
    }
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Some(bytes)
}

/// Mode pages in order; with `changeable`, the mask of what MODE SELECT could change, which
/// is nothing. `None` for a page that is not there.
pub fn mode_pages(page: u8, changeable: bool, locked: bool) -> Option<Vec<u8>> {
    const ALL: u8 = 0x3f;
    // Read error recovery: eight bytes, all defaults.
    let recovery = vec![0x01, 6, 0, 5, 0, 0, 0, 0];
    let mut pages = vec![recovery, capabilities(locked)];
    if changeable {
        for page in &mut pages {
            page[2..].fill(0);
        }
    }
    let wanted: Vec<_> = pages
        .into_iter()
        .filter(|bytes| page == ALL || bytes[0] == page)
        .collect();
    (!wanted.is_empty()).then(|| wanted.concat())
}

/// CD/DVD capabilities and mechanical status (MMC-3 §5.5.10).
fn capabilities(locked: bool) -> Vec<u8> {
    /// 4x the speed of a CD, in KB/s.
    const SPEED: u16 = 704;
    /// A buffer of half a megabyte.
    const BUFFER: u16 = 512;
    let [speed_high, speed_low] = SPEED.to_be_bytes();
    let [buffer_high, buffer_low] = BUFFER.to_be_bytes();
    let mut page = vec![0; 22];
    page[..2].copy_from_slice(&[0x2a, 20]);
    // Reads CD-R, CD-RW and DVD-ROM; writes nothing.
    page[2] = 0x0b;
    // Multi-session, mode 2 forms 1 and 2.
    page[4] = 0x70;
    // Tray, ejects, locks.
    page[6] = 0x29 | if locked { 2 } else { 0 };
    page[8..10].copy_from_slice(&[speed_high, speed_low]);
    page[12..14].copy_from_slice(&[buffer_high, buffer_low]);
    page[14..16].copy_from_slice(&[speed_high, speed_low]);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disc_has_one_current_profile() {
        let all = configuration(Profile::CdRom, 0, 0).unwrap();
        assert_eq!(
            u32::from_be_bytes(all[..4].try_into().unwrap()) as usize,
            all.len() - 4
        );
        assert_eq!(all[6..8], [0, 8]);
        assert_eq!(all[8..20], [0, 0, 3, 8, 0, 0x10, 0, 0, 0, 8, 1, 0]);
        let one = configuration(Profile::CdRom, 2, 0x1e).unwrap();
        assert_eq!(one[8..], [0, 0x1e, 9, 4, 0, 0, 0, 0]);
        let current = configuration(Profile::CdRom, 1, 0x11).unwrap();
        assert_eq!(current, {
            let mut c = one.clone();
            c[3] = 12;
            c
        });
        assert!(configuration(Profile::None, 3, 0).is_none());
    }

    #[test]
    fn pages_say_their_own_length() {
        let all = mode_pages(0x3f, false, true).unwrap();
        let mut rest = &all[..];
        let mut codes = vec![];
        while let [code, len, ..] = *rest {
            codes.push(code);
            rest = &rest[2 + usize::from(len)..];
        }
        assert_eq!(codes, [0x01, 0x2a]);
        assert!(mode_pages(0x0e, false, false).is_none());
        assert_eq!(mode_pages(0x2a, true, true).unwrap()[2..], [0; 20]);
    }
}
