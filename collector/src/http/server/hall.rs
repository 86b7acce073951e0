//! Who yields where every place is taken and one more knocks; pure.
//!
//! A connection keeps us waiting while its handshake, its head or its body is still to come, and between two
//! requests. Of these the oldest yields, of the address that has most of them: whoever holds many places and says
//! nothing fights with itself. One whose request is here stays until it has its answer.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Seat;

/// The connections that are open.
#[derive(Debug, Default)]
pub(super) struct Hall(Mutex<Guests>);

#[derive(Debug, Default)]
struct Guests {
    next: u64,
    /// In the order of their coming.
    all: BTreeMap<u64, (IpAddr, Arc<Seat>)>,
}

/// A connection's line in the list; it ends with it.
#[derive(Debug)]
pub(super) struct Guest {
    no: u64,
    hall: Arc<Hall>,
}

impl Hall {
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr, seat: Arc<Seat>) -> Guest {
        let mut guests = self.guests();
        let no = guests.next;
        guests.next += 1;
        guests.all.insert(no, (from, seat));
        Guest { no, hall: Arc::clone(self) }
    }

    /// Has one connection yield; `false` where none keeps us waiting.
    pub(super) fn make_room(&self) -> bool {
        let guests = self.guests();
        let waiting = guests.all.iter().filter(|(_, (_, seat))| seat.keeps_waiting());
        let waiting: Vec<_> = waiting.map(|(no, (from, _))| (*no, *from)).collect();
        let seat = yields(&waiting).and_then(|no| guests.all.get(&no));
        if let Some((_, seat)) = seat {
            seat.yields();
        }
        seat.is_some()
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hall.guests().all.remove(&self.no);
    }
}

/// Who yields, of those that keep us waiting, in the order of their coming.
fn yields(waiting: &[(u64, IpAddr)]) -> Option<u64> {
    let mut of_one: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
    for (no, from) in waiting {
        of_one.entry(*from).or_insert((0, *no)).0 += 1;
    }
    // Of addresses with as many, the one that came first.
    of_one.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest))).map(|(_, oldest)| oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn the_oldest_of_the_address_with_most_yields() {
        assert_eq!(yields(&[]), None);
        assert_eq!(yields(&[(3, ip(1)), (4, ip(2)), (5, ip(2)), (6, ip(3))]), Some(4));
        assert_eq!(yields(&[(3, ip(1)), (4, ip(2)), (5, ip(3))]), Some(3));
        assert_eq!(yields(&[(3, ip(1)), (4, ip(2)), (5, ip(2)), (6, ip(1))]), Some(3));
    }

    #[test]
    fn whoever_is_being_served_stays_and_nobody_yields_twice() {
        let hall = Arc::new(Hall::default());
        let seats: Vec<_> = (0..3).map(|_| Arc::new(Seat::default())).collect();
        let guests: Vec<_> = seats.iter().map(|seat| hall.enter(ip(1), Arc::clone(seat))).collect();
        seats[0].serves();
        assert!(hall.make_room());
        let asked = || seats.iter().map(|seat| seat.has_yielded()).collect::<Vec<_>>();
        assert_eq!(asked(), [false, true, false]);
        assert!(hall.make_room());
        assert_eq!(asked(), [false, true, true], "one that yields is on its way out");
        assert!(!hall.make_room());
        seats[0].answered();
        assert!(!hall.make_room(), "its answer is not out yet");
        seats[0].flushed();
        assert!(hall.make_room());
        drop(guests);
        assert!(hall.guests().all.is_empty());
    }
}
