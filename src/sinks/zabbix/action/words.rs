//! The numbers of Zabbix's action API, and the words that may be written for them (Zabbix documentation, "Action
//! object").

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A number of the API's or a word for it, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sinks::zabbix) struct Word(pub(in crate::sinks::zabbix) String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Word, D::Error> {
        struct Scalar;

        impl de::Visitor<'_> for Scalar {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Word, E> {
                Ok(Word(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Word, E> {
                Ok(Word(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
                Ok(Word(number.to_string()))
            }

            fn visit_bool<E>(self, yes: bool) -> Result<Word, E> {
                Ok(Word(u8::from(yes).to_string()))
            }
        }

        d.deserialize_any(Scalar)
    }
}

/// A number of the API's, and the words for it; the first is the one that is shown.
pub(in crate::sinks::zabbix) type Words = &'static [(i64, &'static [&'static str])];

/// The number that is meant, or what can be written instead.
pub(in crate::sinks::zabbix) fn number(words: Words, written: &Word) -> Result<i64, String> {
    let meant = written.0.trim().to_lowercase().replace(['_', '-'], " ");
    let is_meant = |(number, words): &&(i64, &[&str])| meant == number.to_string() || words.contains(&&*meant);
    match words.iter().find(is_meant) {
        Some((number, _)) => Ok(*number),
        None => Err(format!("{:?} is none of these: {}", written.0, listed(words))),
    }
}

/// The number `number` in words.
pub(super) fn word(words: Words, number: i64) -> &'static str {
    words.iter().find(|(n, _)| *n == number).and_then(|(_, words)| words.first()).copied().unwrap_or("?")
}

fn listed(words: Words) -> String {
    let one = |(number, words): &(i64, &[&str])| format!("{:?} ({number})", words.first().copied().unwrap_or_default());
    words.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(super) const NO_YES: Words = &[(0, &["no", "false"]), (1, &["yes", "true"])];
pub(super) const STATUS: Words = &[(0, &["enabled"]), (1, &["disabled"])];
pub(super) const FILTER_EVALTYPE: Words =
    &[(0, &["and/or"]), (1, &["and"]), (2, &["or"]), (3, &["custom expression", "formula"])];
pub(super) const EVALTYPE: Words = &[(0, &["and/or"]), (1, &["and"]), (2, &["or"])];
pub(super) const INVENTORY_MODE: Words = &[(-1, &["disabled"]), (0, &["manual"]), (1, &["automatic"])];
pub(super) const ACKNOWLEDGED: Words =
    &[(0, &["no", "false", "not acknowledged"]), (1, &["yes", "true", "acknowledged"])];
pub(super) const COMMAND_TYPE: Words =
    &[(0, &["script", "custom script"]), (1, &["ipmi"]), (2, &["ssh"]), (3, &["telnet"]), (4, &["global script"])];
pub(super) const EXECUTE_ON: Words =
    &[(0, &["agent", "zabbix agent"]), (1, &["server", "zabbix server"]), (2, &["proxy", "zabbix server (proxy)"])];
pub(super) const AUTHTYPE: Words = &[(0, &["password"]), (1, &["public key"])];

pub(super) const TRIGGER: i64 = 0;
pub(super) const DISCOVERY: i64 = 1;
pub(super) const AUTOREGISTRATION: i64 = 2;
pub(super) const INTERNAL: i64 = 3;
pub(super) const SERVICE: i64 = 4;

pub(super) const EVENTSOURCE: Words = &[
    (TRIGGER, &["trigger", "triggers"]),
    (DISCOVERY, &["discovery"]),
    (AUTOREGISTRATION, &["autoregistration", "auto registration"]),
    (INTERNAL, &["internal"]),
    (SERVICE, &["service", "services"]),
];

pub(in crate::sinks::zabbix) const SEVERITY: Words = &[
    (0, &["not classified"]),
    (1, &["information"]),
    (2, &["warning"]),
    (3, &["average"]),
    (4, &["high"]),
    (5, &["disaster"]),
];

pub(super) const MESSAGE: i64 = 0;
pub(super) const COMMAND: i64 = 1;
pub(super) const RECOVERY_MESSAGE: i64 = 11;
pub(super) const UPDATE_MESSAGE: i64 = 12;

pub(super) const OPERATIONTYPE: Words = &[
    (MESSAGE, &["message", "send message"]),
    (COMMAND, &["command", "remote command", "global script", "script"]),
    (2, &["add host"]),
    (3, &["remove host"]),
    (4, &["add to host group"]),
    (5, &["remove from host group"]),
    (6, &["link to template", "link template"]),
    (7, &["unlink from template", "unlink template"]),
    (8, &["enable host"]),
    (9, &["disable host"]),
    (10, &["set host inventory mode"]),
    (RECOVERY_MESSAGE, &["recovery message", "send recovery message", "notify all involved"]),
    (UPDATE_MESSAGE, &["update message", "send update message", "notify all involved in update"]),
    (13, &["add host tags"]),
    (14, &["remove host tags"]),
];

pub(super) const OPERATOR: Words = &[
    (0, &["=", "equals", "is"]),
    (1, &["<>", "!=", "≠", "does not equal", "is not"]),
    (2, &["contains", "like"]),
    (3, &["does not contain", "not like"]),
    (4, &["in"]),
    (5, &[">=", "≥", "is greater than or equals"]),
    (6, &["<=", "≤", "is less than or equals"]),
    (7, &["not in"]),
    (8, &["matches"]),
    (9, &["does not match"]),
    (10, &["yes"]),
    (11, &["no"]),
];

/// What the value of a condition is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    /// The id of one of these, or its name.
    Id(super::Kind),
    /// A number with words for it.
    Number(Words),
    /// A text, taken as it is.
    Text,
    /// There is none.
    Nothing,
}

/// One kind of condition.
pub(super) struct Condition {
    pub(super) number: i64,
    /// The event sources whose actions can have it.
    pub(super) sources: &'static [i64],
    /// The first is the default.
    pub(super) operators: &'static [i64],
    pub(super) holds: Holds,
}

/// What an event tells whether somebody has seen it: only operations can ask for it.
pub(super) const EVENT_ACKNOWLEDGED: i64 = 14;
/// Until 5.2; since then applications are item tags called `Application`.
pub(super) const APPLICATION: i64 = 15;
/// Until 3.x; since then there are operations for recovery.
pub(super) const TRIGGER_VALUE: i64 = 5;
/// Called "maintenance status" until 3.4, with other operators.
pub(super) const SUPPRESSED: i64 = 16;
pub(super) const EVENT_TAG_VALUE: i64 = 26;

pub(super) const CONDITIONTYPE: Words = &[
    (0, &["host group"]),
    (1, &["host"]),
    (2, &["trigger"]),
    (3, &["trigger name", "event name"]),
    (4, &["trigger severity", "severity"]),
    (TRIGGER_VALUE, &["trigger value"]),
    (6, &["time period"]),
    (7, &["host ip"]),
    (8, &["discovered service type", "service type"]),
    (9, &["discovered service port", "service port"]),
    (10, &["discovery status"]),
    (11, &["uptime or downtime duration", "uptime/downtime"]),
    (12, &["received value"]),
    (13, &["host template", "template"]),
    (EVENT_ACKNOWLEDGED, &["event acknowledged"]),
    (APPLICATION, &["application"]),
    (SUPPRESSED, &["problem is suppressed", "suppressed", "maintenance status"]),
    (18, &["discovery rule"]),
    (19, &["discovery check"]),
    (20, &["proxy"]),
    (21, &["discovery object"]),
    (22, &["host name"]),
    (23, &["event type"]),
    (24, &["host metadata"]),
    (25, &["event tag", "tag", "tag name"]),
    (EVENT_TAG_VALUE, &["event tag value", "tag value"]),
    (27, &["service"]),
    (28, &["service name"]),
];

const SERVICE_TYPE: Words = &[
    (0, &["ssh"]),
    (1, &["ldap"]),
    (2, &["smtp"]),
    (3, &["ftp"]),
    (4, &["http"]),
    (5, &["pop"]),
    (6, &["nntp"]),
    (7, &["imap"]),
    (8, &["tcp"]),
    (9, &["zabbix agent"]),
    (10, &["snmpv1"]),
    (11, &["snmpv2"]),
    (12, &["icmp ping"]),
    (13, &["snmpv3"]),
    (14, &["https"]),
    (15, &["telnet"]),
];
const DISCOVERY_STATUS: Words = &[(0, &["up"]), (1, &["down"]), (2, &["discovered"]), (3, &["lost"])];
const DISCOVERY_OBJECT: Words = &[(1, &["host"]), (2, &["service"])];
const EVENT_TYPE: Words = &[
    (0, &["item not supported", "item in \"not supported\" state"]),
    (2, &["lld rule not supported", "low level discovery rule in \"not supported\" state"]),
    (4, &["trigger unknown", "trigger in \"unknown\" state"]),
];

/// The conditions that there are today, and where.
pub(super) const CONDITIONS: &[Condition] = {
    use super::Kind;
    use Holds::{Id, Nothing, Number, Text};

    const fn row(number: i64, sources: &'static [i64], operators: &'static [i64], holds: Holds) -> Condition {
        Condition { number, sources, operators, holds }
    }
    const OF_HOSTS: &[i64] = &[TRIGGER, INTERNAL];
    const OF_TAGS: &[i64] = &[TRIGGER, INTERNAL, SERVICE];
    const EQUAL: &[i64] = &[0, 1];
    const ALIKE: &[i64] = &[0, 1, 2, 3];
    const REGISTERED: &[i64] = &[2, 3, 8, 9];
    &[
        row(0, OF_HOSTS, EQUAL, Id(Kind::HostGroup)),
        row(1, OF_HOSTS, EQUAL, Id(Kind::Host)),
        row(2, &[TRIGGER], EQUAL, Id(Kind::Trigger)),
        row(3, &[TRIGGER], &[2, 3], Text),
        row(4, &[TRIGGER], &[0, 1, 5, 6], Number(SEVERITY)),
        row(6, &[TRIGGER], &[4, 7], Text),
        row(7, &[DISCOVERY], EQUAL, Text),
        row(8, &[DISCOVERY], EQUAL, Number(SERVICE_TYPE)),
        row(9, &[DISCOVERY], EQUAL, Text),
        row(10, &[DISCOVERY], &[0], Number(DISCOVERY_STATUS)),
        row(11, &[DISCOVERY], &[5, 6], Text),
        row(12, &[DISCOVERY], &[0, 1, 2, 3, 5, 6], Text),
        row(13, OF_HOSTS, EQUAL, Id(Kind::Template)),
        row(SUPPRESSED, &[TRIGGER], &[10, 11], Nothing),
        row(18, &[DISCOVERY], EQUAL, Id(Kind::DiscoveryRule)),
        row(19, &[DISCOVERY], EQUAL, Text),
        row(20, &[DISCOVERY, AUTOREGISTRATION], EQUAL, Id(Kind::Proxy)),
        row(21, &[DISCOVERY], &[0], Number(DISCOVERY_OBJECT)),
        row(22, &[AUTOREGISTRATION], REGISTERED, Text),
        row(23, &[INTERNAL], &[0], Number(EVENT_TYPE)),
        row(24, &[AUTOREGISTRATION], REGISTERED, Text),
        row(25, OF_TAGS, ALIKE, Text),
        row(EVENT_TAG_VALUE, OF_TAGS, ALIKE, Text),
        row(27, &[SERVICE], EQUAL, Id(Kind::Service)),
        row(28, &[SERVICE], &[2, 3], Text),
    ]
};
