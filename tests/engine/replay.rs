//! What a page holds: whose events, how many, how much, and how the next page goes on.

use switchboard::engine::Event;
use switchboard::id::{EventId, UserId};

use crate::stage::{Kind, Stage, client, event, ids, user};

crate::on_both_engines!(
    a_page_holds_64_events_and_the_next_goes_on,
    a_page_ends_early_where_events_are_large,
    one_event_larger_than_a_page_still_fits,
    events_for_others_are_passed_over,
    events_for_others_do_not_fill_a_page,
    events_for_others_alone_move_the_reader_on,
    data_and_name_come_back_as_they_were,
);

/// Reads page after page and gives the events of each.
async fn pages(stage: &Stage, user: &UserId, since: EventId) -> Vec<Vec<EventId>> {
    let mut pages = Vec::new();
    let mut from = since;
    loop {
        let page = stage.resume(user, "tab", from).await;
        assert!(page.whole && page.from == from && page.upto >= from);
        assert!(ids(&page).iter().all(|id| *id > from && *id <= page.upto), "{page:?}");
        assert_eq!(page.replayed, page.events.len() as u64);
        pages.push(ids(&page));
        if !page.more {
            assert_eq!(page.upto, page.position);
            return pages;
        }
        assert!(page.upto > from, "a page that leads nowhere");
        from = page.upto;
    }
}

async fn a_page_holds_64_events_and_the_next_goes_on(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    let mut published = Vec::new();
    for n in 0..150 {
        published.push(stage.publish_plain(&user, &n.to_string()).await);
    }
    let first = stage.resume(&user, "tab", before).await;
    assert_eq!((first.replayed, first.more, first.upto), (64, true, published[63]));
    let welcome = stage.connect_since(&user, "tab", before).await;
    assert_eq!((welcome.replayed, welcome.more, welcome.upto), (150, true, published[63]));
    assert_eq!(first.position, published[149]);
    let pages = pages(&stage, &user, before).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
    assert_eq!(pages.concat(), published);
    // Exactly a page's worth is one page.
    let exact = stage.resume(&user, "tab", published[149 - 64]).await;
    assert_eq!((exact.events.len(), exact.more, exact.upto), (64, false, published[149]));
}

async fn a_page_ends_early_where_events_are_large(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    let large = format!("\"{}\"", "x".repeat(100_000));
    let mut published = Vec::new();
    for _ in 0..8 {
        published.push(stage.publish_plain(&user, &large).await);
    }
    let pages = pages(&stage, &user, before).await;
    // 256 KiB are reached with the third.
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2]);
    assert_eq!(pages.concat(), published);
}

async fn one_event_larger_than_a_page_still_fits(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "tab").await.position;
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    let published = [stage.publish_plain(&user, &large).await, stage.publish_plain(&user, &large).await];
    assert_eq!(pages(&stage, &user, before).await, published.map(|id| vec![id]));
}

async fn events_for_others_are_passed_over(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "a").await.position;
    let for_all = stage.publish_plain(&user, "1").await;
    let for_a = Event { client: Some(client("a")), ..event(&user, "2") };
    let for_a = stage.publish(for_a).await.id.unwrap();
    let not_a = Event { except: Some(client("a")), ..event(&user, "3") };
    let not_a = stage.publish(not_a).await.id.unwrap();
    let page = stage.resume(&user, "a", before).await;
    assert_eq!((ids(&page), page.replayed, page.whole), (vec![for_all, for_a], 2, true));
    assert_eq!((page.upto, page.position), (not_a, not_a), "the page covers what is not for it");
    let page = stage.connect_since(&user, "b", before).await;
    assert_eq!((ids(&page), page.replayed, page.whole), (vec![for_all, not_a], 2, true));
}

async fn events_for_others_do_not_fill_a_page(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "a").await.position;
    for n in 0..100 {
        let only = Event { client: Some(client("b")), ..event(&user, &n.to_string()) };
        stage.publish(only).await;
    }
    let mine = stage.publish_plain(&user, "mine").await;
    let page = stage.resume(&user, "a", before).await;
    assert_eq!((ids(&page), page.replayed, page.more), (vec![mine], 1, false));
    assert_eq!(stage.connect_since(&user, "b", before).await.replayed, 101);
}

async fn events_for_others_alone_move_the_reader_on(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let before = stage.connect(&user, "a").await.position;
    let only = Event { client: Some(client("b")), ..event(&user, "1") };
    let id = stage.publish(only).await.id.unwrap();
    let page = stage.resume(&user, "a", before).await;
    assert_eq!((ids(&page), page.replayed, page.whole, page.upto), (vec![], 0, true, id));
}

async fn data_and_name_come_back_as_they_were(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("ada@example.com"));
    let before = stage.connect(&user, "tab").await.position;
    let odd = [r#"{"a":  1e400, "a":"\u00e4ä"}"#, "null", "\"\\r\\n$5\"", "[ ]", "\"\""];
    for data in odd {
        let event = Event { event: "job:done.v-1_".parse().unwrap(), ..event(&user, data) };
        stage.publish(event).await;
    }
    let page = stage.resume(&user, "tab", before).await;
    for (event, data) in page.events.iter().zip(odd) {
        assert_eq!((&*event.event, &event.data[..]), ("job:done.v-1_", data.as_bytes()));
    }
    assert_eq!(page.events.len(), odd.len());
}
