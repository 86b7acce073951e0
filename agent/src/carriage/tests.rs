use proptest::prelude::*;

use super::*;

const QUIC: Ways = Ways::Only(Transport::Quic);
const BOTH: Ways = Ways::Both(Transport::Quic);
const MINUTE: Duration = Duration::from_secs(60);

fn auto() -> Carriage {
    Carriage::new(Policy::Auto, 3)
}

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000)
}

/// One that TCP carries, as nobody answered over QUIC.
fn fallen(now: BootTime) -> Carriage {
    let mut carriage = auto();
    carriage.unanswered(QUIC, "silent");
    assert!(matches!(carriage.greeted(Transport::Tcp, now), Some(Turn::Fell { .. })));
    carriage
}

#[test]
fn quic_comes_first_and_a_refusal_is_an_answer() {
    let mut carriage = auto();
    for _ in 0..50 {
        assert_eq!(carriage.ways(), QUIC);
        carriage.answered(QUIC);
    }
    carriage.unanswered(QUIC, "c did not answer");
    assert_eq!(carriage.ways(), BOTH, "where QUIC has never worked, one silence is enough");
    let turn = carriage.greeted(Transport::Tcp, at(10)).unwrap();
    let Turn::Fell { why, probe_in: Some(probe_in) } = turn else { panic!("{turn:?}") };
    assert_eq!(why, "c did not answer");
    assert!((48..=72).contains(&probe_in.as_secs()), "{probe_in:?}");
    assert_eq!(carriage.greeted(Transport::Tcp, at(11)), None, "it is said once");
}

#[test]
fn where_quic_has_worked_one_silence_is_not_enough_and_answers_forgive_it() {
    let mut carriage = auto();
    assert_eq!(carriage.greeted(Transport::Quic, at(0)), None);
    carriage.unanswered(QUIC, "x");
    assert_eq!(carriage.ways(), QUIC);
    carriage.answered(QUIC);
    carriage.unanswered(QUIC, "x");
    assert_eq!(carriage.ways(), QUIC);
    carriage.unanswered(QUIC, "x");
    assert_eq!(carriage.ways(), BOTH);
    // A dead collector answers over neither, and that says nothing of QUIC.
    for _ in 0..1_000 {
        carriage.unanswered(BOTH, "x");
        assert_eq!(carriage.ways(), QUIC);
        carriage.unanswered(QUIC, "x");
        carriage.unanswered(QUIC, "x");
        assert_eq!(carriage.ways(), BOTH);
        assert!(carriage.head_start() >= Duration::from_secs(2), "QUIC worked: a busy collector gets time");
    }
    carriage.opened(Transport::Quic);
    assert_eq!(carriage.greeted(Transport::Quic, at(9)), None, "nobody was told of TCP");
    assert_eq!(carriage.ways(), QUIC);
    assert!(auto().head_start() < Duration::from_secs(1), "where QUIC never worked, nobody waits for it long");
}

#[test]
fn quic_is_tried_again_ever_less_often_and_at_once_on_request() {
    let mut now = at(0);
    let mut carriage = fallen(now);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let due = carriage.probe_at().unwrap();
        waits.push(due.since(now).as_secs());
        now = due;
        carriage.probing();
        assert_eq!(carriage.probe_at(), None, "one at a time");
        carriage.probe_failed("silent", false, now);
    }
    assert!((48..=72).contains(&waits[0]) && (96..=144).contains(&waits[1]), "{waits:?}");
    assert!(waits[6..].iter().all(|wait| (1_440..=2_160).contains(wait)), "{waits:?}");
    carriage.probing();
    carriage.hurry(false, now);
    assert_eq!(carriage.probe_at(), None, "one is under way");
    carriage.hurry(true, now);
    assert_eq!(carriage.probe_at(), Some(now));
    carriage.probing();
    carriage.probe_failed("silent", false, now);
    assert!(carriage.probe_at().unwrap().since(now) <= MINUTE * 3, "an operator's word begins anew");
    carriage.probing();
    assert_eq!(carriage.greeted(Transport::Quic, now), Some(Turn::Returned));
    assert_eq!((carriage.probe_at(), carriage.fallback(), carriage.ways()), (None, None, QUIC));
}

