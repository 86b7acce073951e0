//! Where the onboarding token is found: the systemd credential, the token file, the environment, in this
//! order; never argv, which every process of the host can read.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rollcall_common::token::{Token, TokenError};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::{
    config::TokenPlaces,
    leave::{self, Whose},
    plain,
};

/// A token may have white space around it; a larger file is none.
const MAX_FILE: usize = 16 * 1024;
/// No token is longer than what is overwritten of its file.
const MAX_WIPED: u64 = 64 * 1024;

/// A token and where it came from.
#[derive(Debug, Clone)]
pub struct Found {
    /// The token.
    pub token: Token,
    /// Where it was.
    pub origin: Origin,
}

/// Where a token came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The systemd credential.
    Credential(PathBuf),
    /// The token file.
    File(PathBuf),
    /// `ROLLCALL_TOKEN`.
    Environment,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Credential(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("environment variable ROLLCALL_TOKEN"),
        }
    }
}

/// A token that does not read. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {error}")]
pub struct Damaged {
    /// Where it is.
    pub origin: Origin,
    /// What is wrong.
    pub error: TokenError,
}

/// What a look at all places gave.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// The first token found.
    pub found: Option<Found>,
    /// Places that could not be read, in words.
    pub obstacles: Vec<String>,
}

/// Looks at all places. An empty place, and one that holds `-`, has no token: systemd cannot set an empty
/// credential.
///
/// # Errors
/// [`Damaged`] where the first text found is no token.
pub fn look(places: &TokenPlaces) -> Result<Look, Damaged> {
    let mut look = Look::default();
    let credential = places.credential.iter().map(|path| (path, Origin::Credential(path.clone())));
    let file = std::iter::once((&places.file, Origin::File(places.file.clone())));
    for (path, origin) in credential.chain(file) {
        match read(path) {
            Ok(Some(text)) => {
                if let Some(found) = parse(&text, origin)? {
                    look.found = Some(found);
                    return Ok(look);
                }
            }
            Ok(None) => {}
            Err(error) => {
                let hint = leave::hint(path, &error, Whose::Ours);
                look.obstacles.push(format!("cannot read {}: {error}{hint}", path.display()));
            }
        }
    }
    if let Some(text) = &places.environment {
        look.found = parse(text.expose_secret(), Origin::Environment)?;
    }
    Ok(look)
}

/// Overwrites a file and removes it; tells whether it was there.
///
/// # Errors
/// When it stays.
pub fn wipe(path: &Path) -> io::Result<bool> {
    use std::io::Write as _;
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        // Where it cannot be overwritten it is removed all the same: less is worse.
        let _ = std::fs::File::options().write(true).open(path).and_then(|mut file| {
            let size = file.metadata()?.len().min(MAX_WIPED);
            file.write_all(&vec![0; usize::try_from(size).unwrap_or(0)])?;
            file.sync_all()
        });
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether others on this host can read the file.
#[must_use]
pub fn is_exposed(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

fn parse(text: &str, origin: Origin) -> Result<Option<Found>, Damaged> {
    let text = text.trim();
    if text.is_empty() || text == "-" {
        return Ok(None);
    }
    match text.parse() {
        Ok(token) => Ok(Some(Found { token, origin })),
        Err(error) => Err(Damaged { origin, error }),
    }
}

fn read(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    match plain::read(path, MAX_FILE) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rollcall_common::{
        identity::Pin,
        time::Timestamp,
        token::{Secret, TokenId},
    };

    use super::*;

    fn token() -> Token {
        Token {
            id: TokenId::random().unwrap(),
            secret: Secret::random().unwrap(),
            pin: Pin([7; 32]),
            expires: Timestamp::from_secs(2_000_000_000),
            trust_domain: "fleet".parse().unwrap(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
        }
    }

    fn places(dir: &Path) -> TokenPlaces {
        TokenPlaces {
            credential: Some(dir.join("credential")),
            file: dir.join("file"),
            environment: None,
            consume_file: false,
        }
    }

    #[test]
    fn the_places_have_an_order() {
        let dir = tempfile::tempdir().unwrap();
        let (in_credential, in_file, in_environment) = (token(), token(), token());
        let mut places = places(dir.path());
        assert!(look(&places).unwrap().found.is_none());
        places.environment = Some(in_environment.reveal().as_str().into());
        assert_eq!(look(&places).unwrap().found.unwrap().origin, Origin::Environment);
        std::fs::write(&places.file, format!("{}\n", *in_file.reveal())).unwrap();
        assert_eq!(look(&places).unwrap().found.unwrap().token.id, in_file.id);
        std::fs::write(dir.path().join("credential"), "-").unwrap();
        assert_eq!(look(&places).unwrap().found.unwrap().token.id, in_file.id, "a dash is no token");
        std::fs::write(dir.path().join("credential"), &*in_credential.reveal()).unwrap();
        assert_eq!(look(&places).unwrap().found.unwrap().token.id, in_credential.id);
    }

    #[test]
    fn a_damaged_token_names_its_place_and_shows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let text = token().reveal().to_string();
        let cut = text.len() - 5;
        for bad in [text[..cut].to_owned(), text.to_uppercase(), "x".repeat(10_000)] {
            std::fs::write(&places.file, &bad).unwrap();
            let words = look(&places).unwrap_err().to_string();
            assert!(words.starts_with(&places.file.display().to_string()), "{words}");
            assert!(!words.contains(&text[40..cut]), "{words}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        std::fs::create_dir(&places.file).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("credential"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let look = look(&places).unwrap();
        assert!(look.found.is_none());
        assert_eq!(look.obstacles.len(), 2, "neither makes anybody wait");
        assert!(look.obstacles.iter().all(|words| words.ends_with("it is no regular file")), "{:?}", look.obstacles);
    }
}
