//! Whose request it is: the socket's address, or what trusted proxies say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The sender's address. When the socket's is that of a trusted proxy, it is the right-most entry of
/// `X-Forwarded-For` that is not another one: what stands further left is only the sender's word. With trusted proxies
/// configured, a Unix socket counts as one; without, who calls over it is local.
pub(super) fn sender(socket: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let mut known = socket.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if trusted.is_empty() || !socket.is_none_or(|address| is_trusted(&address)) {
        return known;
    }
    let lines = headers.get_all(&FORWARDED_FOR);
    for entry in lines.iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')) {
        // What cannot be read ends the chain of those who vouch for one another.
        let Some(address) = address(entry.trim()) else { break };
        known = address;
        if !is_trusted(&address) {
            break;
        }
    }
    known
}

/// Who shares a place or memory with this address: of IPv6, all of its network of 64 bits, since one host may have them all.
pub(super) fn holder(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

/// An entry of the list: an address, which some proxies write with its port, or with brackets.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|e| e.strip_suffix(']')).unwrap_or(entry);
    let parsed = bare.parse::<IpAddr>().or_else(|_| entry.parse::<SocketAddr>().map(|a| a.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed_and_only_their_last_word() {
        let proxies = ["10.0.0.0/8", "2001:db8::/32"];
        for (socket, trusted, lines, expected) in [
            (Some("192.0.2.1"), &proxies[..0], &["203.0.113.9"][..], "192.0.2.1"),
            (Some("192.0.2.1"), &proxies, &["203.0.113.9"], "192.0.2.1"),
            (Some("10.0.0.1"), &proxies, &["203.0.113.9"], "203.0.113.9"),
            (Some("10.0.0.1"), &proxies, &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            (Some("10.0.0.1"), &proxies, &["1.1.1.1, 203.0.113.9 ,10.2.2.2"], "203.0.113.9"),
            (Some("10.0.0.1"), &proxies, &["1.1.1.1", "203.0.113.9", "10.2.2.2"], "203.0.113.9"),
            (Some("10.0.0.1"), &proxies, &["203.0.113.9:4711"], "203.0.113.9"),
            (Some("2001:db8::1"), &proxies, &["[2001:470::9]:4711"], "2001:470::9"),
            (Some("2001:db8::1"), &proxies, &["[2001:470::9]"], "2001:470::9"),
            (Some("10.0.0.1"), &proxies, &["::ffff:203.0.113.9"], "203.0.113.9"),
            (Some("10.0.0.1"), &proxies, &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            (Some("10.0.0.1"), &proxies, &["203.0.113.9, unknown, 10.2.2.2"], "10.2.2.2"),
            (Some("10.0.0.1"), &proxies, &["203.0.113.9, unknown"], "10.0.0.1"),
            (Some("10.0.0.1"), &proxies, &[""], "10.0.0.1"),
            (Some("10.0.0.1"), &proxies, &[], "10.0.0.1"),
            (None, &proxies[..0], &["203.0.113.9"], "127.0.0.1"),
            (None, &proxies, &["203.0.113.9"], "203.0.113.9"),
            (None, &proxies, &[], "127.0.0.1"),
        ] {
            let socket = socket.map(|s| s.parse().expect("an address"));
            let trusted: Vec<IpNet> = trusted.iter().map(|n| n.parse().expect("a network")).collect();
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&FORWARDED_FOR, line.parse().expect("a value"));
            }
            assert_eq!(sender(socket, &headers, &trusted).to_string(), expected, "{socket:?} {lines:?}");
        }
    }
}
