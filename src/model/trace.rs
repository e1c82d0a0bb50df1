//! W3C Trace Context (www.w3.org/TR/trace-context): what a sender's tracing calls the request, so that what we tell
//! others because of it stands in the same trace.

/// The longest `tracestate` that is passed on; everybody has to take as much.
const STATE_CHARS_MAX: usize = 512;
/// Of a longer one, members longer than this go first.
const MEMBER_CHARS_MAX: usize = 128;
const MEMBERS_MAX: usize = 32;

/// A valid `traceparent`, with the `tracestate` beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    parent: String,
    state: Option<String>,
}

impl Trace {
    /// The header, in lower case.
    pub const PARENT: &'static str = "traceparent";
    /// The header beside it.
    pub const STATE: &'static str = "tracestate";

    /// Reads both; `None` where the first is not valid. A `tracestate` that is not valid is none.
    pub fn read(parent: &str, state: Option<&str>) -> Option<Trace> {
        let parent = is_parent(parent.as_bytes()).then(|| parent.to_owned())?;
        Some(Trace { parent, state: state.and_then(members) })
    }

    /// As it came.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// What is passed on beside it.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The trace's id, in hex.
    pub fn trace_id(&self) -> &str {
        &self.parent[3..35]
    }

    /// The id of the sender's span, in hex.
    pub fn span_id(&self) -> &str {
        &self.parent[36..52]
    }

    /// The flags that we know: sampled, and random.
    pub fn flags(&self) -> u8 {
        u8::from_str_radix(&self.parent[53..55], 16).unwrap_or_default() & 3
    }

    /// Whether its sender records it.
    pub fn is_sampled(&self) -> bool {
        self.flags() & 1 == 1
    }

    /// The id of a span below the sender's: for the same `name` the same, and as good as chance for another. Never 0.
    pub fn span(&self, name: &str) -> u64 {
        // FNV-1a, with the end of SplitMix64 behind it, so that every bit of it counts.
        let bytes = self.parent.bytes().chain(name.bytes());
        let mut mixed = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).max(1)
    }

    /// The `traceparent` of a request that is made because of this one; `span` is its own id, and not 0. In the version
    /// that we know, with the flags that it knows: sampled, and random.
    pub fn child(&self, span: u64) -> String {
        format!("00-{}-{:016x}-{:02x}", self.trace_id(), span.max(1), self.flags())
    }
}

/// Version, trace, span and flags (3.2.2). Of a version that we do not know the beginning is read.
fn is_parent(text: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| text[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |range: std::ops::Range<usize>| text[range].iter().all(|b| *b == b'0');
    let dash = |place: usize| text[place] == b'-';
    let ends = || match &text[..2] {
        b"ff" => false,
        b"00" => text.len() == 55,
        _ => text.len() == 55 || (dash(55) && text.is_ascii()),
    };
    text.len() >= 55
        && (hex(0..2) && dash(2) && hex(3..35) && dash(35) && hex(36..52) && dash(52) && hex(53..55))
        && !is_zero(3..35)
        && !is_zero(36..52)
        && ends()
}

/// The list's members (3.3.1) as they are passed on; `None` where there is none, or one is not valid.
fn members(text: &str) -> Option<String> {
    let mut members: Vec<&str> = text.split(',').map(|member| member.trim_matches([' ', '\t'])).collect();
    members.retain(|member| !member.is_empty());
    let keys: std::collections::HashSet<_> = members.iter().map(|member| member.split('=').next()).collect();
    if members.is_empty()
        || members.len() > MEMBERS_MAX
        || keys.len() < members.len()
        || !members.iter().all(|m| is_member(m))
    {
        return None;
    }
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>() - 1;
    if length(&members) > STATE_CHARS_MAX {
        members.retain(|member| member.len() <= MEMBER_CHARS_MAX);
    }
    while !members.is_empty() && length(&members) > STATE_CHARS_MAX {
        members.pop();
    }
    (!members.is_empty()).then(|| members.join(","))
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_key = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'));
    let is_value = !value.is_empty() && value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=');
    is_key && key.len() <= 256 && is_value && value.len() <= 256
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_a_valid_parent_is_taken() {
        for (text, valid) in [
            (PARENT, true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes", true),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what-comes", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01", false),
            ("", false),
        ] {
            assert_eq!(Trace::read(text, None).is_some(), valid, "{text}");
        }
    }

    #[test]
    fn a_child_is_of_the_same_trace_in_the_version_that_is_known() {
        let child = |parent: &str, span| Trace::read(parent, None).expect("valid").child(span);
        assert_eq!(child(PARENT, 7), "00-0af7651916cd43dd8448eb211c80319c-0000000000000007-01");
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe-x";
        assert_eq!(child(later, u64::MAX), "00-0af7651916cd43dd8448eb211c80319c-ffffffffffffffff-02");
        assert!(Trace::read(&child(PARENT, 0), None).is_some(), "a span is never 0");
    }

    #[test]
    fn a_span_has_an_id_by_its_name() {
        let trace = Trace::read(PARENT, None).expect("valid");
        assert_eq!((trace.trace_id(), trace.span_id()), (&PARENT[3..35], &PARENT[36..52]));
        let other = Trace::read(&PARENT.replace("3331", "3332"), None).expect("valid");
        let ids: std::collections::HashSet<_> = (0..10_000).map(|n| trace.span(&format!("{n}"))).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(trace.span("1") == trace.span("1") && trace.span("1") != other.span("1"));
        // Each bit is set about as often as not.
        for bit in 0..64 {
            let set = ids.iter().filter(|id| *id >> bit & 1 == 1).count();
            assert!((4_500..5_500).contains(&set), "bit {bit}: {set}");
        }
        let sampled =
            |flags: &str| Trace::read(&format!("{}{flags}", &PARENT[..53]), None).expect("valid").is_sampled();
        assert_eq!(["00", "01", "02", "03", "ff"].map(sampled), [false, true, false, true, true]);
    }

    #[test]
    fn a_state_is_passed_on_whole_or_as_the_standard_cuts_it() {
        let state = |text: &str| Trace::read(PARENT, Some(text)).expect("valid").state().map(str::to_owned);
        for (text, passed) in [
            ("congo=t61rcWkgMzE", Some("congo=t61rcWkgMzE")),
            ("rojo=00f067aa0ba902b7 , ,congo=a b", Some("rojo=00f067aa0ba902b7,congo=a b")),
            ("tenant@system=1", Some("tenant@system=1")),
            ("", None),
            ("a=1,a=2", None),
            ("A=1", None),
            ("a", None),
            ("a=", None),
            ("a=1=2", None),
            ("a=é", None),
        ] {
            assert_eq!(state(text).as_deref(), passed, "{text}");
        }
        let many = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        assert_eq!((state(&many(32)), state(&many(33))), (Some(many(32)), None));
        let long = format!("a=1,long={},b={},c=3", "x".repeat(200), "y".repeat(250));
        assert_eq!(state(&long).expect("cut").len(), long.len(), "short enough as it is");
        let longer = format!("{long},d={}", "z".repeat(100));
        assert_eq!(state(&longer), Some(format!("a=1,c=3,d={}", "z".repeat(100))));
    }
}
