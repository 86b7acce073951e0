//! Which machine this is, as far as it is told, and whether an identity belongs to it.
//!
//! A disk image that holds an identity makes two machines that are one service. A sidecar notices before it dials:
//! beside the identity lies the tag of the machine that it was made for.

use std::path::Path;

use rollcall_common::machine::{MachineId, MachineIdError, MachineTag};

use crate::plain;

/// Where systemd and dbus keep the id.
const PLACES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// It has 33 bytes; something else in its place is not read.
const MAX_FILE: usize = 64;

/// What this host tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// This one.
    Known(MachineTag),
    /// Nothing, and why: a container without an id, an image that was not started yet.
    Unknown(String),
}

impl Machine {
    /// Looks where it is kept on this host, or where else it is said to be.
    #[must_use]
    pub fn look(elsewhere: Option<&Path>) -> Self {
        match elsewhere {
            Some(path) => Self::read(&[path]),
            None => Self::read(&PLACES.map(Path::new)),
        }
    }

    /// The first place that tells; without one, what the first one lacks.
    fn read(places: &[&Path]) -> Self {
        let mut why = None;
        for place in places {
            let told = match plain::read(place, MAX_FILE) {
                Ok(text) => text.parse::<MachineId>().map_err(|error: MachineIdError| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match told {
                Ok(id) => return Self::Known(id.tag()),
                Err(error) => why = why.or(Some(format!("{}: {error}", place.display()))),
            }
        }
        Self::Unknown(why.unwrap_or_default())
    }

    /// The tag to keep beside an identity.
    #[must_use]
    pub fn tag(&self) -> Option<MachineTag> {
        match self {
            Self::Known(tag) => Some(*tag),
            Self::Unknown(_) => None,
        }
    }
}

/// To whom an identity on disk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belonging {
    /// To this machine.
    Here,
    /// To nobody yet: it was made before machines were told apart, or where none was known.
    Unbound,
    /// To another machine: it was copied.
    Elsewhere,
    /// Nobody can tell: this machine is not known.
    Untold,
}

/// Whether what was made for one machine belongs to this one.
#[must_use]
pub fn belonging(made_for: Option<MachineTag>, here: &Machine) -> Belonging {
    match (made_for, here) {
        (None, _) => Belonging::Unbound,
        (Some(_), Machine::Unknown(_)) => Belonging::Untold,
        (Some(made_for), Machine::Known(here)) if made_for == *here => Belonging::Here,
        (Some(_), Machine::Known(_)) => Belonging::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_file_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (none, empty, good) = (path("none"), path("empty"), path("good"));
        std::fs::write(&empty, "uninitialized\n").unwrap();
        std::fs::write(&good, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert!(matches!(Machine::read(&[&none]), Machine::Unknown(why) if why.contains("none")));
        assert!(matches!(Machine::read(&[&empty, &none]), Machine::Unknown(why) if why.contains("not set yet")));
        let known = Machine::read(&[&empty, &good]);
        let tag = known.tag().unwrap();
        assert_eq!(belonging(Some(tag), &known), Belonging::Here);
        assert_eq!(belonging(None, &known), Belonging::Unbound);
        assert_eq!(belonging(Some(tag), &Machine::Unknown(String::new())), Belonging::Untold);
        std::fs::write(&good, "0123456789abcdef0123456789abcdee\n").unwrap();
        assert_eq!(belonging(Some(tag), &Machine::read(&[&good])), Belonging::Elsewhere);
    }
}
