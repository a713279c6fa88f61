//! An event's data: JSON text that passes through as it came.

use std::fmt;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// JSON text, shared: a slice of the frame it came in. Printing it shows no payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(Bytes);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Data {
    /// JSON `null`.
    pub fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// Takes a part of a text, shared with it; the part is known to be JSON.
    pub fn part_of(text: &Utf8Bytes, part: &str) -> Self {
        Self(AsRef::<Bytes>::as_ref(text).slice_ref(part.as_bytes()))
    }

    /// Takes text that is known to be JSON.
    pub fn from_json_text(text: String) -> Self {
        Self(Bytes::from(text))
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        // Built from `&str` alone, so this never falls back.
        std::str::from_utf8(&self.0).unwrap_or("null")
    }

    /// The same by itself: kept for long, a part would keep all of the frame or body that it came in.
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The JSON text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
