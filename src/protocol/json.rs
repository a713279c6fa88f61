//! JSON as peers send it: objects that are objects, lists that end.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Most users of one event, and most items of one request. Of a longer list one more is kept, which shows it.
pub const MAX_ITEMS: usize = 1000;

/// Reads an object. A list of the same values, in the order in which they are declared here, is none: serde would take
/// it for one.
///
/// # Errors
/// Serde's, or none where it is something else than an object.
pub fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Option<serde_json::Error>> {
    match text.trim_ascii_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(Some),
        false => Err(None),
    }
}

/// As [`object`], of bytes that may be anything.
///
/// # Errors
/// As [`object`].
pub fn object_of<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Option<serde_json::Error>> {
    object(std::str::from_utf8(bytes).map_err(|_| None)?)
}

/// A list of which no more is kept than tells that it is too long: two bytes an item on the wire are dozens here.
#[derive(Debug)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while items.len() <= MAX_ITEMS {
                    let Some(item) = list.next_element()? else { return Ok(List(items)) };
                    items.push(item);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(List(items))
            }
        }

        deserializer.deserialize_seq(Items(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Pair {
        a: u8,
        b: u8,
    }

    #[test]
    fn an_object_is_an_object() {
        assert_eq!(object::<Pair>("\n\t {\"b\":2,\"a\":1} ").unwrap(), Pair { a: 1, b: 2 });
        assert!(serde_json::from_str::<Pair>("[1,2]").is_ok(), "that is why");
        for other in ["[1,2]", " [1,2]", "", "x", "null", "\u{a0}{\"a\":1,\"b\":2}"] {
            assert!(object::<Pair>(other).unwrap_err().is_none(), "{other:?}");
        }
        for broken in ["{", "{}", "{\"a\":1,\"b\":2}x", "{\"a\":1,\"a\":1,\"b\":2}", "{\"a\":1e3,\"b\":2}"] {
            assert!(object::<Pair>(broken).unwrap_err().is_some(), "{broken:?}");
        }
        assert!(object_of::<Pair>(b"{\"a\":1,\"b\":2,\"\xff\":3}").is_err());
    }

    #[test]
    fn a_list_is_read_to_its_end_and_kept_no_further_than_tells() {
        let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        let read = |text: &str| serde_json::from_str::<List<u8>>(text).map(|list| list.0.len());
        for (count, kept) in [(0, 0), (1000, 1000), (1001, 1001), (50_000, 1001)] {
            assert_eq!(read(&list(count)).unwrap(), kept);
        }
        assert!(read(&list(2000)[..3000]).is_err(), "it does not end");
        assert!(read("[1,\"x\"]").is_err() && read("{}").is_err());
    }
}