#[test]
fn a_quic_that_falls_silent_after_each_success_does_not_flap() {
    let mut now = at(0);
    let mut carriage = fallen(now);
    let mut on_tcp = Vec::new();
    for _ in 0..8 {
        let due = carriage.probe_at().unwrap();
        on_tcp.push(due.since(now).as_secs());
        now = due;
        carriage.probing();
        assert_eq!(carriage.greeted(Transport::Quic, now), Some(Turn::Returned));
        now = now.after(Duration::from_secs(14));
        carriage.ended(Transport::Quic, Duration::from_secs(14), true, "no acknowledgement");
        assert_eq!(carriage.ways(), Ways::Both(Transport::Tcp), "the lease does not wait for QUIC again");
        assert!(matches!(carriage.greeted(Transport::Tcp, now), Some(Turn::Fell { .. })));
    }
    assert!(on_tcp.last().unwrap() >= &1_440, "{on_tcp:?}");
    // One that holds is trusted again.
    carriage.probing();
    carriage.greeted(Transport::Quic, now);
    carriage.ended(Transport::Quic, TRUSTED_AFTER, true, "a collector hung");
    assert_eq!(carriage.ways(), QUIC);
}

#[test]
fn what_the_configuration_asks_for_alone_is_all_there_is() {
    for (policy, transport) in [(Policy::Quic, Transport::Quic), (Policy::Tcp, Transport::Tcp)] {
        let mut carriage = Carriage::new(policy, 1);
        for _ in 0..10 {
            assert_eq!(carriage.ways(), Ways::Only(transport));
            carriage.unanswered(Ways::Only(transport), "silent");
        }
        carriage.greeted(transport, at(1));
        carriage.hurry(true, at(2));
        assert_eq!(carriage.probe_at(), None);
    }
    let mut carriage = Carriage::new(Policy::Tcp, 1);
    let turn = carriage.greeted(Transport::Tcp, at(0));
    assert_eq!(turn, Some(Turn::Fell { why: "the configuration asks for TCP".into(), probe_in: None }));
}

#[test]
fn another_word_of_the_configuration_moves_a_session_to_quic_only_once_that_works() {
    let mut carriage = Carriage::new(Policy::Tcp, 1);
    carriage.greeted(Transport::Tcp, at(0));
    carriage.allow(Policy::Tcp, at(5));
    assert_eq!(carriage.probe_at(), None, "nothing changed");
    carriage.allow(Policy::Auto, at(9));
    assert_eq!(carriage.probe_at(), Some(at(9)));
    carriage.probing();
    assert_eq!(carriage.greeted(Transport::Quic, at(9)), Some(Turn::Returned));
    carriage.allow(Policy::Tcp, at(10));
    assert_eq!((carriage.ways(), carriage.probe_at()), (Ways::Only(Transport::Tcp), None));
}

#[derive(Debug, Clone, Copy)]
enum Happens {
    Unanswered,
    Answered,
    Greeted { quic: bool },
    Ended { seconds: u64, silent: bool },
    Probe { works: bool },
    Hurry,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => Just(Happens::Unanswered),
        1 => Just(Happens::Answered),
        3 => any::<bool>().prop_map(|quic| Happens::Greeted { quic }),
        3 => (0u64..1_200, any::<bool>()).prop_map(|(seconds, silent)| Happens::Ended { seconds, silent }),
        3 => any::<bool>().prop_map(|works| Happens::Probe { works }),
        1 => Just(Happens::Hurry),
    ]
}

