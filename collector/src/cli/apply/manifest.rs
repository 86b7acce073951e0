//! What a manifest says: YAML, JSON or one JSON object a line, read into items.
//!
//! It owns the forms. Names are taken as they are written: to YAML `1.10` is a number and `007` is seven, but
//! whoever wrote them meant these letters.

use std::{
    fmt,
    io::{self, Read},
    path::Path,
};

use rollcall_common::id::ServiceKey;
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json};

use super::super::{Exit, Failure};
use crate::config::Source;

/// Largest manifest.
const MAX_MANIFEST: u64 = 512 << 20;
/// What holds a name.
const NAMES: [&str; 5] = ["id", "parent", "service", "checker_kind", "component_id"];

/// The text of a manifest; `-` is standard input.
pub(super) fn text(source: &dyn Source, file: &Path) -> Result<String, Failure> {
    let unreadable = |error: io::Error| Failure::new(Exit::Config, format!("cannot read {}: {error}", file.display()));
    if file != Path::new("-") {
        return source.file(file).map_err(unreadable);
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_MANIFEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MAX_MANIFEST {
        return Err(Failure::usage(format!("a manifest has at most {} MiB", MAX_MANIFEST >> 20)));
    }
    Ok(text)
}

/// Reads a manifest of whatever form into items.
pub(in crate::cli) fn read(text: &str) -> Result<Vec<Value>, Failure> {
    let bad = |why: String| Failure::usage(format!("the manifest cannot be read: {why}"));
    let begins = text.trim_start();
    let yaml =
        || serde_saphyr::from_multiple::<Node>(text).map(|all| all.into_iter().map(|Node(value)| value).collect());
    let documents: Vec<Value> = if begins.starts_with('{') || begins.starts_with('[') {
        // One document, several, or one a line: JSON tells where each ends.
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        values.collect::<Result<Vec<_>, _>>().or_else(|json| {
            // A flow mapping of YAML begins like JSON.
            yaml().map_err(|_| bad(json.to_string()))
        })?
    } else {
        yaml().map_err(|error| bad(error.to_string()))?
    };
    let mut items = Vec::new();
    for document in documents {
        gather(document, &mut items).map_err(bad)?;
    }
    Ok(items)
}

fn gather(document: Value, items: &mut Vec<Value>) -> Result<(), String> {
    match document {
        Value::Null => Ok(()),
        Value::Array(all) => all.into_iter().try_for_each(|one| gather(one, items)),
        Value::Object(mut object) => match (object.remove("items"), object.is_empty()) {
            (Some(Value::Array(all)), true) => all.into_iter().try_for_each(|one| gather(one, items)),
            (Some(_), _) => Err("items must be a list and stand alone in its document".into()),
            (None, _) => item(object).map(|item| items.push(item)),
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let shown: String = document.to_string().chars().take(40).collect();
            Err(format!("{shown} is no service: write kind and id"))
        }
    }
}

/// An item may name its service in one word, `service: agent/edge-17`.
fn item(mut object: Map<String, Value>) -> Result<Value, String> {
    for name in NAMES {
        let Some(Value::Number(number)) = object.get(name) else { continue };
        // A whole number has one way to be written in JSON; another one may have lost digits on the way.
        if !number.is_u64() {
            return Err(format!("{name}: {number} is a number: put it in quotes"));
        }
        let text = number.to_string();
        object.insert(name.into(), Value::String(text));
    }
    if let Some(service) = object.remove("service") {
        let key: ServiceKey = service
            .as_str()
            .ok_or("service is a text, as in agent/edge-17")?
            .parse()
            .map_err(|error: rollcall_common::id::NameError| error.to_string())?;
        object.insert("kind".into(), json!(key.kind));
        object.insert("id".into(), json!(key.id));
    }
    Ok(Value::Object(object))
}

/// A YAML document whose names are texts, whatever they look like.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Look).map(Self)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("services")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match key.as_str() {
                name if NAMES.contains(&name) => map.next_value::<Option<String>>()?.map_or(Value::Null, Value::String),
                "items" => map.next_value::<Node>()?.0,
                _ => map.next_value()?,
            };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Node(value)) = seq.next_element()? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Value::deserialize(value.into_deserializer())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Value::deserialize(value.into_deserializer())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Value::deserialize(value.into_deserializer())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Value::deserialize(value.into_deserializer())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_every_form_say_the_same() {
        let yaml = "kind: poller\nid: p\nlabels:\n  site: zurich\n---\nservice: agent/a\nparent: p\n";
        let listed = "items:\n  - {kind: poller, id: p, labels: {site: zurich}}\n  - {service: agent/a, parent: p}\n";
        let json = r#"[{"kind":"poller","id":"p","labels":{"site":"zurich"}},{"kind":"agent","id":"a","parent":"p"}]"#;
        let lines = "{\"kind\":\"poller\",\"id\":\"p\",\"labels\":{\"site\":\"zurich\"}}\n{\"kind\":\"agent\",\"id\":\"a\",\"parent\":\"p\"}\n";
        let wanted: Vec<Value> = serde_json::from_str(json).unwrap();
        for text in [yaml, listed, json, lines] {
            assert_eq!(read(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(read("service: agent/a\nparent: 17\n").unwrap()[0]["parent"], "17");
        assert!(read("").unwrap().is_empty());
        for bad in ["just words", "service: robot/x\n", "{\"kind\":", "items: 3\n", "kind: [\n"] {
            assert_eq!(read(bad).unwrap_err().exit(), Exit::Usage, "{bad}");
        }
    }

    /// YAML would make other names of these, and a prune would delete who is named.
    #[test]
    fn names_are_what_was_written() {
        for (text, name) in
            [("1.10", "1.10"), ("007", "007"), ("0x1f", "0x1f"), ("1e3", "1e3"), ("true", "true"), ("17", "17")]
        {
            for manifest in [
                format!("kind: poller\nid: {text}\n"),
                format!("- {{kind: poller, id: {text}}}\n"),
                format!("items:\n- kind: poller\n  id: {text}\n"),
                format!("{{kind: poller, id: {text}}}\n"),
            ] {
                assert_eq!(read(&manifest).unwrap()[0]["id"], name, "{manifest}");
            }
        }
        let items = read("kind: agent\nid: a\nparent: 1.10\ncomponent_id: null\nlabels: {n: 7}\n").unwrap();
        assert_eq!(
            items[0],
            json!({"kind": "agent", "id": "a", "parent": "1.10", "component_id": null, "labels": {"n": 7}})
        );
        assert_eq!(read(r#"{"kind":"poller","id":17}"#).unwrap()[0]["id"], "17");
        for number in ["1.10", "-1", "1e3", "99999999999999999999999"] {
            let failure = read(&format!("{{\"kind\":\"poller\",\"id\":{number}}}")).unwrap_err();
            assert!(failure.to_string().contains("put it in quotes"), "{failure}");
        }
    }
}
