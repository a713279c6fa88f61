//! Tests of the lanes.

use std::sync::Mutex;

use tokio::sync::oneshot;

use super::super::scripts;
use super::super::tests::{context, fake};
use super::*;

#[tokio::test]
async fn what_is_owed_keeps_no_lane_whose_node_has_gone() {
    let context = context(fake(|_| Some("-ERR refused")).await, Duration::ZERO);
    let end = Disconnect { user: "42".parse().unwrap(), client: "tab".parse().unwrap(), confirmed: None };
    let (queue, ops) = mpsc::channel(1);
    let (reply, answer) = oneshot::channel();
    assert!(queue.send(Op::Disconnect(end, reply)).await.is_ok());
    drop(queue);
    let ended = timeout(Duration::from_secs(20), Sessions::new(context).run(ops)).await;
    assert!(ended.is_ok(), "it goes on for ever");
    assert!(answer.await.unwrap().is_err());
}

#[tokio::test]
async fn an_end_is_done_though_presence_takes_nothing_and_is_told_later() {
    let calls = Arc::new(Mutex::new((0, false)));
    let counted = calls.clone();
    let place = fake(move |command| {
        let (ends, tells) = &mut *counted.lock().unwrap();
        let words: Vec<_> = command.split(' ').collect();
        let is = |script: &redis::Script| words.get(1) == Some(&script.get_hash());
        if is(&scripts::DISCONNECT) {
            *ends += 1;
            // For each of its users' four keys.
            let one = "*1\r\n$16\r\n0 0 5 offline n1";
            let three = "*3\r\n$16\r\n0 0 5 offline n1\r\n$16\r\n0 0 5 offline n1\r\n$16\r\n0 0 5 offline n1";
            return Some(if words[2] == "4" { one } else { three });
        }
        match (is(&scripts::TELL), *tells) {
            (false, _) => Some(":1"),
            (true, false) => Some("-WRONGTYPE of another kind"),
            (true, true) => Some("*3\r\n$11\r\noffline 1-0\r\n$11\r\noffline 2-0\r\n$11\r\noffline 3-0"),
        }
    });
    let mut lane = Sessions::new(context(place.await, Duration::ZERO));
    lane.context.link.trust(Instant::now() + Duration::from_secs(3600));
    for (user, client) in [("1", "a"), ("2", "a"), ("3", "a"), ("3", "b")] {
        let (reply, answer) = oneshot::channel();
        let end =
            Disconnect { user: user.parse().unwrap(), client: client.parse().unwrap(), confirmed: None };
        lane.batch(&mut vec![Op::Disconnect(end, reply)]).await;
        answer.await.unwrap().unwrap();
    }
    assert_eq!((lane.owed.is_empty(), lane.untold.len()), (true, 3));
    let later = Duration::from_secs(3600);
    for (wait, tells, left, called) in
        [(later, false, 3, 4), (Duration::ZERO, false, 3, 5), (Duration::ZERO, true, 0, 6)]
    {
        calls.lock().unwrap().1 = tells;
        lane.retell = Instant::now() + wait;
        lane.batch(&mut Vec::new()).await;
        assert_eq!((lane.untold.len(), calls.lock().unwrap().0), (left, called));
    }
}

#[tokio::test]
async fn all_who_are_untold_have_their_turn_while_what_they_are_owed_is_kept() {
    let mut lane = Sessions::new(context(fake(|_| Some("+OK")).await, Duration::ZERO));
    for users in [0, 5, 100, 20_000_usize] {
        lane.untold = (0..users).map(|n| (format!("{n}").parse().unwrap(), ())).collect();
        let turns = users.div_ceil(sessions::MAX_CONNECTS);
        let tried: Vec<_> = std::iter::repeat_with(|| lane.next_untold()).take(turns).collect();
        let all: std::collections::HashSet<_> = tried.iter().flatten().collect();
        assert_eq!(all.len(), users);
        let (pause, turns) = (lane.pause(), turns as u32);
        assert!(pause == RETELL || 3 * turns * pause <= lane.context.config.log_ttl, "{users}: {pause:?}");
        assert!(
            3 * turns * pause >= lane.context.config.log_ttl / 2 || pause == RETELL,
            "{users}: {pause:?}"
        );
    }
}

#[tokio::test]
async fn the_next_are_registered_while_presence_is_told_of_those_who_wait_for_that() {
    let (calls, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (noted, awaited) = (calls.clone(), answers.clone());
    let place = fake(move |command| {
        let words: Vec<_> = command.split(' ').collect();
        let is = |script: &redis::Script| words.get(1) == Some(&script.get_hash());
        let (what, all, item) = if is(&scripts::CONNECT) {
            let all = words[2].parse::<usize>().unwrap() / 4;
            ("registered", all, "ok 1-0 1-0 1 0 1-0 0 5 1 1-0 0-0 - 0 5 5 online n")
        } else if is(&scripts::TELL) {
            ("told of", words.iter().filter(|word| **word == "online").count(), "online 1-0")
        } else {
            return Some(":1");
        };
        let let_in = awaited.lock().unwrap().iter_mut().map(has_come).filter(|come| *come).count();
        noted.lock().unwrap().push(format!("{all} {what}, {let_in} let in"));
        let items = format!("\r\n${}\r\n{item}", item.len()).repeat(all);
        Some(&*format!("*{all}{items}").leak())
    });
    let mut lane = Sessions::new(context(place.await, Duration::ZERO));
    let mut ops = Vec::new();
    for number in 0..=sessions::MAX_CONNECTS {
        let (reply, answer) = oneshot::channel();
        let (user, client) = (number.to_string().parse().unwrap(), "tab".parse().unwrap());
        ops.push(Op::Connect(Connect { user, client, mode: Mode::New, since: None, confirmed: None }, reply));
        answers.lock().unwrap().push(answer);
    }
    lane.batch(&mut ops).await;
    let expected =
        ["32 registered, 0 let in", "1 registered, 0 let in", "32 told of, 0 let in", "1 told of, 32 let in"];
    assert_eq!(*calls.lock().unwrap(), expected);
    assert!(has_come(answers.lock().unwrap().last_mut().unwrap()));
}

/// Takes the answer, where it has come.
fn has_come(answer: &mut oneshot::Receiver<Result<Connected, Unavailable>>) -> bool {
    matches!(answer.try_recv(), Ok(Ok(Connected::Registered(_))))
}
