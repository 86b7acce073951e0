//! What a service calls itself: names with a place of their own in the settings, which travel as metadata and labels.

use std::collections::BTreeMap;

use rollcall_common::{
    service::{MAX_VALUE, Pairs},
    wire::MAX_FRAME,
};

/// A fault of one key.
type Fault = (&'static str, String);

/// Metadata with the names that have keys of their own.
pub(super) fn with_names(
    mut metadata: BTreeMap<String, String>,
    display_name: Option<String>,
    version: Option<String>,
    host: Option<String>,
    port: Option<u16>,
) -> Result<Pairs, Fault> {
    let port = port.map(|port| port.to_string());
    for (key, value) in [("display_name", display_name), ("version", version), ("host", host), ("port", port)] {
        put(&mut metadata, key, value, "metadata")?;
    }
    Pairs::try_from(metadata).map_err(|error| ("metadata", error.to_string()))
}

/// Labels with the two that everybody has.
pub(super) fn with_places(
    mut labels: BTreeMap<String, String>,
    site: Option<String>,
    environment: Option<String>,
) -> Result<Pairs, Fault> {
    for (key, value) in [("site", site), ("environment", environment)] {
        put(&mut labels, key, value, "labels")?;
    }
    Pairs::try_from(labels).map_err(|error| ("labels", error.to_string()))
}

/// Most bytes that labels and metadata may take together: an enrollment carries both in one frame, with its request.
const MOST: usize = MAX_FRAME - 1_024;

/// Whether labels and metadata fit a frame together.
pub(super) fn fitting(labels: &Pairs, metadata: &Pairs) -> Result<(), Fault> {
    // A length goes before each key and value.
    let bytes: usize = labels.iter().chain(metadata.iter()).map(|(key, value)| key.len() + value.len() + 4).sum();
    if bytes <= MOST {
        return Ok(());
    }
    Err(("labels", format!("with metadata they take {bytes} bytes; at most {MOST} fit a frame: leave some out")))
}

fn put(
    into: &mut BTreeMap<String, String>,
    key: &'static str,
    value: Option<String>,
    table: &str,
) -> Result<(), Fault> {
    let Some(value) = value else { return Ok(()) };
    if value.is_empty() || value.len() > MAX_VALUE {
        return Err((key, format!("give 1 to {MAX_VALUE} bytes")));
    }
    match into.insert(key.to_owned(), value.clone()) {
        Some(other) if other != value => {
            Err((key, format!("{value:?} is given, and {other:?} as `{key}` of {table}: leave one of them out")))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::wire::{
        codec::encode,
        message::{About, Up},
    };

    use super::*;

    #[test]
    fn too_much_for_a_frame_is_refused() {
        let pairs = |count: usize, bytes: usize| {
            Pairs::try_from((0..count).map(|n| (format!("{n:063}"), "v".repeat(bytes))).collect::<BTreeMap<_, _>>())
        };
        let (labels, metadata) = (pairs(32, 256).unwrap(), pairs(15, 256).unwrap());
        assert_eq!(fitting(&labels, &metadata), Ok(()));
        let about = About { machine: None, labels: labels.clone(), metadata };
        assert!(encode(&Up::About(Box::new(about))).is_ok_and(|frame| frame.len() <= MAX_FRAME));
        let (key, why) = fitting(&labels, &pairs(32, 256).unwrap()).unwrap_err();
        assert_eq!(key, "labels");
        assert!(why.contains("they take 20672 bytes; at most 15360 fit a frame"), "{why}");
    }

    #[test]
    fn names_travel_as_metadata_and_never_twice() {
        let given = |text: &str| Some(text.to_owned());
        let pairs = with_names(BTreeMap::new(), given("Edge 17"), given("2.1"), given("h"), Some(8080)).unwrap();
        let all: Vec<_> = pairs.iter().collect();
        assert_eq!(all, [("display_name", "Edge 17"), ("host", "h"), ("port", "8080"), ("version", "2.1")]);
        let free = BTreeMap::from([("version".to_owned(), "3".to_owned())]);
        assert_eq!(with_names(free.clone(), None, given("3"), None, None).unwrap().get("version"), Some("3"));
        assert_eq!(with_names(free, None, given("2"), None, None).unwrap_err().0, "version");
        assert_eq!(with_names(BTreeMap::new(), given(""), None, None, None).unwrap_err().0, "display_name");
        assert_eq!(with_names(BTreeMap::new(), given("\u{1b}[2J"), None, None, None).unwrap_err().0, "metadata");
        let placed = with_places(BTreeMap::new(), given("zrh"), given("prod")).unwrap();
        assert_eq!((placed.get("site"), placed.get("environment")), (Some("zrh"), Some("prod")));
    }
}
