//! What is read from an inbox, over connections that break, and how hints are written.

use std::sync::Mutex;

use redis::IntoConnectionInfo;

use super::super::tests::{context, fake};
use super::*;

#[tokio::test]
async fn the_pauses_begin_anew_with_a_connection_that_was_of_use() {
    for (answers, expected) in [(0, LAST_WAIT), (1, FIRST_WAIT)] {
        let mut left = answers;
        let place = fake(move |command| {
            if !command.starts_with("XREADGROUP") {
                return Some("+OK");
            }
            left -= 1;
            (left >= 0).then_some("*-1")
        });
        let (context, mut wait) = (context(place.await, Duration::ZERO), LAST_WAIT);
        let connection = context.link.dedicated("inbox").await.unwrap();
        let ended = read_until_broken(&context, connection, &mut Done::default(), &mut wait).await;
        assert!(matches!(ended, Ended::Broken(_)));
        assert_eq!(wait, expected);
        assert_eq!(
            context.pulse.why().is_some(),
            answers == 0,
            "one that was of use and broke is no trouble"
        );
    }
}

#[tokio::test]
async fn why_there_is_no_connection_is_known() {
    let nowhere = ("127.0.0.1", 1).into_connection_info().unwrap();
    let context = context(nowhere, Duration::ZERO);
    let known = async {
        while context.pulse.why().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = read(context.clone()) => {}
        known = timeout(Duration::from_secs(20), known) => known.expect("a reason"),
    }
}

#[tokio::test]
async fn what_is_done_with_goes_before_the_next_connection_reads_anything() {
    const ENTRY: &str = "*1\r\n*2\r\n$5\r\ninbox\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$5\r\nhints\r\n$0\r\n";
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (notes, mut reads) = (asked.clone(), 0);
    let place = fake(move |command| {
        notes.lock().unwrap().push(command.to_owned());
        if !command.starts_with("XREADGROUP") {
            return Some("+OK");
        }
        reads += 1;
        match reads {
            2 => Some(ENTRY),
            1 | 4 => Some("*-1"),
            _ => None, // the connection breaks: the first time before the entry is known to be gone
        }
    });
    let (context, mut done) = (context(place.await, Duration::ZERO), Done::default());
    for _ in 0..2 {
        let connection = context.link.dedicated("inbox").await.unwrap();
        read_until_broken(&context, connection, &mut done, &mut FIRST_WAIT.clone()).await;
    }
    let asked = asked.lock().unwrap();
    let verbs = |from: usize| asked[from..].iter().map(|command| command.split(' ').next().unwrap());
    let first = asked.iter().rposition(|command| command.starts_with("XDEL")).unwrap();
    assert!(verbs(first).eq(["XDEL", "XACK", "XREADGROUP", "XREADGROUP"]), "{asked:?}");
    assert!((first..first + 2).all(|at| asked[at].ends_with(" 1-0")), "{asked:?}");
    assert!(asked[first + 2].ends_with(" 0"), "{asked:?}");
    assert!(asked[first + 3].ends_with(" >"), "{asked:?}");
}

#[test]
fn hints_are_split_as_they_were_put_together_whatever_their_data() {
    let event = |data| Event { client: Some("tab-1".parse().unwrap()), ..Event::of_tests("42", data) };
    let (id, prev) = (EventId { ms: 17, seq: 1 }, EventId { ms: 16, seq: 0 });
    let mut hints = Hints::default();
    hints.event(&event("{\n3 look 7\n}"), Some(Logged { id, prev }));
    hints.look(&"7".parse().unwrap(), None);
    hints.look(&"7".parse().unwrap(), Some(id));
    hints.event(&event("\"é\""), None);
    let mut rest = hints.0.as_str();
    let mut next = || split(&mut rest);
    assert_eq!(next(), Some(("event 42 17-1 16-0 e =tab-1", "{\n3 look 7\n}")));
    assert_eq!(next(), Some(("look 7", "")));
    assert_eq!(next(), Some(("look 7 17-1", "")));
    assert_eq!(next(), Some(("transient 42 e =tab-1", "\"é\"")));
    assert_eq!(next(), None);
    for bad in ["", "\n", "1 look\n", "2 look\nx\n", "-1 look\n\n", "1 look\né\n", "look\n\n"] {
        assert_eq!(split(&mut &*bad), None, "{bad:?}");
    }
}
