//! Asks Sentinels where the master is.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_ok;
use redis::{ConnectionInfo, ErrorKind, RedisError};

use super::connection::at;
use super::wire::open;

/// How long one Sentinel may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The Sentinels of one master.
#[derive(Debug, Clone)]
pub struct Sentinels {
    /// Each of them.
    pub sentinels: Vec<ConnectionInfo>,
    /// What they call the master.
    pub name: String,
    /// How to connect to it, but for its address.
    pub master: ConnectionInfo,
}

impl Sentinels {
    /// Where the master is, by the first Sentinel that knows. Whether it is one, the server itself says.
    ///
    /// # Errors
    /// Where no Sentinel answers, or none knows the name.
    pub async fn master(&self) -> Result<ConnectionInfo, RedisError> {
        let (info, _) = select_ok(self.sentinels.iter().map(|sentinel| self.ask(sentinel).boxed())).await?;
        Ok(info)
    }

    async fn ask(&self, sentinel: &ConnectionInfo) -> Result<ConnectionInfo, RedisError> {
        let mut connection = open(sentinel.clone(), Some(ANSWER_TIMEOUT)).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answer: Option<(String, u16)> = question.query_async(&mut connection).await?;
        let (host, port) = answer.ok_or((ErrorKind::Io, "the Sentinels know no master of this name"))?;
        Ok(at(&self.master, &host, port))
    }
}
