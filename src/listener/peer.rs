//! Whose address a request comes from, where proxies stand between.

use std::net::{IpAddr, SocketAddr};

use hyper::header::HeaderMap;
use ipnet::IpNet;

/// The address of the client: the peer's, or where that is a proxy that is trusted, the rightmost one of
/// `X-Forwarded-For` that is not. Whatever stands further left the client may have written itself.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|network| network.contains(ip));
    let mut client = peer.to_canonical();
    // Taken as bytes: one that is no text must not take along what a proxy wrote beside it.
    let lists = headers.get_all("x-forwarded-for").iter().map(|list| list.as_bytes());
    let mut hops = lists.rev().flat_map(|list| list.rsplit(|byte| *byte == b',')).map(hop);
    while is_trusted(&client) {
        // Where the chain ends, or cannot be read on, the last proxy is all that is known.
        let Some(Some(before)) = hops.next() else { break };
        client = before;
    }
    client
}

/// An entry, with or without a port.
fn hop(bytes: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    bare.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        client_of_bytes(peer, &forwarded.iter().map(|list| list.as_bytes()).collect::<Vec<_>>())
    }

    fn client_of_bytes(peer: &str, forwarded: &[&[u8]]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for list in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(list).unwrap());
        }
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_from_the_right() {
        assert_eq!(client("1.2.3.4", &[]), "1.2.3.4");
        assert_eq!(client("1.2.3.4", &["9.9.9.9"]), "1.2.3.4", "anyone may write that header");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["9.9.9.9, 5.6.7.8"]), "5.6.7.8", "what is left of it is hearsay");
        assert_eq!(client("10.0.0.1", &["9.9.9.9, 5.6.7.8,10.0.0.2 , 10.0.0.3"]), "5.6.7.8");
        assert_eq!(
            client("10.0.0.1", &["9.9.9.9", "5.6.7.8", "10.0.0.2"]),
            "5.6.7.8",
            "several headers are one"
        );
        assert_eq!(client("::ffff:10.0.0.1", &["5.6.7.8:443"]), "5.6.7.8");
        assert_eq!(client("fd00::1", &["[2001:db8::7]:443"]), "2001:db8::7");
        assert_eq!(client("fd00::1", &["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["5.6.7.8, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn what_is_no_text_takes_nothing_else_along() {
        assert_eq!(client_of_bytes("10.0.0.1", &[b"\xff, 5.6.7.8"]), "5.6.7.8");
        assert_eq!(client_of_bytes("10.0.0.1", &[b"6.6.6.6", b"\xff, 5.6.7.8"]), "5.6.7.8");
        assert_eq!(client_of_bytes("10.0.0.1", &[b"6.6.6.6", b"\xff, 10.0.0.2"]), "10.0.0.2");
    }
}
