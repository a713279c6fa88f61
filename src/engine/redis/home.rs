//! Where a server is, which Sentinels may change at any time: all that goes to it goes to one place.
//!
//! The master that was goes on as one until a Sentinel tells it otherwise, for ten seconds or so after a failover that
//! was asked for. What it confirms meanwhile is thrown away then, so a connection that still works proves nothing.

use redis::aio::MultiplexedConnection;
use redis::{ConnectionInfo, ErrorKind, Pipeline, RedisError, Value};
use tokio::sync::watch;

use super::wire::send;

/// Where the server is, and how often that has changed.
#[derive(Debug, Default)]
pub struct Home(watch::Sender<Place>);

#[derive(Debug, Default)]
struct Place {
    info: Option<ConnectionInfo>,
    moves: u64,
    /// Where nobody was when a connection was last tried.
    failed: Option<String>,
}

impl Home {
    /// Notes where it is. Returns how often it has moved: what was opened before the last move is of no use any more.
    pub fn is_at(&self, info: &ConnectionInfo) -> u64 {
        let mut moves = 0;
        self.0.send_if_modified(|place| {
            let moved = place.info.as_ref().is_some_and(|known| address(known) != address(info));
            if moved || place.info.is_none() {
                place.info = Some(info.clone());
            }
            place.moves += u64::from(moved);
            moves = place.moves;
            moved
        });
        moves
    }

    /// Where it is, as far as is known, and how often it has moved.
    ///
    /// # Errors
    /// Where nobody has found it yet.
    pub fn known(&self) -> Result<(ConnectionInfo, u64), RedisError> {
        let place = self.0.borrow();
        let not_yet = || RedisError::from((ErrorKind::Io, "the master has not been found yet"));
        Ok((place.info.clone().ok_or_else(not_yet)?, place.moves))
    }

    /// Ranks a place that only few Sentinels name; the greatest is the best guess. One where nobody answered a moment
    /// ago ranks below all others, and the one where the server was so far above all that are alike in that.
    pub fn guess(&self, info: &ConnectionInfo) -> (bool, bool) {
        let place = self.0.borrow();
        let here = Some(address(info));
        (place.failed != here, place.info.as_ref().map(address) == here)
    }

    /// How often it has moved.
    pub fn moves(&self) -> u64 {
        self.0.borrow().moves
    }

    /// Fails where it has moved since.
    ///
    /// # Errors
    /// That it has.
    pub fn has_stayed(&self, moves: u64) -> Result<(), RedisError> {
        if self.moves() == moves { Ok(()) } else { Err(moved()) }
    }

    fn tried(&self, failed: Option<String>) {
        self.0.send_if_modified(|place| {
            place.failed = failed;
            false // nobody waits for that
        });
    }
}

/// What tells places apart.
pub fn address(info: &ConnectionInfo) -> String {
    info.addr().to_string()
}

/// It has moved: what was there counts no more.
pub fn moved() -> RedisError {
    (ErrorKind::Io, "another server has become the master").into()
}

/// An attempt to reach the server. What is dropped without [`Attempt::succeeded`] has failed.
pub struct Attempt<'a> {
    home: &'a Home,
    info: &'a ConnectionInfo,
    moves: u64,
    over: bool,
}

impl<'a> Attempt<'a> {
    /// Begins an attempt to reach it at a place. Where `most` Sentinels name that place, it counts as moved there at
    /// once, whether it can be reached or not. Where only a few do, they may be wrong: it has to answer there first.
    pub fn new(home: &'a Home, info: &'a ConnectionInfo, most: bool) -> Self {
        let moves = if most { home.is_at(info) } else { home.moves() };
        Self { home, info, moves, over: false }
    }

    /// It has answered. Returns how often it has moved.
    ///
    /// # Errors
    /// Where it has moved elsewhere meanwhile.
    pub fn succeeded(mut self) -> Result<u64, RedisError> {
        self.over = true;
        self.home.tried(None);
        self.home.has_stayed(self.moves)?;
        Ok(self.home.is_at(self.info))
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.home.tried(Some(address(self.info)));
        }
    }
}

/// A connection of its own for a reader that blocks.
pub struct Dedicated {
    connection: MultiplexedConnection,
    place: watch::Receiver<Place>,
    moves: u64,
}

impl Dedicated {
    /// A connection to where the server was after so many moves.
    pub fn new(connection: MultiplexedConnection, home: &Home, moves: u64) -> Self {
        Self { connection, place: home.0.subscribe(), moves }
    }

    /// Runs a pipeline. A connection is of no use any more once the server has moved.
    ///
    /// # Errors
    /// As [`send`]; and where it has moved.
    pub async fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let moves = self.moves;
        tokio::select! {
            answers = send(&mut self.connection, pipeline) => answers,
            _ = self.place.wait_for(|place| place.moves != moves) => Err(moved()),
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::super::tests::fake;
    use super::super::wire::open;
    use super::*;

    fn at(port: u16) -> ConnectionInfo {
        ("127.0.0.1", port).into_connection_info().unwrap()
    }

    fn is_home(home: &Home, port: u16) -> bool {
        home.guess(&at(port)).1
    }

    #[tokio::test]
    async fn a_reader_hears_nothing_more_from_where_the_server_was() {
        let (home, place) = (Home::default(), fake(|_| Some("+OK")).await);
        let moves = home.is_at(&place);
        let mut reader = Dedicated::new(open(place, None).await.unwrap(), &home, moves);
        let mut look = redis::pipe();
        look.cmd("XREAD");
        assert!(reader.send(&look).await.is_ok());
        home.is_at(&at(1));
        assert!(reader.send(&look).await.is_err(), "it still answers there");
    }

    #[test]
    fn what_most_name_is_where_it_is_and_what_few_name_once_it_is_reached() {
        let home = Home::default();
        assert!(home.known().is_err());
        assert_eq!(Attempt::new(&home, &at(1), false).succeeded().unwrap(), 0, "the first place is no move");
        let first = home.moves();
        drop(Attempt::new(&home, &at(2), false));
        assert!(is_home(&home, 1) && home.has_stayed(first).is_ok());
        assert_eq!(home.guess(&at(2)), (false, false), "nobody was there");
        Attempt::new(&home, &at(2), false).succeeded().unwrap();
        assert!(is_home(&home, 2) && home.has_stayed(first).is_err());
        assert_eq!(home.guess(&at(2)), (true, true));

        let third = at(3);
        let attempt = Attempt::new(&home, &third, true);
        assert!(is_home(&home, 3));
        home.is_at(&at(4));
        attempt.succeeded().unwrap_err();
        assert!(is_home(&home, 4), "an attempt that took too long changes nothing");
    }

    #[test]
    fn where_nobody_was_is_the_worst_guess_until_the_next_one_fails_too() {
        let home = Home::default();
        home.is_at(&at(1));
        assert!(home.guess(&at(1)) > home.guess(&at(2)));
        drop(Attempt::new(&home, &at(1), false));
        assert!(home.guess(&at(1)) < home.guess(&at(2)));
        drop(Attempt::new(&home, &at(2), false));
        assert!(home.guess(&at(1)) > home.guess(&at(2)));
    }
}
