//! A reader of an ingress stream that is late.

use std::sync::Mutex;

use bytes::Bytes;

use super::super::tests::{context, fake};
use super::*;

#[tokio::test]
async fn nothing_goes_out_once_the_lease_is_over() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    let place = fake(move |command| {
        notes.lock().unwrap().push(command.to_owned());
        let is_lead = command.contains(scripts::LEAD.get_hash());
        Some(if is_lead { ":1" } else { "+OK" })
    });
    // A lease that is over as soon as it is had.
    let context = context(place.await, Duration::ZERO);
    let mut lease = Lease::new(&context, "events");
    assert!(lease.take().await.unwrap());
    let mut reader = Reader {
        context: &context,
        connection: context.link.dedicated("events").await.unwrap(),
        name: "events",
        stream: "events".to_owned(),
        read: Read::default(),
        lease: &mut lease,
        turn: &mut Turn::default(),
        past: &mut Past::default(),
        told: false,
    };
    asked.lock().unwrap().clear();
    for target in [("broadcast", "1"), ("user", "42")] {
        let fields = [target, ("event", "e")].map(|(field, value)| {
            (Bytes::from_static(field.as_bytes()), Bytes::from_static(value.as_bytes()))
        });
        let outcome = reader.route(vec![("1-0".to_owned(), fields.to_vec())]).await;
        assert!(matches!(outcome, Err(Stopped::NotHeld(NotHeld::Over))), "{outcome:?}");
    }
    assert_eq!(*asked.lock().unwrap(), [""; 0]);
}
