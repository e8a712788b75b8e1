//! The table of contents of a disc with one data track (MMC-5 §6.26).

/// Where the lead-out's or a track's address goes: LBA, or minute, second and frame.
fn address(lba: u32, msf: bool) -> [u8; 4] {
    if !msf {
        return lba.to_be_bytes();
    }
    let frame = lba.saturating_add(150);
    [
        0,
        (frame / (75 * 60)).min(255) as u8,
        (frame / 75 % 60) as u8,
        (frame % 75) as u8,
    ]
}

/// Control and ADR of a data track.
const DATA_TRACK: u8 = 0x14;
const LEAD_OUT: u8 = 0xaa;

fn with_length(mut data: Vec<u8>) -> Vec<u8> {
    let length = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&length.to_be_bytes());
    data
}

/// Format 0: every track from `start` on and the lead-out; `None` if there is no such track.
pub fn tracks(blocks: u32, start: u8, msf: bool) -> Option<Vec<u8>> {
    if start > 1 && start != LEAD_OUT {
        return None;
    }
    let mut data = vec![0, 0, 1, 1];
    if start <= 1 {
        data.extend([0, DATA_TRACK, 1, 0]);
        data.extend(address(0, msf));
    }
    data.extend([0, DATA_TRACK, LEAD_OUT, 0]);
    data.extend(address(blocks, msf));
    Some(with_length(data))
}

/// Format 1: the last session, which is the first.
pub fn sessions(msf: bool) -> Vec<u8> {
    let mut data = vec![0, 0, 1, 1, 0, DATA_TRACK, 1, 0];
    data.extend(address(0, msf));
    with_length(data)
}

/// Format 2: the raw lead-in; first and last track, lead-out, and the track.
pub fn raw(blocks: u32) -> Vec<u8> {
    let mut data = vec![0, 0, 1, 1];
    let mut entry = |point: u8, [_, minute, second, frame]: [u8; 4]| {
        data.extend([1, DATA_TRACK, 0, point, 0, 0, 0, 0, minute, second, frame]);
    };
    entry(0xa0, [0, 1, 0, 0]);
    entry(0xa1, [0, 1, 0, 0]);
    entry(0xa2, address(blocks, true));
    entry(1, address(0, true));
    with_length(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_track_and_the_lead_out() {
        let toc = tracks(0x1234, 0, false).unwrap();
        assert_eq!(toc[..4], [0, 18, 1, 1]);
        assert_eq!(toc[4..12], [0, 0x14, 1, 0, 0, 0, 0, 0]);
        assert_eq!(toc[12..], [0, 0x14, 0xaa, 0, 0, 0, 0x12, 0x34]);
        assert!(tracks(1, 2, false).is_none());
        assert_eq!(tracks(1, 0xaa, false).unwrap().len(), 12);
    }

    #[test]
    fn minutes_seconds_frames_start_at_two_seconds() {
        assert_eq!(address(0, true), [0, 0, 2, 0]);
        assert_eq!(address(75 * 60, true), [0, 1, 2, 0]);
        assert_eq!(address(u32::MAX, true)[1], 255);
    }

    #[test]
    fn the_raw_table_has_four_points() {
        let toc = raw(300);
        assert_eq!(toc.len(), 4 + 4 * 11);
        assert_eq!(toc[..2], [0, 46]);
    }
}
