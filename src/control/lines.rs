//! Lines of no more than a certain length, out of a stream.

use std::io::{self, BufRead};

/// What the next line is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// A line that was longer than may be; it has been skipped.
    TooLong,
    /// There is none any more.
    End,
}

/// Takes the next line out of `stream`: at most `most` bytes with its end. What goes beyond is
/// not kept. The last one may have no end.
pub fn next(stream: &mut impl BufRead, most: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut length = 0usize;
    loop {
        let bytes = match stream.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let (part, ended) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&bytes[..=end], true),
            None => (bytes, bytes.is_empty()),
        };
        let taken = part.len();
        length = length.saturating_add(taken);
        if length <= most {
            line.extend_from_slice(part);
        }
        stream.consume(taken);
        if ended {
            return Ok(match length {
                0 => Line::End,
                _ if length > most => Line::TooLong,
                _ => Line::Whole(without_end(line)),
            });
        }
    }
}

fn without_end(mut line: Vec<u8>) -> Vec<u8> {
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use proptest::prelude::*;

    fn all(text: &[u8], most: usize, buffer: usize) -> Vec<Line> {
        let mut stream = BufReader::with_capacity(buffer, text);
        let lines = std::iter::repeat_with(|| next(&mut stream, most).unwrap());
        lines.take_while(|line| *line != Line::End).collect()
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.into())
    }

    #[test]
    fn a_long_line_does_not_take_the_next_one_with_it() {
        for buffer in [1, 3, 100] {
            assert_eq!(
                all(b"abcd\nabcde\n\nab", 5, buffer),
                [whole("abcd"), Line::TooLong, whole(""), whole("ab")]
            );
        }
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_text(text in "[a\n]{0,40}", most in 1usize..8, buffer in 1usize..9) {
            let wanted: Vec<_> = text
                .split_inclusive('\n')
                .map(|line| match line.len() <= most {
                    true => whole(line.trim_end_matches('\n')),
                    false => Line::TooLong,
                })
                .collect();
            prop_assert_eq!(all(text.as_bytes(), most, buffer), wanted);
        }
    }
}
