//! In which order a list shows services, and where a page of it begins.
//!
//! Services are found by key; every other order is ranked afresh for each page ([`crate::http::scan`]). A mark
//! names the last item that was given by what it was ranked by, and the order that it belongs to: in another one
//! it means nothing.

use std::{cmp::Ordering, fmt, str::FromStr};

use rollcall_common::{id::ServiceKey, time::Now};

use crate::{
    http::{
        error::{Problem, ProblemCode},
        openapi::words,
        page,
        routes::Param,
    },
    registry::leases::Sight,
    store::rows::ServiceRow,
};

/// The parameter of lists that can be ordered.
pub(in crate::http) const ORDER: Param = Param::of::<words::ServiceOrder>(
    "order",
    "By what the list is ordered, with `-` the other way round. By key where it is not given: the only order that \
     is found and not ranked. Every other one looks at all that the filter cannot narrow down by itself, for each page \
     anew. Whoever was never seen stands before everybody who was",
);

/// By what a list is ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::http) enum By {
    /// The tree of kinds, then the id.
    #[default]
    Key,
    /// When it was registered.
    FirstRegistered,
    /// Since when it has its status.
    StatusSince,
    /// Its last heartbeat.
    LastSeen,
}

/// An order, one way or the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::http) struct Order {
    by: By,
    falling: bool,
}

impl Order {
    /// Every word.
    pub(in crate::http) const ALL: [&'static str; 8] = [
        "key",
        "-key",
        "first_registered",
        "-first_registered",
        "status_since",
        "-status_since",
        "last_seen",
        "-last_seen",
    ];

    /// Whether it is the one in which services are found.
    pub(in crate::http) fn is_natural(self) -> bool {
        self == Self::default()
    }
}

impl FromStr for Order {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (falling, word) = text.strip_prefix('-').map_or((false, text), |word| (true, word));
        let by = match word {
            "key" => By::Key,
            "first_registered" => By::FirstRegistered,
            "status_since" => By::StatusSince,
            "last_seen" => By::LastSeen,
            _ => return Err(()),
        };
        Ok(Self { by, falling })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.falling { "-" } else { "" })?;
        f.write_str(match self.by {
            By::Key => "key",
            By::FirstRegistered => "first_registered",
            By::StatusSince => "status_since",
            By::LastSeen => "last_seen",
        })
    }
}

/// How the two clocks stood when the first page was made. Later pages tell the time of a heartbeat by it, so that
/// what did not beat does not move when the wall clock is corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Anchor(i64);

impl Anchor {
    /// Reads it from the clocks.
    pub(in crate::http) fn at(now: Now) -> Self {
        Self(now.wall.0.saturating_sub(i64::try_from(now.boot.0).unwrap_or(i64::MAX)))
    }
}

/// Where a service stands in an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct Mark {
    order: Order,
    anchor: Anchor,
    value: Option<i64>,
    /// Which service; of two with one value the smaller key stands first.
    pub(in crate::http) key: ServiceKey,
}

impl Mark {
    /// Where a service stands.
    pub(in crate::http) fn of(order: Order, anchor: Anchor, row: &ServiceRow, sight: Option<&Sight>) -> Self {
        let value = match order.by {
            By::Key => None,
            By::FirstRegistered => Some(row.first_registered.0),
            By::StatusSince => Some(row.status_since.0),
            By::LastSeen => {
                let beat = sight.and_then(|sight| sight.last_beat);
                let beat = beat.map(|beat| anchor.0.saturating_add(i64::try_from(beat.0).unwrap_or(i64::MAX)));
                beat.or(row.last_seen.map(|seen| seen.0))
            }
        };
        Self { order, anchor, value, key: row.key.clone() }
    }

    /// The clocks of the first page.
    pub(in crate::http) fn anchor(&self) -> Anchor {
        self.anchor
    }
}

impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Marks of one order: the one that is shown first is the smaller one.
impl Ord for Mark {
    fn cmp(&self, other: &Self) -> Ordering {
        let rising = (self.value, &self.key).cmp(&(other.value, &other.key));
        if self.order.falling { rising.reverse() } else { rising }
    }
}

/// No key holds a space, so that a mark is never taken for one.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, anchor, value, key } = self;
        match value {
            Some(value) => write!(f, "{order} {} {value} {key}", anchor.0),
            None => write!(f, "{order} {} never {key}", anchor.0),
        }
    }
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cursor {
    Key(ServiceKey),
    Mark(Mark),
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(' ');
        let (first, Some(anchor)) = (parts.next().ok_or(())?, parts.next()) else {
            return text.parse().map(Self::Key).map_err(|_| ());
        };
        let (Some(value), Some(key), None) = (parts.next(), parts.next(), parts.next()) else { return Err(()) };
        let value = if value == "never" { None } else { Some(value.parse().map_err(|_| ())?) };
        let anchor = Anchor(anchor.parse().map_err(|_| ())?);
        Ok(Self::Mark(Mark { order: first.parse()?, anchor, value, key: key.parse().map_err(|_| ())? }))
    }
}

/// Reads a cursor for a list of an order: behind which key or mark it goes on.
///
/// # Errors
/// [`ProblemCode::InvalidCursor`] for one that no collector made, and for one of another order.
pub(super) fn behind(text: &str, order: Order) -> Result<(Option<ServiceKey>, Option<Mark>), Problem> {
    let cursor = page::seek::<Cursor>(text)?;
    let found = match &cursor {
        Cursor::Key(_) => Order::default(),
        Cursor::Mark(mark) => mark.order,
    };
    if found != order {
        let detail = format!("the cursor is of a list with order={found}, and this one has order={order}: begin anew");
        return Err(Problem::new(ProblemCode::InvalidCursor, detail).with("order", found.to_string()));
    }
    Ok(match cursor {
        Cursor::Key(key) => (Some(key), None),
        Cursor::Mark(mark) => (None, Some(mark)),
    })
}

/// Reads the name of an order.
pub(super) fn read(text: &str) -> Result<Order, Problem> {
    text.parse().map_err(|()| {
        let text: String = text.chars().take(80).collect();
        let allowed = Order::ALL.to_vec();
        super::invalid("order", format!("order {text:?} is unknown: use {}", allowed.join(", ")))
            .with("allowed", allowed)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_round_trip_and_belong_to_one_order(
            order in 0..8_usize,
            other in 0..8_usize,
            anchor: i64,
            value: Option<i64>,
            id in "[a-z0-9]{1,20}",
            text in "\\PC{0,60}",
        ) {
            let read = |n: usize| Order::ALL[n].parse::<Order>().unwrap();
            let key: ServiceKey = format!("agent/{id}").parse().unwrap();
            let mark = Mark { order: read(order), anchor: Anchor(anchor), value, key };
            let cursor = page::cursor(&mark.to_string());
            prop_assert_eq!(behind(&cursor, read(order)).ok(), Some((None, Some(mark))));
            let refused = behind(&cursor, read(other)).err().map(|problem| problem.code());
            prop_assert_eq!(refused, (order != other).then_some(ProblemCode::InvalidCursor));
            let _ = behind(&page::cursor(&text), read(order));
        }
    }

    #[test]
    fn every_word_reads_as_it_is_written() {
        for word in Order::ALL {
            assert_eq!(word.parse::<Order>().unwrap().to_string(), word);
        }
        assert!(Order::default().is_natural() && Order::ALL[0].parse::<Order>() == Ok(Order::default()));
        assert!(read("--key").is_err() && read("id").is_err() && read("").is_err());
    }
}
