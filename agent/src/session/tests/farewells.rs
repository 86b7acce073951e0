//! The parting of ways: without a goodbye of our own, and with those for children that are ours no longer.

use rollcall_common::wire::{
    children::{ChildGone, ChildrenAck},
    message::capability,
};

use super::*;

#[test]
fn who_leaves_without_a_goodbye_says_none() {
    let (mut world, no) = World::live(&["a"]);
    world.tell(Event::Leave);
    let done = world.take();
    assert!(matches!(done[..], [Action::Close(closed, _), Action::Ended] if closed == no), "{done:?}");
    assert_eq!(world.state(), State::Over);
}

/// Goodbyes for children go to whoever takes them, and again until somebody has heard them all.
#[test]
fn children_are_parted_with_until_it_is_heard() {
    let (mut world, no) = World::live(&["a"]);
    let gone = |n: usize| ChildGone {
        child: format!("checker/c{n}").parse().unwrap(),
        parent: None,
        reason: GoodbyeReason::Uninstall,
    };
    world.tell(Event::ChildrenGone((0..100).map(gone).collect()));
    assert!(world.sent().is_empty(), "this one never said that it takes them");
    world.tell(Event::Closed(no, lost()));
    let said = |world: &mut World| -> Vec<(u64, usize)> {
        let gone = |up| if let Up::ChildrenGone(gone) = up { Some((gone.batch_no, gone.children.len())) } else { None };
        world.sent().into_iter().filter_map(|(_, up)| gone(up)).collect()
    };
    let greeted = |world: &mut World| {
        let no = world.next_dial().0.no;
        world.tell(Event::Opened(no, Transport::Quic));
        let greeting = HelloAck { capabilities: capability::CHILDREN_GONE, ..world.hello_ack() };
        world.tell(Event::Frame(no, Down::HelloAck(greeting)));
        no
    };
    let ack = |world: &mut World, no, batch_no, retry_after_ms| {
        let ack = ChildrenAck { batch_no, refused: vec![], retry_after_ms };
        world.tell(Event::Frame(no, Down::Children(Box::new(ack))));
        let noted = world.take();
        noted.iter().any(|action| matches!(action, Action::Note(Notice::ChildrenParted(heard)) if heard.len() == 100))
    };
    let no = greeted(&mut world);
    assert_eq!(said(&mut world), [(1, 64), (2, 36)]);
    assert!(!ack(&mut world, no, 1, 100) && !ack(&mut world, no, 2, 0), "the first ones were not heard");
    world.tell(Event::Closed(no, lost()));
    let no = greeted(&mut world);
    assert_eq!(said(&mut world), [(1, 64), (2, 36)]);
    assert!(!ack(&mut world, no, 1, 0) && ack(&mut world, no, 2, 0));
    world.tell(Event::Closed(no, lost()));
    greeted(&mut world);
    assert_eq!(said(&mut world), [], "once is enough");
}
