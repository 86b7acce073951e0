//! Trees and counts from a handful of services.

use super::*;
use crate::http::fixture::{World, row};

fn seen() -> Vec<Seen> {
    let keys = ["poller/p", "poller/q", "agent/a", "agent/b", "checker/c", "checker/d", "instance/i"];
    let rows: Vec<_> = keys.iter().map(|key| row(key)).collect();
    let registry = World::new(&rows).registry();
    let mut seen = Vec::new();
    let all = Scope::everything();
    walk(&registry, &all, None, |roster, entry, sight| seen.push(Seen::look(roster, &all, entry, sight)));
    seen
}

fn drawn(nodes: &[Node]) -> String {
    let one = |node: &Node| match node.children.as_slice() {
        [] => node.id.clone(),
        below => format!("{}({})", node.id, drawn(below)),
    };
    nodes.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn tree(root: Option<&str>, limit: usize) -> (String, bool) {
    let root = root.map(|root| root.parse().unwrap());
    let (nodes, truncated) = grow(seen(), root.as_ref(), limit);
    (drawn(&nodes), truncated)
}

#[test]
fn services_hang_under_their_parents() {
    assert_eq!(tree(None, 100), ("p(a(c d) b) q".into(), false));
    assert_eq!(tree(Some("agent/a"), 100), ("a(c d)".into(), false));
    assert_eq!(tree(Some("checker/d"), 100), ("d".into(), false));
    assert_eq!(tree(Some("instance/i"), 100), ("i".into(), false));
}

#[test]
fn a_tree_is_cut_at_its_bound_and_says_so() {
    assert_eq!(tree(None, 6), ("p(a(c d) b) q".into(), false));
    let (nodes, truncated) = tree(None, 5);
    assert!(truncated);
    assert_eq!(nodes.chars().filter(char::is_ascii_alphabetic).count(), 5);
    assert!(tree(None, 1).1);
}

#[test]
fn counts_name_every_word_and_add_up() {
    let mut rows = vec![row("poller/p"), row("poller/q"), row("agent/a")];
    rows[0].status = Status::Active;
    let world = World::new(&rows);
    let state = world.state(world.registry().beaten("poller/p"));
    let kinds = &state.count(&Scope::everything()).kinds;
    let pollers = &kinds[&Kind::Poller];
    assert_eq!((pollers.total, pollers.status(Status::Active), pollers.status(Status::Pending)), (2, 1, 1));
    assert_eq!((pollers.presence(Presence::Alive), pollers.presence(Presence::NeverSeen)), (1, 1));
    assert_eq!(pollers.status.len(), Status::ALL.len());
    assert_eq!(kinds[&Kind::Instance].total, 0);
    assert_eq!(kinds[&Kind::Instance].presence.values().sum::<u64>(), 0);
}
