//! Bounds, aggregation, and how little a flood costs the store.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn knock(proven: bool, id: &str, from: &str) -> Knock {
    Knock {
        proven,
        door: Door::Enroll,
        why: if proven { Why::Code(Code::IdTaken) } else { Why::UnknownToken },
        token: proven.then_some(TokenId([1; 10])),
        kind: Some(Kind::Agent),
        service: id.parse().ok(),
        parent: None,
        from: from.parse().unwrap(),
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp(NOW.0 + ms)
}

#[test]
fn refusals_of_one_party_for_one_reason_are_one_row() {
    let mut knocks = Knocks::default();
    knocks.note(knock(true, "edge-1", "192.0.2.7"), at(0));
    knocks.note(knock(true, "edge-1", "192.0.2.99"), at(5));
    knocks.note(knock(true, "edge-2", "192.0.2.7"), at(6));
    knocks.note(knock(true, "edge-1", "198.51.100.1"), at(7));
    let told: Vec<_> = knocks.latest().iter().map(|row| (row.network.clone(), row.times, row.from.clone())).collect();
    let row = |network: &str, times, from: &str| (network.to_owned(), times, from.to_owned());
    assert_eq!(
        told,
        [
            row("198.51.100.0/24", 1, "198.51.100.1"),
            row("192.0.2.0/24", 1, "192.0.2.7"),
            row("192.0.2.0/24", 2, "192.0.2.99")
        ]
    );
    assert_eq!(network_of("2001:db8:1:2:3::4".parse().unwrap()), "2001:db8:1:2::/64");
    assert_eq!(network_of("::ffff:192.0.2.7".parse().unwrap()), "192.0.2.0/24");
}

#[test]
fn noise_pushes_out_only_noise_and_of_one_network_only_its_own() {
    let mut knocks = Knocks::default();
    for n in 0..10 {
        knocks.note(knock(true, &format!("edge-{n}"), "192.0.2.7"), at(n));
    }
    knocks.note(knock(false, "quiet", "198.51.100.1"), at(20));
    for n in 0..5_000 {
        knocks.note(knock(false, &format!("noise-{n}"), "203.0.113.9"), at(100 + n));
    }
    assert_eq!(knocks.latest().iter().filter(|row| row.proven).count(), 10);
    assert_eq!(knocks.latest().iter().filter(|row| row.network == "203.0.113.0/24").count(), MAX_OF_NETWORK);
    assert!(knocks.latest().iter().any(|row| row.network == "198.51.100.0/24"));
    // The store learns of what stands, never of what came and went between two flushes.
    let (put, gone) = knocks.take_unflushed();
    assert_eq!((put.len(), gone.len()), (11 + MAX_OF_NETWORK, 0));
    knocks.note(knock(false, "one-more", "203.0.113.9"), at(9_000));
    let (put, gone) = knocks.take_unflushed();
    assert_eq!((put.len(), gone.len()), (1, 1));
    knocks.put_back(&put, &gone);
    let (again, gone_again) = knocks.take_unflushed();
    assert_eq!((again, gone_again), (put, gone));
    assert_eq!(knocks.take_unflushed(), (Vec::new(), Vec::new()));
}

#[test]
fn old_knocks_are_forgotten_and_a_restart_keeps_the_rest() {
    let mut knocks = Knocks::default();
    knocks.note(knock(true, "old", "192.0.2.7"), NOW.before(KEPT_FOR + Duration::from_secs(1)));
    knocks.note(knock(true, "new", "192.0.2.7"), NOW);
    let (rows, _) = knocks.take_unflushed();
    let mut knocks = Knocks::from_rows(&rows);
    assert_eq!(knocks.take_unflushed(), (Vec::new(), Vec::new()), "what was read need not be written");
    assert_eq!(knocks.forget(NOW), 1);
    let (put, gone) = knocks.take_unflushed();
    assert_eq!((put.len(), gone.len(), knocks.latest().len()), (0, 1, 1));
    knocks.note(knock(true, "new", "192.0.2.8"), at(1));
    assert_eq!(knocks.latest().first().map(|row| (row.times, row.first_at)), Some((2, NOW)));
}

#[test]
fn every_kept_reason_has_a_fix_and_a_word_that_reads_again() {
    for code in Code::ALL.iter().copied().filter(|code| is_kept(*code)) {
        let why = Why::Code(code);
        assert_eq!(why.as_str().parse(), Ok(why));
        assert!(code == Code::Denied || !fix(why).contains("nothing is to be done"), "{code}");
    }
    for why in [Why::UnknownToken, Why::WrongSecret, Why::Address, Why::Proof] {
        assert_eq!((why.as_str().parse(), why.code()), (Ok(why), Code::Denied));
    }
}

proptest! {
    /// Whatever comes, in whatever order: bounds hold, and what was flushed agrees with what stands.
    #[test]
    fn bounds_hold_and_the_store_agrees(
        steps in proptest::collection::vec((any::<bool>(), 0u16..400, 0u8..6, 0u8..20), 1..600),
    ) {
        let mut knocks = Knocks::default();
        let mut store = HashMap::new();
        for (n, (proven, id, net, act)) in steps.into_iter().enumerate() {
            knocks.note(knock(proven, &format!("e-{id}"), &format!("10.0.{net}.1")), at(n as i64));
            if act == 0 {
                let first = knocks.latest().first().map(|row| row.id);
                first.map(|id| knocks.dismiss(id));
            }
            if act < 3 {
                let (put, gone) = knocks.take_unflushed();
                prop_assert!(put.len() + gone.len() <= FLUSH_ROWS);
                store.extend(put.into_iter().map(|row| (row.id, row)));
                for id in gone {
                    store.remove(&id);
                }
            }
            prop_assert!(knocks.noise.len() <= MAX_OF_CLASS && knocks.proven.len() <= MAX_OF_CLASS);
            prop_assert!(knocks.networks.values().all(|rows| rows.len() <= MAX_OF_NETWORK));
        }
        loop {
            let (put, gone) = knocks.take_unflushed();
            if put.is_empty() && gone.is_empty() {
                break;
            }
            store.extend(put.into_iter().map(|row| (row.id, row)));
            for id in gone {
                store.remove(&id);
            }
        }
        prop_assert_eq!(&store, &knocks.rows);
    }
}
