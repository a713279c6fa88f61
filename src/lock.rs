//! Taking a lock, whoever panicked while holding it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex; poison is passed over. Each change here is whole before anything can panic, so what the mutex guards is
/// as good as ever, and to refuse it would fail everyone for one.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