/// The rules as a list of what happened to QUIC, looked through from its end each time.
#[derive(Default)]
struct Naive {
    /// `Some(true)`: a silence; `Some(false)`: something that ends a row of them.
    dials: Vec<bool>,
    lives: Vec<bool>,
    worked: bool,
    on: Option<Transport>,
    told_tcp: bool,
}

impl Naive {
    fn row(list: &[bool]) -> usize {
        list.iter().rev().take_while(|bad| **bad).count()
    }

    fn ways(&self) -> Ways {
        let enough = if self.worked { 2 } else { 1 };
        if Self::row(&self.lives) >= 2 {
            Ways::Both(Transport::Tcp)
        } else if Self::row(&self.dials) >= enough {
            BOTH
        } else {
            QUIC
        }
    }
}

proptest! {
    #[test]
    fn it_decides_as_the_naive_model_does(seed: u64, steps in proptest::collection::vec(happens(), 1..120)) {
        let mut carriage = Carriage::new(Policy::Auto, seed);
        let (mut naive, mut now) = (Naive::default(), at(0));
        for step in steps {
            let ways = carriage.ways();
            prop_assert_eq!(ways, naive.ways());
            now = now.after(Duration::from_secs(1));
            match (step, naive.on) {
                (Happens::Unanswered, None) => {
                    carriage.unanswered(ways, "x");
                    naive.dials.push(ways == QUIC);
                }
                (Happens::Answered, None) => {
                    carriage.answered(ways);
                    if ways == QUIC { naive.dials.push(false) }
                }
                (Happens::Greeted { quic }, None) if quic || ways != QUIC => {
                    let transport = if quic { Transport::Quic } else { Transport::Tcp };
                    carriage.opened(transport);
                    let turn = carriage.greeted(transport, now);
                    prop_assert_eq!(turn.is_some(), quic == naive.told_tcp, "a change is told, and nothing else");
                    naive.on = Some(transport);
                    if quic {
                        naive.dials.push(false);
                        naive.worked = true;
                        if naive.told_tcp && Naive::row(&naive.lives) == 0 { naive.lives.push(true) }
                    }
                    naive.told_tcp = !quic;
                }
                (Happens::Ended { seconds, silent }, Some(transport)) => {
                    carriage.ended(transport, Duration::from_secs(seconds), silent, "x");
                    if transport == Transport::Quic {
                        if seconds >= 600 { naive.lives.push(false) } else if silent { naive.lives.push(true) }
                    }
                    naive.on = None;
                    prop_assert_eq!(carriage.probe_at(), None, "nothing is tried beside nothing");
                }
                (Happens::Probe { works }, Some(Transport::Tcp)) => {
                    let due = carriage.probe_at();
                    prop_assert!(due.is_some(), "from TCP there is always a way back");
                    now = due.unwrap_or(now).max(now);
                    carriage.probing();
                    if works {
                        carriage.opened(Transport::Quic);
                        prop_assert_eq!(carriage.greeted(Transport::Quic, now), Some(Turn::Returned));
                        naive.dials.push(false);
                        naive.worked = true;
                        if Naive::row(&naive.lives) == 0 { naive.lives.push(true) }
                        naive.on = Some(Transport::Quic);
                        naive.told_tcp = false;
                    } else {
                        carriage.probe_failed("x", false, now);
                        let wait = carriage.probe_at().map(|at| at.since(now).as_secs());
                        prop_assert!(wait.is_some_and(|wait| (48..=2_160).contains(&wait)), "{wait:?}");
                    }
                }
                (Happens::Hurry, on) => {
                    carriage.hurry(on.is_some(), now);
                    prop_assert_eq!(carriage.probe_at(), (on == Some(Transport::Tcp)).then_some(now));
                }
                (Happens::Unanswered | Happens::Answered | Happens::Greeted { .. }, _)
                | (Happens::Ended { .. }, None)
                | (Happens::Probe { .. }, _) => {}
            }
            prop_assert_eq!(carriage.fallback().is_some(), naive.told_tcp);
        }
    }
}
