//! Who may register: limits, replacement, resumption, and their order.

use switchboard::engine::{self, Connect, Connected, Mode};
use switchboard::id::EventId;

use crate::recorder::Told;
use crate::stage::{Kind, Options, RESUME, ids, user};

crate::on_both_engines!(
    a_later_connection_has_a_greater_order,
    one_session_more_than_allowed_is_full,
    a_connection_that_replaces_one_does_not_count,
    another_users_sessions_do_not_count,
    a_session_that_is_there_is_never_full,
    resume_registers_a_session_that_was_taken_off,
    a_session_whose_client_left_while_it_waited_is_over,
);

async fn a_later_connection_has_a_greater_order(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let mut last = 0;
    for client in ["a", "a", "b", "a"] {
        let order = stage.connect(&user, client).await.order;
        assert!(order > last, "{order} after {last}");
        last = order;
    }
    let resumed = stage.resume(&user, "a", EventId::ZERO).await;
    assert!(resumed.order > last);
}

async fn one_session_more_than_allowed_is_full(kind: Kind) {
    let stage = kind.stage_with(Options { max_sessions: 2, ..Options::default() }).await;
    let user = user("42");
    stage.connect(&user, "a").await;
    stage.connect(&user, "b").await;
    assert!(matches!(stage.try_connect(&user, "c", Mode::New, None).await, Connected::Full));
    assert_eq!(stage.sessions(&user).await, ["a@node-1", "b@node-1"]);
    stage.disconnect(&user, "a", None).await;
    stage.connect(&user, "c").await;
    assert_eq!(stage.sessions(&user).await, ["b@node-1", "c@node-1"]);
}

async fn a_connection_that_replaces_one_does_not_count(kind: Kind) {
    let stage = kind.stage_with(Options { max_sessions: 1, ..Options::default() }).await;
    let user = user("42");
    stage.connect(&user, "a").await;
    stage.connect(&user, "a").await;
    assert_eq!(stage.sessions(&user).await, ["a@node-1"]);
}

async fn another_users_sessions_do_not_count(kind: Kind) {
    let stage = kind.stage_with(Options { max_sessions: 1, ..Options::default() }).await;
    stage.connect(&user("1"), "a").await;
    stage.connect(&user("2"), "a").await;
}

async fn a_session_that_is_there_is_never_full(kind: Kind) {
    let stage = kind.stage_with(Options { max_sessions: 1, ..Options::default() }).await;
    let user = user("42");
    let welcome = stage.connect(&user, "a").await;
    stage.resume(&user, "a", welcome.position).await;
    assert_eq!(stage.sessions(&user).await, ["a@node-1"]);
}

async fn resume_registers_a_session_that_was_taken_off(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let welcome = stage.connect(&user, "a").await;
    stage.disconnect(&user, "a", None).await;
    let missed = stage.publish_plain(&user, "1").await;
    assert_eq!(stage.sessions(&user).await, Vec::<String>::new());
    let resumed = stage.resume(&user, "a", welcome.position).await;
    assert_eq!((ids(&resumed), resumed.whole), (vec![missed], true));
    assert_eq!(stage.sessions(&user).await, ["a@node-1"]);
}

#[tokio::test]
async fn a_newer_connection_elsewhere_replaces_and_is_not_taken_back() {
    let (a, user) = (Kind::Redis.stage().await, user("42"));
    let b = a.another("node-2").await;
    let old = a.connect(&user, "tab").await;
    let new = b.connect(&user, "tab").await;
    assert!(new.order > old.order);
    let told = a
        .node
        .wait_for("word of the newer connection", |told| match told {
            Told::Replaced { user, client, order } => Some((user.clone(), client.clone(), *order)),
            _ => None,
        })
        .await;
    assert_eq!(told, ("42".to_owned(), "tab".to_owned(), new.order));

    // It yields also where the clock has gone back since it began.
    for order in [old.order, u64::MAX] {
        let mode = Mode::Resume { order, told: engine::Told::default() };
        let yielded = a.try_connect(&user, "tab", mode, Some(old.position)).await;
        assert!(matches!(yielded, Connected::Replaced), "{yielded:?}");
    }
    assert_eq!(a.sessions(&user).await, ["tab@node-2"]);
    // The end of the old socket takes nothing of the new one away.
    a.disconnect(&user, "tab", None).await;
    assert_eq!(a.sessions(&user).await, ["tab@node-2"]);
    assert_eq!(b.publish(crate::stage::event(&user, "1")).await.nodes, std::slice::from_ref(&b.id));

    a.connect(&user, "tab").await;
    assert_eq!(b.sessions(&user).await, ["tab@node-1"]);
    b.node.wait_for("word", |told| matches!(told, Told::Replaced { .. }).then_some(())).await;
}

#[tokio::test]
async fn the_limit_counts_over_all_nodes() {
    let a = Kind::Redis.stage_with(Options { max_sessions: 2, ..Options::default() }).await;
    let (b, user) = (a.another("node-2").await, user("42"));
    a.connect(&user, "a").await;
    b.connect(&user, "b").await;
    assert!(matches!(a.try_connect(&user, "c", Mode::New, None).await, Connected::Full));
    // One that takes a place over from another node is no third.
    a.connect(&user, "b").await;
    assert_eq!(a.sessions(&user).await, ["a@node-1", "b@node-1"]);
}

async fn a_session_whose_client_left_while_it_waited_is_over(kind: Kind) {
    let (stage, user) = (kind.stage().await, user("42"));
    let begin = |mode, since| Connect {
        user: user.clone(),
        client: "tab".parse().unwrap(),
        mode,
        since,
        confirmed: None,
    };
    // Both are queued before either is done.
    drop(stage.engine.connect(begin(Mode::New, None)));
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.sessions(&user).await, Vec::<String>::new());
    // The same where it was there, and had begun to catch up.
    let position = stage.connect(&user, "tab").await.position;
    let catching_up = stage.engine.connect(begin(RESUME, Some(position)));
    stage.disconnect(&user, "tab", None).await;
    assert_eq!(stage.sessions(&user).await, Vec::<String>::new());
    drop(catching_up);
    // Whoever awaits its beginning gets it, whatever older end is on its way.
    let again = stage.engine.connect(begin(Mode::New, None));
    stage.disconnect(&user, "tab", None).await;
    assert!(matches!(again.await, Ok(Connected::Registered(_))));
}
