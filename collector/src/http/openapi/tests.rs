//! The contract holds together, and is the one that was committed.

use std::collections::HashSet;

use super::*;
use crate::http::{fixture::World, router};

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

fn served() -> (Table, Value) {
    let world = World::new(&[]);
    let (_, table) = router(world.state(world.registry()));
    let document = contract(&table);
    (table, document)
}

#[test]
fn the_committed_contract_is_the_served_one() {
    let text = serde_json::to_string_pretty(&served().1).unwrap() + "\n";
    if std::env::var_os("UPDATE_SNAPSHOT").is_some() {
        std::fs::write(SNAPSHOT, &text).unwrap();
    }
    let committed = std::fs::read_to_string(SNAPSHOT).unwrap_or_default();
    let first = text.lines().zip(committed.lines()).enumerate().find(|(_, (served, committed))| served != committed);
    assert!(
        text == committed,
        "collector/openapi.json differs, first at {first:?}: if that is meant, renew it with \
         UPDATE_SNAPSHOT=1 cargo test --workspace --lib http::openapi"
    );
}

#[test]
fn every_operation_is_named_once_and_says_what_it_does() {
    let (table, _) = served();
    let mut ids = HashSet::new();
    for operation in &table.operations {
        let name = format!("{} {}", operation.method, operation.path);
        assert!(ids.insert(operation.id.clone()), "{name}: {} is taken", operation.id);
        assert!(!operation.summary.is_empty() && !operation.tag.is_empty(), "{name} says nothing of itself");
        assert!(!operation.answers.is_empty(), "{name} has no answer");
        let braces: Vec<&str> =
            operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let declared: Vec<&str> = operation.path_params.iter().map(|param| param.name).collect();
        assert_eq!(braces, declared, "{name}: the parts of its path");
        let mut names = HashSet::new();
        for param in operation.query.iter().chain(&operation.headers) {
            assert!(names.insert(param.name) && !param.about.is_empty(), "{name}: {}", param.name);
        }
    }
}

/// Two types of one name would stand for each other in the document.
#[test]
fn no_two_types_share_a_name_and_every_reference_leads_somewhere() {
    let (table, document) = served();
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    for operation in &table.operations {
        let bodies = operation.body.iter().map(|body| body.shape);
        let answers = operation.answers.iter().filter_map(|answer| answer.content?.1);
        for shape in bodies.chain(answers) {
            let mut found = vec![((shape.name)().into_owned(), (shape.schema)())];
            (shape.more)(&mut found);
            for (name, schema) in found {
                let schema = plain(&schema);
                let before = known.entry(name.clone()).or_insert_with(|| schema.clone());
                assert_eq!(*before, schema, "{name} is two things");
            }
        }
    }
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name} is nowhere");
    }
}
