//! The three shapes in which Tencent Cloud CI writes a time.
//!
//! Workflow callbacks write `2020-12-01 11:00:41+0800`, job callbacks `2022-06-30T15:29:42+0800`, query replies
//! `2022-08-09T14:54:17+08:00`; all three are taken anywhere. They are read by hand, since each callback carries
//! several and only the last is RFC 3339. What is no time is nothing: a callback is not refused for a bad date.

use crate::model::Time;

/// The instant that `text` names; `None` when it is not one of the shapes, or names no zone.
pub(super) fn parse(text: &str) -> Option<Time> {
    let (date, rest) = text.as_bytes().split_first_chunk::<19>()?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b't' | b' ', h1, h2, b':', n1, n2, b':', s1, s2] = *date
    else {
        return None;
    };
    let (year, month, day) = (pair(y1, y2)? * 100 + pair(y3, y4)?, pair(m1, m2)?, pair(d1, d2)?);
    let (hour, minute, second) = (pair(h1, h2)?, pair(n1, n2)?, pair(s1, s2)?);
    if year == 0 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if day == 0 || day > days_in(year, month) {
        return None;
    }
    let (micros, zone) = fraction(rest)?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    Time::from_micros(seconds * 1_000_000 + micros).if_kept()
}

/// Two digits, as a number.
fn pair(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// Digits only, as a number.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
}

/// The microseconds of `.fraction`, zero when there is none, and what follows it. Finer digits are dropped.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', after)) = rest.split_first() else {
        return Some((0, rest));
    };
    let end = after.iter().position(|c| !c.is_ascii_digit()).filter(|&end| end > 0)?;
    let kept = end.min(6);
    let scale = 10_i64.pow(6 - kept as u32);
    Some((number(&after[..kept])? * scale, &after[end..]))
}

/// The seconds that `Z`, `+0800` or `+08:00` is ahead of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match *zone {
        [b'Z' | b'z'] => return Some(0),
        [sign, h1, h2, b':', m1, m2] | [sign, h1, h2, m1, m2] => (sign, pair(h1, h2)?, pair(m1, m2)?),
        _ => return None,
    };
    let ahead = (hours <= 23 && minutes <= 59).then_some(hours * 3600 + minutes * 60)?;
    match sign {
        b'+' => Some(ahead),
        b'-' => Some(-ahead),
        _ => None,
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, by the proleptic Gregorian calendar: years are counted from March, so that the leap day ends
/// one, and in eras of 400 years, which all have the same length.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_shapes_are_read() {
        for (text, utc) in [
            ("2020-12-01 11:00:41+0800", "2020-12-01T03:00:41Z"),
            ("2022-06-30T15:29:42+0800", "2022-06-30T07:29:42Z"),
            ("2022-08-09T14:54:17+08:00", "2022-08-09T06:54:17Z"),
            ("2022-08-09T14:54:17Z", "2022-08-09T14:54:17Z"),
            ("2022-08-09t14:54:17z", "2022-08-09T14:54:17Z"),
            ("2022-08-09 14:54:17-03:30", "2022-08-09T18:24:17Z"),
            ("2024-02-29 23:59:59.5+0000", "2024-02-29T23:59:59.500Z"),
            ("2024-12-31T23:30:00.1234567-0100", "2025-01-01T00:30:00.123456Z"),
            ("1969-12-31 23:59:59+0000", "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(parse(text).map(|t| t.to_string()).as_deref(), Some(utc), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_nothing() {
        for text in [
            "",
            "now",
            "2020-12-01",
            "2020-12-01 11:00:41",
            "2020-12-01 11:00:41 +0800",
            "2020-12-01 11:00:41+08",
            "2020-12-01 11:00:41+8:00",
            "2020-12-01 11:00:41+080",
            "2020-12-01 11:00:41+0860",
            "2020-12-01 11:00:41+2400",
            "2020-12-01 11:00:41*0800",
            "2020-12-01 11:00:41+0800x",
            "2020-12-01 11:00:41.+0800",
            "2020-12-01 11:00:41.5",
            "2020-13-01 11:00:41+0800",
            "2020-00-01 11:00:41+0800",
            "2021-02-29 11:00:41+0800",
            "1900-02-29 11:00:41+0800",
            "2020-04-31 11:00:41+0800",
            "2020-12-00 11:00:41+0800",
            "2020-12-01 24:00:41+0800",
            "2020-12-01 11:60:41+0800",
            "2020-12-01 11:00:60+0800",
            "0000-12-01 11:00:41+0800",
            "9999-12-31 23:59:59+0000",
            "2020/12/01 11:00:41+0800",
            "2020-12-01_11:00:41+0800",
            "+020-12-01 11:00:41+0800",
            "2020-12-01 11:00:4１+0800",
            "一二三四五六七八九十",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_is_where_the_calendar_says() {
        let day = 86_400_000_000;
        let mut at = Time::parse("1895-01-01T12:34:56Z").expect("a time").micros();
        while at < Time::parse("2105-01-01T00:00:00Z").expect("a time").micros() {
            let time = Time::from_micros(at);
            assert_eq!(parse(&time.to_string()), Some(time), "{time}");
            at += day;
        }
    }
}
