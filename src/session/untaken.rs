//! How much of what was sent on a connection the peer's system has not taken yet.
//!
//! A write says only that this system has taken something. What the peer has acknowledged tells a slow peer from a silent
//! one. Linux tells it by an `ioctl`, for which there is no safe call, and by its socket diagnostics: a question over
//! netlink, by addresses, that is answered within microseconds. It is asked only where a pong is late.

use tokio::net::TcpStream;

/// What the peer's system has not taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Untaken {
    /// Bytes that it has not acknowledged.
    pub bytes: u64,
    /// It has no room for more, and is asked now and then whether it has.
    pub full: bool,
}

/// Nothing, where this system does not tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn untaken(_: &TcpStream) -> Untaken {
    Untaken::default()
}

#[cfg(target_os = "linux")]
pub(super) use linux::untaken;

#[cfg(target_os = "linux")]
mod linux {
    use std::net::{IpAddr, SocketAddr};

    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    use rustix::net::{recv, sendto, socket_with};

    use super::{TcpStream, Untaken};

    /// `SOCK_DIAG_BY_FAMILY`, of a question and of its answer.
    const BY_FAMILY: u16 = 20;
    /// `NLM_F_REQUEST`.
    const REQUEST: u16 = 1;
    const TCP: u8 = 6;
    /// A question: `nlmsghdr` and `inet_diag_req_v2`.
    const QUESTION: u32 = 16 + 56;
    /// Where `idiag_timer` is in an answer, after `nlmsghdr` and two bytes; and what it is for a peer without room.
    const TIMER: usize = 18;
    const PROBES: u8 = 4;
    /// Where `idiag_wqueue` is: after four such bytes, the addresses, the timer's end and the other queue.
    const BYTES: std::ops::Range<usize> = 76..80;

    /// Nothing, where this system does not tell.
    pub(in super::super) fn untaken(stream: &TcpStream) -> Untaken {
        ask(stream).unwrap_or_default()
    }

    fn ask(stream: &TcpStream) -> Option<Untaken> {
        let question = question(stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let asked = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG)).ok()?;
        sendto(&asked, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).ok()?;
        let mut answer = [0; 512];
        let (_, length) = recv(&asked, &mut answer[..], RecvFlags::empty()).ok()?;
        if answer[4..6] != BY_FAMILY.to_ne_bytes() || length < BYTES.end {
            return None;
        }
        let bytes = u32::from_ne_bytes(answer[BYTES].try_into().ok()?).into();
        Some(Untaken { bytes, full: answer[TIMER] == PROBES })
    }

    fn question(here: SocketAddr, there: SocketAddr) -> Vec<u8> {
        let family = if here.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let interface = if let SocketAddr::V6(there) = there { there.scope_id() } else { 0 };
        let mut question = Vec::with_capacity(QUESTION as usize);
        question.extend(QUESTION.to_ne_bytes());
        question.extend(BY_FAMILY.to_ne_bytes());
        question.extend(REQUEST.to_ne_bytes());
        question.extend([0; 8]); // neither a number nor an address of its own
        question.extend([family.as_raw() as u8, TCP, 0, 0]);
        question.extend(u32::MAX.to_ne_bytes()); // in whatever state
        question.extend(here.port().to_be_bytes());
        question.extend(there.port().to_be_bytes());
        question.extend(sixteen(here.ip()));
        question.extend(sixteen(there.ip()));
        question.extend(interface.to_ne_bytes());
        question.extend([u8::MAX; 8]); // no cookie: the addresses are enough
        question
    }

    fn sixteen(ip: IpAddr) -> [u8; 16] {
        match ip {
            IpAddr::V6(ip) => ip.octets(),
            IpAddr::V4(ip) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&ip.octets());
                bytes
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::time::Duration;

        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio::net::TcpListener;
        use tokio::time::{sleep, timeout};

        use super::*;

        /// Acknowledgements take a moment.
        async fn until(mut holds: impl FnMut() -> bool) {
            let soon = async {
                while !holds() {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(30), soon).await.unwrap();
        }

        #[tokio::test]
        async fn the_system_tells_what_a_peer_has_not_taken() {
            for (listens, port_of) in
                [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")]
            {
                // Not every machine has IPv6.
                let Ok(listener) = TcpListener::bind(listens).await else { continue };
                let port = listener.local_addr().unwrap().port();
                let mut there = TcpStream::connect((port_of, port)).await.unwrap();
                let (mut here, _) = listener.accept().await.unwrap();
                here.write_all(b"x").await.unwrap();
                there.read_exact(&mut [0]).await.unwrap();
                until(|| ask(&here) == Some(Untaken::default())).await;
                let mut sent = 0;
                while let Ok(count) = here.try_write(&[0; 65_536]) {
                    sent += count as u64;
                }
                until(|| untaken(&here).full).await;
                let left = untaken(&here).bytes;
                assert!((1..sent).contains(&left), "{left} of {sent} at {listens}");
                there.read_exact(&mut vec![0; sent as usize]).await.unwrap();
                until(|| ask(&here) == Some(Untaken::default())).await;
            }
        }
    }
}
