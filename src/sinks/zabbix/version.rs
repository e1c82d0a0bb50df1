//! Zabbix's versions, as far as its API changes with them.

use std::fmt;

/// What a Zabbix is, as far as its API changes with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// 6 of 6.4.12.
    pub major: u32,
    /// 4 of 6.4.12.
    pub minor: u32,
}

impl Version {
    /// From here on the header authorizes; before, a member of the body.
    pub const HEADER: Version = Version { major: 6, minor: 4 };
    /// From here on there are API tokens, and `user.login` takes `username`.
    pub const TOKENS: Version = Version { major: 5, minor: 4 };
    /// From here on there is `history.push`.
    pub const HISTORY_PUSH: Version = Version { major: 7, minor: 0 };

    /// Reads `6.0.14`, `7.0.0rc1`, `7.10`.
    pub fn parse(text: &str) -> Option<Version> {
        let number = |part: &str| part[..part.bytes().take_while(u8::is_ascii_digit).count()].parse().ok();
        let mut parts = text.trim().split('.');
        Some(Version { major: number(parts.next()?)?, minor: number(parts.next()?)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_not_texts() {
        for (text, expected) in [
            ("6.0.14", Some((6, 0))),
            ("7.0.0rc1", Some((7, 0))),
            ("7.4rc2", Some((7, 4))),
            ("8.0.0alpha1", Some((8, 0))),
            ("7.10", Some((7, 10))),
            (" 5.4.9\n", Some((5, 4))),
            ("6", None),
            ("", None),
            ("six.four", None),
            ("6.", None),
        ] {
            assert_eq!(Version::parse(text), expected.map(|(major, minor)| Version { major, minor }), "{text:?}");
        }
        let read = |text| Version::parse(text).expect("a version");
        assert!(
            read("7.10.1") > read("7.2.3") && read("10.0") > Version::HISTORY_PUSH && read("6.2.9") < Version::HEADER
        );
        assert_eq!(read("6.0.14").to_string(), "6.0");
    }
}
