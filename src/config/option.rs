//! The values of structured flags: `path=/x.img,readonly`. A comma in a value is written
//! twice, as in QEMU's.

/// What is wrong with a structured value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Nothing there.
    #[error("nothing given; write {0}")]
    Empty(&'static str),
    /// A key nobody knows.
    #[error("unknown option '{key}'; known: {known}")]
    Unknown {
        /// The key.
        key: String,
        /// The keys there are.
        known: String,
    },
    /// The same key twice.
    #[error("'{0}' is given twice; keep one")]
    Twice(String),
    /// A key without a value.
    #[error("'{0}' needs a value; write {0}=…")]
    NeedsValue(String),
    /// A value for a plain word.
    #[error("'{0}' takes no value; write just {0}")]
    TakesNoValue(String),
    /// A key that must be there.
    #[error("'{0}' is missing; write {1}")]
    Missing(&'static str, &'static str),
    /// Two that exclude each other, or none of them.
    #[error("{0}")]
    Choice(&'static str),
    /// A value that cannot be read.
    #[error("{0}: {1}")]
    Value(&'static str, String),
}

/// A structured value, taken apart: keys in order, with their values.
#[derive(Debug)]
pub(super) struct Options {
    items: Vec<(String, Option<String>)>,
}

impl Options {
    /// Takes `text` apart. Keys must be among `known`; only those in `repeatable` may come
    /// more than once.
    pub fn parse(text: &str, known: &[&str], repeatable: &[&str]) -> Result<Self, OptionError> {
        let mut items: Vec<(String, Option<String>)> = Vec::new();
        for part in split(text) {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (part, None),
            };
            if !known.contains(&key.as_str()) {
                let known = known.join(", ");
                return Err(OptionError::Unknown { key, known });
            }
            if !repeatable.contains(&key.as_str()) && items.iter().any(|(k, _)| *k == key) {
                return Err(OptionError::Twice(key));
            }
            items.push((key, value));
        }
        Ok(Self { items })
    }

    /// All values of `key`, in order.
    pub fn values(&self, key: &str) -> Result<Vec<&str>, OptionError> {
        self.items
            .iter()
            .filter(|(k, _)| k == key)
            .map(|(_, value)| match value.as_deref() {
                None | Some("") => Err(OptionError::NeedsValue(key.to_owned())),
                Some(value) => Ok(value),
            })
            .collect()
    }

    /// The value of `key`, if it is there.
    pub fn value(&self, key: &str) -> Result<Option<&str>, OptionError> {
        Ok(self.values(key)?.first().copied())
    }

    /// The value of `key`, read as a `T`.
    pub fn read<T>(&self, key: &'static str) -> Result<Option<T>, OptionError>
    where
        T: std::str::FromStr<Err: ToString>,
    {
        self.value(key)?
            .map(|text| {
                text.parse()
                    .map_err(|e: T::Err| OptionError::Value(key, e.to_string()))
            })
            .transpose()
    }

    /// True if the word `key` is there.
    pub fn word(&self, key: &str) -> Result<bool, OptionError> {
        match self.items.iter().find(|(k, _)| k == key) {
            None => Ok(false),
            Some((_, None)) => Ok(true),
            Some((_, Some(_))) => Err(OptionError::TakesNoValue(key.to_owned())),
        }
    }
}

/// Splits at commas; two commas in a row are one that belongs to the value.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Cuts a leading value off: `4G,hugepages=2M` is `4G` and `hugepages=2M`.
pub(super) fn leading(text: &str) -> (&str, &str) {
    text.split_once(',').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_values_and_words_apart() {
        let o = Options::parse("path=/a=b,,c,readonly", &["path", "readonly"], &[]).unwrap();
        assert_eq!(o.value("path"), Ok(Some("/a=b,c")));
        assert_eq!(o.word("readonly"), Ok(true));
    }

    #[test]
    fn says_what_is_wrong() {
        let parse = |text| Options::parse(text, &["path", "readonly"], &[]);
        assert_eq!(
            parse("pth=/x").unwrap_err().to_string(),
            "unknown option 'pth'; known: path, readonly"
        );
        assert!(matches!(
            parse("path=/x,path=/y"),
            Err(OptionError::Twice(_))
        ));
        assert!(matches!(
            parse("path=").unwrap().value("path"),
            Err(OptionError::NeedsValue(_))
        ));
        assert!(matches!(
            parse("readonly=1").unwrap().word("readonly"),
            Err(OptionError::TakesNoValue(_))
        ));
        let unread = parse("path=x").unwrap().read::<u8>("path").unwrap_err();
        assert!(unread.to_string().starts_with("path: "), "{unread}");
    }

    proptest! {
        #[test]
        fn any_value_survives_with_its_commas_doubled(value in "[ -~]{1,20}") {
            let text = format!("path={},readonly", value.replace(',', ",,"));
            let o = Options::parse(&text, &["path", "readonly"], &[]).unwrap();
            prop_assert_eq!(o.value("path"), Ok(Some(value.as_str())));
            prop_assert_eq!(o.word("readonly"), Ok(true));
        }
    }
}
