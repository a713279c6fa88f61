//! Event ids, `<ms>-<n>`, as things that have an order.

/// Splits an event id into its two numbers; panics where it is none.
pub fn parse_id(id: &str) -> (u64, u64) {
    let parts = id.split_once('-').and_then(|(ms, n)| Some((ms.parse().ok()?, n.parse().ok()?)));
    parts.unwrap_or_else(|| panic!("{id:?} is not an event id of the form <ms>-<n>"))
}

/// Panics unless each id is newer than the one before it.
pub fn strictly_increasing(ids: &[String]) {
    for pair in ids.windows(2) {
        assert!(parse_id(&pair[0]) < parse_id(&pair[1]), "{} was followed by {}", pair[0], pair[1]);
    }
}
