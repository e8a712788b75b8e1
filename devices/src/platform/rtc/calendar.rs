//! Seconds to dates and back, and the formats of the time registers.

use super::registers::RegisterB;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// A point of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year, with its century.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// Sunday is 1.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl Date {
    /// The date `seconds` after 1970 began.
    pub fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY);
        let of_day = seconds.rem_euclid(DAY);
        // Years begin in March here, so that the leap day comes last; 719468 days lie
        // between 0000-03-01 and 1970-01-01, 146097 in 400 years.
        let from_march = days + 719_468;
        let era = from_march.div_euclid(146_097);
        let day_of_era = from_march.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let in_next_year = month >= 10;
        Self {
            year: era * 400 + year_of_era + i64::from(in_next_year),
            month: (if in_next_year { month - 9 } else { month + 3 }) as u8,
            day: (day_of_year - (153 * month + 2) / 5 + 1) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// Seconds since 1970. Fields out of range carry on into the next: a guest may have
    /// set the 31st of February.
    pub fn seconds(&self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = self.year - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * from_march + 2) / 5 + day - 1;
        let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * DAY
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }
}

/// How register B says numbers are written.
#[derive(Clone, Copy)]
pub struct Format(pub RegisterB);

impl Format {
    /// A number below 100 as a register holds it.
    pub fn encode(self, value: u8) -> u8 {
        if self.0.binary() {
            value
        } else {
            ((value / 10 % 10) << 4) | (value % 10)
        }
    }

    /// And back. What is no BCD number gives some number.
    pub fn decode(self, value: u8) -> u8 {
        if self.0.binary() {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    }

    /// An hour; bit 7 is PM in the 12-hour mode, which has no zero.
    pub fn encode_hour(self, hour: u8) -> u8 {
        if self.0.hours_24() {
            return self.encode(hour);
        }
        let of_twelve = match hour % 12 {
            0 => 12,
            other => other,
        };
        self.encode(of_twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    /// And back.
    pub fn decode_hour(self, value: u8) -> u8 {
        if self.0.hours_24() {
            return self.decode(value);
        }
        let hour = self.decode(value & 0x7f) % 12;
        if value & 0x80 != 0 { hour + 12 } else { hour }
    }
}

/// A daily alarm: `None` matches everything.
#[derive(Clone, Copy, Debug)]
pub struct DailyAlarm {
    /// Hour.
    pub hour: Option<u8>,
    /// Minute.
    pub minute: Option<u8>,
    /// Second.
    pub second: Option<u8>,
}

impl DailyAlarm {
    /// How many seconds after `now` (seconds since 1970) it next matches, at least one;
    /// `None` if its time does not exist.
    pub fn next(&self, now: i64) -> Option<i64> {
        let exists = |field: Option<u8>, limit| field.is_none_or(|value| value < limit);
        if !(exists(self.hour, 24) && exists(self.minute, 60) && exists(self.second, 60)) {
            return None;
        }
        let differs = |wanted: Option<u8>, is: i64| wanted.is_some_and(|w| i64::from(w) != is);
        let mut at = now + 1;
        while at <= now + DAY {
            let of_day = at.rem_euclid(DAY);
            if differs(self.hour, of_day / 3600) {
                at += 3600 - of_day % 3600;
            } else if differs(self.minute, of_day / 60 % 60) {
                at += 60 - of_day % 60;
            } else if differs(self.second, of_day % 60) {
                at += 1;
            } else {
                return Some(at - now);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_some_dates() {
        let date = Date::from_seconds(951_782_399); // 2000-02-28 23:59:59, a Monday
        assert_eq!((date.year, date.month, date.day), (2000, 2, 28));
        assert_eq!((date.hour, date.minute, date.second), (23, 59, 59));
        assert_eq!(date.weekday, 2);
        let next = Date::from_seconds(951_782_400);
        assert_eq!((next.month, next.day, next.weekday), (2, 29, 3));
        let first = Date::from_seconds(0);
        assert_eq!(
            (first.year, first.month, first.day, first.weekday),
            (1970, 1, 1, 5)
        );
    }

    #[test]
    fn twelve_hours_have_no_zero() {
        let format = Format(RegisterB(0));
        for (hour, register) in [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (23, 0x91)] {
            assert_eq!(format.encode_hour(hour), register);
            assert_eq!(format.decode_hour(register), hour);
        }
    }

    #[test]
    fn alarms_match_later_today_or_tomorrow() {
        let alarm = |hour, minute, second| DailyAlarm {
            hour,
            minute,
            second,
        };
        assert_eq!(alarm(None, None, None).next(5), Some(1));
        assert_eq!(alarm(None, None, Some(5)).next(5), Some(60));
        assert_eq!(alarm(Some(0), Some(0), Some(0)).next(0), Some(DAY));
        assert_eq!(
            alarm(Some(23), None, Some(59)).next(0),
            Some(23 * 3600 + 59)
        );
        assert_eq!(alarm(Some(24), None, None).next(0), None);
    }

    proptest! {
        #[test]
        fn dates_go_there_and_back(seconds in -4_000_000_000_i64..40_000_000_000) {
            prop_assert_eq!(Date::from_seconds(seconds).seconds(), seconds);
        }

        #[test]
        fn the_next_match_is_the_first(
            now in 0_i64..200_000,
            hour in prop::option::of(0_u8..25),
            minute in prop::option::of(0_u8..61),
            second in prop::option::of(0_u8..61),
        ) {
            let matches = |at: i64| {
                let is = Date::from_seconds(at);
                hour.is_none_or(|h| h == is.hour)
                    && minute.is_none_or(|m| m == is.minute)
                    && second.is_none_or(|s| s == is.second)
            };
            let expected = (1..=DAY).find(|ahead| matches(now + ahead));
            prop_assert_eq!(DailyAlarm { hour, minute, second }.next(now), expected);
        }
    }
}
