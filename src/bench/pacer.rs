//! Sleeps to the microsecond: the runtime's own timers are true to a millisecond only, which at thousands of events a
//! second is more than what is measured.

use std::io;
use std::time::Duration;

/// A timer.
pub struct Pacer {
    /// The system's timer, read like a pipe: what it has to say are eight bytes.
    #[cfg(target_os = "linux")]
    timer: tokio::net::unix::pipe::Receiver,
}

#[cfg(target_os = "linux")]
impl Pacer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// Where the process is out of files.
    pub fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer: tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(timer)? })
    }

    /// Sleeps for `time`.
    ///
    /// # Errors
    /// As the system has it.
    pub async fn sleep(&mut self, time: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        use std::os::fd::AsFd;
        let value = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            // Nothing at all would stop the timer.
            tv_nsec: i64::from(time.subsec_nanos()).max(1),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            self.timer.readable().await?;
            // More room than bytes: the runtime then knows that there are no more.
            match self.timer.try_read(&mut [0; 16]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(drop),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Pacer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// None.
    pub fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Sleeps for `time`, true to a millisecond.
    ///
    /// # Errors
    /// None.
    pub async fn sleep(&mut self, time: Duration) -> io::Result<()> {
        tokio::time::sleep(time).await;
        Ok(())
    }
}
