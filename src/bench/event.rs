//! An event's data: which of its user's events it is, of which run, and when it was due. The same text in every
//! protocol, because each carries `data` as JSON.

const NUMBER: &[u8] = b"\"data\":{\"n\":";
const RUN: &[u8] = b",\"r\":\"";
const TIME: &[u8] = b"\",\"t\":";

/// An event in a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// Where its data begin.
    pub at: usize,
    /// Its number and time; none where another run published it: the users of all are called the same.
    pub ours: Option<(u64, u64)>,
}

/// What stands between an event's number and its time in a run.
pub fn mark(run: &str) -> Vec<u8> {
    [RUN, run.as_bytes(), TIME].concat()
}

/// Appends an event's data, up to its padding.
pub fn head(out: &mut Vec<u8>, mark: &[u8], number: u64, then_ns: u64) {
    out.extend_from_slice(NUMBER);
    decimal(out, number);
    out.extend_from_slice(mark);
    decimal(out, then_ns);
}

/// Appends what a worker's answer refers to: whose event it was, and when that was due.
pub fn reference(out: &mut Vec<u8>, user: usize, then_ns: u64) {
    decimal(out, user as u64);
    out.push(b'-');
    decimal(out, then_ns);
}

/// Reads such a reference at the head of a text.
pub fn read_reference(text: &[u8]) -> Option<(usize, u64)> {
    let (user, rest) = digits(text)?;
    let (then_ns, _) = digits(rest.strip_prefix(b"-")?)?;
    Some((usize::try_from(user).ok()?, then_ns))
}

/// Reads an event's frame in the run with this mark; none where it is another frame.
pub fn read(text: &[u8], mark: &[u8]) -> Option<Event> {
    let at = text.windows(NUMBER.len()).position(|bytes| bytes == NUMBER)?;
    let (number, rest) = digits(&text[at + NUMBER.len()..])?;
    let ours = match rest.strip_prefix(mark) {
        Some(rest) => Some((number, digits(rest)?.0)),
        None if rest.starts_with(RUN) => None,
        None => return None,
    };
    Some(Event { at, ours })
}

/// Appends a number as text.
fn decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..end].iter().fold(0u64, |n, digit| n.wrapping_mul(10) + u64::from(digit - b'0'));
    (end > 0).then_some((number, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_known_in_either_protocol_and_not_taken_for_that_of_another_run() {
        let mut data = Vec::new();
        head(&mut data, &mark("0badcafe"), 70, 1_234_567_890_123);
        let data = String::from_utf8(data).unwrap();
        let ours = format!(r#"{{"type":"event","id":"1-0","event":"bench",{data},"p":"x"}}}}"#);
        let theirs = format!(r#"42["event",{{"event":"bench",{data},"p":"x"}}}}]"#);
        for text in [&ours, &theirs] {
            let at = text.find("\"data\"").unwrap();
            let here = read(text.as_bytes(), &mark("0badcafe"));
            assert_eq!(here, Some(Event { at, ours: Some((70, 1_234_567_890_123)) }), "{text}");
            assert_eq!(read(text.as_bytes(), &mark("0badcaff")), Some(Event { at, ours: None }), "{text}");
        }
        for other in [r#"{"type":"pong"}"#, r#"{"data":{"n":1,"t":2}}"#, r#"{"data":{"n":"x"}}"#] {
            assert_eq!(read(other.as_bytes(), &mark("0badcafe")), None, "{other}");
        }
    }

    #[test]
    fn an_answer_says_whose_event_it_is_about() {
        let mut text = Vec::new();
        reference(&mut text, 7, 1_234);
        text.extend_from_slice(br#"","id":"1-0"}"#);
        assert_eq!(read_reference(&text), Some((7, 1_234)));
        assert_eq!(read_reference(b"7"), None);
    }

    #[test]
    fn the_longest_head_fits_into_the_least_payload() {
        // As many as can be published in two days, numbered, and three days after the start.
        let (number, then_ns) = (2 * 86_400 * 10_000_000, 3 * 86_400_000_000_000);
        let mut data = Vec::new();
        head(&mut data, &mark("0badcafe"), number, then_ns);
        let data = data.len() - br#""data":"#.len() + br#","p":""}"#.len();
        assert!(data <= crate::bench::plan::LEAST_PAYLOAD, "{data}");
    }
}
