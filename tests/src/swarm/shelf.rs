//! Identities on disk: one file of mode 0600, grown record by record.
//!
//! A record is a length and a postcard value. What was cut short by a kill is the end of the file, and is
//! cut off when it is opened: one enrollment is repeated, under another id. It knows nothing of networks.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use rollcall_agent::{identity::Identity, key::Key};
use rollcall_common::{address::Address, time::Timestamp, wire::message::Renewed};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::plan::Shape;

/// The file within the directory.
const FILE: &str = "identities";
/// No record is longer; a length beyond it means that this is not our file.
const MAX_RECORD: usize = 64 * 1024;
/// What the file begins with.
const MAGIC: &[u8; 8] = b"swarm/1\n";

/// Wiped when dropped.
#[derive(Serialize, Deserialize)]
struct Record {
    place: u32,
    shape: Shape,
    pkcs8: Vec<u8>,
    granted: Renewed,
    addresses: Vec<Address>,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.pkcs8.zeroize();
    }
}

/// One identity with its place in the plan.
#[derive(Debug, Clone)]
pub struct Member {
    /// The place.
    pub place: u32,
    /// Key and certificate.
    pub identity: Identity,
    /// Where its collectors are.
    pub addresses: Vec<Address>,
}

/// The open file.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
    file: File,
    shape: Option<Shape>,
    members: BTreeMap<u32, Member>,
}

impl Shelf {
    /// Opens or makes it; `dir` is made with mode 0700 where it is missing.
    ///
    /// # Errors
    /// When it cannot be read, is open to others, or is another program's.
    pub fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| format!("cannot make {dir:?}"))?;
        let path = dir.join(FILE);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {path:?}"))?;
        file.try_lock().with_context(|| format!("{path:?} is in use by another swarm"))?;
        let mut shelf = Self { path, file, shape: None, members: BTreeMap::new() };
        shelf.load().with_context(|| format!("cannot read {:?}", shelf.path))?;
        Ok(shelf)
    }

    /// The shape of what is kept; `None` while nothing is.
    #[must_use]
    pub fn shape(&self) -> Option<Shape> {
        self.shape
    }

    /// What is kept, by place.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<u32, Member> {
        &self.members
    }

    /// The first places, all of which must be there and young enough not to be renewed while they are used.
    ///
    /// # Errors
    /// When some are missing or too old.
    pub fn first(&self, count: u32, now: Timestamp) -> Result<Vec<Member>> {
        let members: Vec<Member> = self.members.range(..count).map(|(_, member)| member.clone()).collect();
        let have = members.len();
        ensure!(
            u32::try_from(have).is_ok_and(|have| have == count),
            "{:?} holds {have} of the first {count} identities: run `rollcall-swarm enroll --count {count}` first",
            self.path
        );
        let old = members.iter().filter(|member| member.identity.term().renew_at <= now).count();
        ensure!(
            old == 0,
            "{old} certificates in {:?} are past half of their life: remove the directory and enroll anew",
            self.path
        );
        Ok(members)
    }

    /// Keeps one more. It is on disk when this returns, in the kernel's hands.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&mut self, shape: Shape, member: Member) -> Result<()> {
        let record = Record {
            place: member.place,
            shape,
            pkcs8: member.identity.key().to_pkcs8().to_vec(),
            granted: member.identity.granted().clone(),
            addresses: member.addresses.clone(),
        };
        let body = Zeroizing::new(postcard::to_allocvec(&record)?);
        let mut bytes = Zeroizing::new(u32::try_from(body.len())?.to_le_bytes().to_vec());
        bytes.extend_from_slice(&body);
        self.file.write_all(&bytes).with_context(|| format!("cannot write {:?}", self.path))?;
        self.shape = Some(shape);
        self.members.insert(member.place, member);
        Ok(())
    }

    fn load(&mut self) -> Result<()> {
        let mode = std::os::unix::fs::PermissionsExt::mode(&self.file.metadata()?.permissions());
        ensure!(mode & 0o077 == 0, "it is open to others: chmod 600");
        let mut bytes = Zeroizing::new(Vec::new());
        self.file.read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(self.file.write_all(MAGIC)?);
        }
        let mut rest = bytes.strip_prefix(MAGIC.as_slice()).context("it is not a swarm's")?;
        while let Some((record, behind)) = split(rest)? {
            rest = behind;
            let mut record: Record = postcard::from_bytes(record)?;
            let key = Arc::new(Key::from_pkcs8(&record.pkcs8)?);
            let (place, shape) = (record.place, record.shape);
            let addresses = std::mem::take(&mut record.addresses);
            let identity = Identity::new(key, record.granted.clone())?;
            self.shape = Some(shape);
            self.members.insert(place, Member { place, identity, addresses });
        }
        let whole = bytes.len() - rest.len();
        self.file.set_len(u64::try_from(whole)?)?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }
}

/// The first record and what follows it; `None` where no whole record is left.
fn split(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length))?;
    ensure!(length <= MAX_RECORD, "a record of {length} bytes: the file is damaged");
    Ok(rest.split_at_checked(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_cut_short_is_the_end() {
        let two = [2, 0, 0, 0, 7, 8, 1, 0, 0, 0];
        let (first, rest) = split(&two).unwrap().unwrap();
        assert_eq!(first, [7, 8]);
        assert!(split(rest).unwrap().is_none());
        assert!(split(&rest[..2]).unwrap().is_none());
        assert!(split(&[0, 0, 0, 1]).is_err(), "16 MiB is no record of ours");
    }

    #[test]
    fn a_torn_tail_is_cut_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(Shelf::open(dir.path()).unwrap());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[9, 0, 0, 0, 1, 2]).unwrap();
        assert_eq!(Shelf::open(dir.path()).unwrap().members().len(), 0);
        assert_eq!(std::fs::read(&path).unwrap(), MAGIC);
        std::fs::write(&path, b"something else").unwrap();
        assert!(format!("{:#}", Shelf::open(dir.path()).unwrap_err()).contains("not a swarm's"));
        assert_eq!(std::fs::read(&path).unwrap(), b"something else", "nothing is destroyed");
    }

    #[test]
    fn only_one_swarm_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = Shelf::open(dir.path()).unwrap();
        assert!(format!("{:#}", Shelf::open(dir.path()).unwrap_err()).contains("another swarm"));
        drop(held);
        assert!(Shelf::open(dir.path()).is_ok());
    }
}
