//! Sizes as people write them: `512M`, `4G`, `4GiB`.

/// Text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// Not a number and a unit.
    #[error("'{0}' is not a size; write a number and K, M, G or T, such as 512M or 4G")]
    Malformed(String),
    /// A bare number: bytes to one reader and MiB to the next.
    #[error("'{0}' has no unit; write {0}M or {0}G")]
    NoUnit(String),
    /// Over 2^64.
    #[error("'{0}' is larger than any machine's memory")]
    TooLarge(String),
}

/// Reads a size. Units are powers of two; `iB` or `B` after them changes nothing. A number
/// without a unit is refused rather than guessed at.
pub fn parse_size(text: &str) -> Result<u64, ParseSizeError> {
    let malformed = || ParseSizeError::Malformed(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    if number.is_empty() {
        return Err(malformed());
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => return Err(ParseSizeError::NoUnit(text.to_owned())),
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(malformed()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| ParseSizeError::TooLarge(text.to_owned()))
}

/// A size in the largest unit that divides it: `4G`, `1536M`.
pub fn display_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >> shift != 0 && bytes & ((1 << shift) - 1) == 0 {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("4g"), Ok(4 << 30));
        assert_eq!(parse_size("4GiB"), Ok(4 << 30));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
        assert_eq!(parse_size("64K"), Ok(64 << 10));
    }

    #[test]
    fn refuses_what_is_unclear() {
        assert!(matches!(parse_size("4096"), Err(ParseSizeError::NoUnit(_))));
        for text in ["", "G", "4X", "4 G", "-4G", "4.5G", "0x10M", "4GG"] {
            assert!(
                matches!(parse_size(text), Err(ParseSizeError::Malformed(_))),
                "{text}"
            );
        }
        for text in ["17179869184G", "99999999999999999999M"] {
            assert!(
                matches!(parse_size(text), Err(ParseSizeError::TooLarge(_))),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(kib in 1u64..1 << 50) {
            let bytes = kib << 10;
            prop_assert_eq!(parse_size(&display_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            let _ = parse_size(&text);
        }
    }
}
