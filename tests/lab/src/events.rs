//! What the part inside tells the part outside, one JSON object a line.

use serde::{Deserialize, Serialize};

/// One message.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A test begins and must end within so many seconds.
    Begin {
        /// Its name.
        test: String,
        /// Its time limit.
        limit: u64,
    },
    /// A test has ended.
    End {
        /// Its name.
        test: String,
        /// How it went.
        outcome: Outcome,
        /// What went wrong or why it was skipped, or a figure worth telling.
        detail: String,
        /// How long it took.
        seconds: f64,
    },
    /// A line for whoever watches.
    Say {
        /// The line.
        text: String,
    },
    /// A table is complete.
    Table {
        /// Its rows, the first being the heading.
        rows: Vec<Vec<String>>,
    },
}

/// How a test went.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed,
    /// It could not be tried.
    Skipped,
}

impl Event {
    /// Tells it to the outside.
    pub fn tell(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            println!("{line}");
        }
    }

    /// Reads a line; a line that is no message is somebody's output.
    pub fn read(line: &str) -> Option<Self> {
        line.starts_with('{')
            .then(|| serde_json::from_str(line).ok())?
    }
}

/// Tells a line to whoever watches.
pub fn say(text: impl Into<String>) {
    Event::Say { text: text.into() }.tell();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way_out() {
        let event = Event::End {
            test: "a".into(),
            outcome: Outcome::Skipped,
            detail: "no\nluck".into(),
            seconds: 1.5,
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(Event::read(&line), Some(event));
        assert_eq!(Event::read("plain output"), None);
        assert_eq!(Event::read("{not ours}"), None);
    }
}
