//! Fitting text to where it is read.

use console::{Alignment, Term, measure_text_width, pad_str, truncate_str};
use textwrap::{Options, WordSplitter};

/// Where text is read: how wide it may be, and whether in colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    width: Option<usize>,
    colour: bool,
}

impl Page {
    /// Standard output: as wide as the terminal. Where it is no terminal, as wide as
    /// `COLUMNS` says (`watch` sets it), or as wide as the text wants to be.
    pub fn stdout() -> Self {
        let columns = std::env::var("COLUMNS").ok();
        let said = columns.and_then(|columns| columns.parse().ok());
        let terminal = Term::stdout().size_checked();
        Self {
            width: terminal.map(|(_, width)| width.into()).or(said),
            colour: console::colors_enabled(),
        }
    }

    /// A page of so many columns, without colour.
    #[cfg(test)]
    pub fn of_width(width: Option<usize>) -> Self {
        Self {
            width,
            colour: false,
        }
    }

    /// The same in colour.
    #[cfg(test)]
    pub fn in_colour(self) -> Self {
        Self {
            colour: true,
            ..self
        }
    }

    /// How many columns there are; none if there is no end of them.
    pub fn width(self) -> Option<usize> {
        self.width
    }

    /// Whether to colour text.
    pub fn colour(self) -> bool {
        self.colour
    }

    /// Breaks `text` at its words. The first line begins with `first`, and the others with
    /// as many spaces.
    pub fn paragraph(self, first: &str, text: &str) -> String {
        /// Nobody reads narrower lines than that.
        const LEAST: usize = 20;
        let indent = measure_text_width(first);
        let room = self
            .width
            .map_or(usize::MAX, |w| w.saturating_sub(indent).max(LEAST));
        let options = Options::new(room)
            .break_words(false)
            .word_splitter(WordSplitter::NoHyphenation);
        let text = with_whole_commands(text, room);
        let lines = textwrap::wrap(&text, options);
        let spaces = " ".repeat(indent);
        let starts = std::iter::once(first).chain(std::iter::repeat(spaces.as_str()));
        let lines = starts
            .zip(lines)
            .map(|(start, line)| format!("{start}{}\n", line.replace(UNBREAKABLE, " ")));
        lines.collect()
    }
}

/// A space at which no line is broken.
const UNBREAKABLE: &str = "\u{a0}";

/// `text` in which commands in backquotes stay on one line, to be copied, where there is room.
fn with_whole_commands(text: &str, room: usize) -> String {
    let parts = text.split('`').enumerate();
    let whole = parts.map(|(number, part)| match number % 2 {
        // Two quotes, and a mark after them.
        1 if measure_text_width(part).saturating_add(3) <= room => part.replace(' ', UNBREAKABLE),
        _ => part.to_owned(),
    });
    whole.collect::<Vec<_>>().join("`")
}

/// How many columns `text` takes.
pub fn width(text: &str) -> usize {
    measure_text_width(text)
}

/// `text` in exactly so many columns: cut with an ellipsis, or with spaces after it.
pub fn fit(text: &str, columns: usize) -> String {
    let text = truncate_str(text, columns, "…");
    pad_str(&text, columns, Alignment::Left, None).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_hang_under_their_first_word() {
        let page = Page::of_width(Some(26));
        assert_eq!(
            page.paragraph("why: ", "as the host uses all of it itself"),
            "why: as the host uses all\n     of it itself\n"
        );
        assert_eq!(
            page.paragraph("do: ", "bind it with `bind a b c` now"),
            "do: bind it with\n    `bind a b c` now\n"
        );
        let long = page.paragraph("", "it takes `a b c d e f g h i j k l m n`");
        assert!(long.lines().all(|line| width(line) <= 26), "{long}");
        let endless = Page::of_width(None);
        assert_eq!(
            endless.paragraph("- ", &"x ".repeat(200)).lines().count(),
            1
        );
    }

    #[test]
    fn cells_are_cut_or_filled() {
        assert_eq!(fit("abc", 5), "abc  ");
        assert_eq!(fit("abcdef", 5), "abcd…");
        assert_eq!(width("abcd…"), 5);
    }
}
