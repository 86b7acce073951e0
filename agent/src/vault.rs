//! Key, chain, bundle and addresses on disk; every step survives a kill.
//!
//! | file | holds | written |
//! |---|---|---|
//! | `identity` | key, chain and bundle in use | at enrollment; otherwise only by renaming `next` |
//! | `next` | the same of a renewal or rejoin | before it is dialed with |
//! | `pending` | a key that is being certified | before it is sent |
//! | `addresses` | the collectors' addresses | when they change |
//! | `children` | who was spoken for, to say goodbye for those that are no longer | when the configuration changed |
//! | `settings` | what the collector set on this host | before it is applied |
//! | `lock` | nothing | held while a sidecar runs |
//!
//! A file appears whole or not at all (temporary file, fsync, rename, fsync of the directory), so that
//! whenever the process dies, `identity` is either the old or the new one, and a key that was sent is
//! known again. Each record carries the tag of the machine that it was made for, in the same file: a copy on
//! another machine is recognized, and at no kill point does an old key get a new tag. The vault refuses what others could have read or written. It knows nothing of networks.

mod disk;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rollcall_common::{
    id::{Generation, ServiceId, ServiceKey},
    machine::MachineTag,
    token::TokenId,
    wire::{
        message::{Addresses, Renewed},
        settings::Settings,
    },
};

use self::{
    disk::{Disk, Eyes},
    record::{AddressesRecord, IdentityRecord, PendingRecord, Purpose, RecordError, SettingsRecord},
};
use crate::{
    identity::{Identity, IdentityError},
    key::{Key, KeyError},
};

const IDENTITY: &str = "identity";
const NEXT: &str = "next";
const PENDING: &str = "pending";
const ADDRESSES: &str = "addresses";
const CHILDREN: &str = "children";
const SETTINGS: &str = "settings";

/// What to do about a file that does not read.
fn cure(name: &str) -> &'static str {
    match name {
        SETTINGS => "remove it; the collector sends them again",
        _ => "move it away and enroll again with a new token",
    }
}

/// No more of them are remembered than were ever told of at a time, twice over.
const MAX_KEPT_CHILDREN: usize = 2 * crate::probe::plan::MAX_CHILDREN;

/// The state directory of one sidecar, held exclusively.
#[derive(Debug)]
pub struct Vault {
    disk: Disk,
    /// What is written is for this machine.
    machine: Option<MachineTag>,
}

/// What the vault holds.
#[derive(Debug, Default)]
pub struct Stored {
    /// The identity in use.
    pub current: Option<Identity>,
    /// One that was granted but not yet accepted by a collector.
    pub next: Option<Identity>,
    /// Where to dial.
    pub addresses: Option<Addresses>,
    /// The machine that the identity in use was made for, where that was known.
    pub made_for: Option<MachineTag>,
}

/// Why the vault cannot be used. Nothing was destroyed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The directory cannot be made or opened.
    #[error("state directory {}: {source}{}", .path.display(), hint(.source))]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not what it should be: a link, a device.
    #[error("{} is not a {wanted}: remove it, or set another `state_dir`", .path.display())]
    NotA {
        /// Which.
        path: PathBuf,
        /// What was expected.
        wanted: &'static str,
    },
    /// Others can read or write it.
    #[error("{} is open to others (mode {mode:04o}): make sure that nobody used it, then `chmod {fix} {}`", .path.display(), .path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        fix: &'static str,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {owner}, and this program runs as user {me}: run it as that user, or set another `state_dir`", .path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our user.
        me: u32,
    },
    /// Another sidecar holds it.
    #[error("another sidecar uses state directory {}: stop it, or set another `state_dir`", .0.display())]
    Locked(PathBuf),
    /// Written by a newer version.
    #[error("{} has format {found}, and this version knows {known}: upgrade rollcall-agent", .path.display(), known = record::FORMAT)]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It does not read.
    #[error("{} is damaged ({why}): {cure}", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        why: String,
        /// What to do.
        cure: &'static str,
    },
    /// Reading failed.
    #[error("cannot read {}: {source}{}", .path.display(), hint(.source))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed; what was there before is still there.
    #[error("cannot write {}: {source}{}", .path.display(), hint(.source))]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl VaultError {
    /// Whether a restart may help without anybody's doing: the disk may have room again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Directory { source, .. } | Self::Read { source, .. } | Self::Write { source, .. } => {
                [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&source.kind())
            }
            Self::NotA { .. }
            | Self::Exposed { .. }
            | Self::Foreign { .. }
            | Self::Locked(_)
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Key(_) => false,
        }
    }
}

/// What to do about the system's own words.
fn hint(error: &io::Error) -> &'static str {
    let hints = [
        (io::ErrorKind::StorageFull, ": make room, it is tried again by itself"),
        (io::ErrorKind::QuotaExceeded, ": make room, it is tried again by itself"),
        (io::ErrorKind::ReadOnlyFilesystem, ": mount it for writing, or set another `state_dir`"),
        (io::ErrorKind::PermissionDenied, ": give the directory to the user that this program runs as"),
    ];
    hints.iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, hint)| hint)
}

impl Vault {
    /// Opens the directory, makes it where it is missing, and holds it until dropped.
    ///
    /// # Errors
    /// [`VaultError`] where it cannot be made, is open to others, is not ours, or is held already.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let disk = Disk::create(path)?;
        disk.lock()?;
        for name in [IDENTITY, NEXT, PENDING, ADDRESSES, CHILDREN, SETTINGS] {
            disk.sweep(name)?;
        }
        Ok(Self { disk, machine: None })
    }

    /// Opens the directory to forget what is in it, as its owner or as root; `None` where there is none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_forget(path: &Path) -> Result<Option<Self>, VaultError> {
        let Some(disk) = Disk::open(path, Eyes::RootToo)? else { return Ok(None) };
        disk.lock()?;
        Ok(Some(Self { disk, machine: None }))
    }

    /// From now on what is written is for that machine.
    pub fn bind(&mut self, machine: Option<MachineTag>) {
        self.machine = machine;
    }

    /// Writes the identity in use again, for the machine that the vault is bound to.
    ///
    /// # Errors
    /// When it cannot be written; it is untouched then.
    pub fn rebind(&self, identity: &Identity) -> Result<(), VaultError> {
        self.disk.write(IDENTITY, &IdentityRecord::of(identity, self.machine).encode())
    }

    /// Overwrites and removes everything, the lock last; gives the names of what was there. Where it is stopped in
    /// between, the identity is the first thing gone.
    ///
    /// # Errors
    /// When something stays.
    pub fn forget(self) -> Result<Vec<&'static str>, VaultError> {
        let mut forgotten = Vec::new();
        for name in [IDENTITY, NEXT, PENDING, ADDRESSES, CHILDREN, SETTINGS] {
            self.disk.sweep(name)?;
            if self.disk.wipe(name)? {
                forgotten.push(name);
            }
        }
        // One that root made could not be opened by the next sidecar.
        self.disk.remove_lock()?;
        Ok(forgotten)
    }

    /// Reads a directory that a sidecar may be using; makes, holds and changes nothing. `None` where
    /// there is none.
    ///
    /// # Errors
    /// What [`Self::open`] or [`Self::load`] would find.
    pub fn inspect(path: &Path) -> Result<Option<Stored>, VaultError> {
        match Disk::open(path, Eyes::RootToo)? {
            Some(disk) => Self { disk, machine: None }.read().map(Some),
            None => Ok(None),
        }
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`VaultError`] where a file is damaged, newer, open to others or not ours.
    pub fn load(&self) -> Result<Stored, VaultError> {
        let stored = self.read()?;
        if stored.current.is_some()
            && let Some(PendingRecord { purpose: Purpose::Enroll { .. }, .. }) = self.pending()?
        {
            // Killed between the identity and the end of the enrollment.
            self.disk.remove(PENDING)?;
        }
        Ok(stored)
    }

    /// The key to enroll with: the one that was kept for this token before, so that a collector which
    /// answered in vain recognizes it, or a fresh one, kept before it is returned.
    ///
    /// # Errors
    /// When it cannot be read, made or kept.
    pub fn enrollment_key(&self, token: TokenId) -> Result<Key, VaultError> {
        self.pending_key(Purpose::Enroll { token: token.to_string() })
    }

    /// The key to rejoin with after that generation: kept likewise.
    ///
    /// # Errors
    /// When it cannot be read, made or kept.
    pub fn rejoin_key(&self, expired: Generation) -> Result<Key, VaultError> {
        self.pending_key(Purpose::Rejoin { generation: expired.0 })
    }

    /// A fresh key to renew with, kept before it is returned.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub fn renewal_key(&self) -> Result<Key, VaultError> {
        let key = Key::generate()?;
        self.disk.write(PENDING, &PendingRecord::new(Purpose::Renew, &key, self.machine).encode())?;
        Ok(key)
    }

    /// Keeps the first identity and its addresses; the enrollment is over with it.
    ///
    /// # Errors
    /// When it cannot be written; the enrollment can then be repeated.
    pub fn keep_first(&self, identity: &Identity, addresses: &Addresses) -> Result<(), VaultError> {
        // That of an earlier identity, which was not used, must not be taken for this one's.
        self.disk.remove(NEXT)?;
        self.disk.remove(SETTINGS)?;
        self.keep_addresses(addresses)?;
        self.disk.write(IDENTITY, &IdentityRecord::of(identity, self.machine).encode())?;
        self.disk.remove(PENDING)
    }

    /// Keeps an identity that no collector has accepted yet.
    ///
    /// # Errors
    /// When it cannot be written; the identity in use is untouched.
    pub fn keep_next(&self, next: &Identity) -> Result<(), VaultError> {
        self.disk.write(NEXT, &IdentityRecord::of(next, self.machine).encode())?;
        self.disk.remove(PENDING)
    }

    /// The next identity was accepted: it takes the place of the one in use.
    ///
    /// # Errors
    /// When it cannot be renamed; it is then found as the next one again.
    pub fn adopt_next(&self) -> Result<(), VaultError> {
        self.disk.rename(NEXT, IDENTITY)
    }

    /// The next identity is worthless.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn drop_next(&self) -> Result<(), VaultError> {
        self.disk.remove(NEXT)
    }

    /// Keeps the collectors' addresses.
    ///
    /// # Errors
    /// When they cannot be written; the old ones are untouched.
    pub fn keep_addresses(&self, addresses: &Addresses) -> Result<(), VaultError> {
        self.disk.write(ADDRESSES, &AddressesRecord::of(addresses).encode())
    }

    /// Keeps what the collector set on this host, or that it set nothing.
    ///
    /// # Errors
    /// When it cannot be written; what was kept before is untouched, or to be kept again.
    pub fn keep_settings(&self, settings: Option<&Settings>) -> Result<(), VaultError> {
        match settings {
            Some(settings) => self.disk.write(SETTINGS, &SettingsRecord::of(settings).encode()),
            None => self.disk.remove(SETTINGS),
        }
    }

    /// What the collector set on this host.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn settings(&self) -> Result<Option<Settings>, VaultError> {
        let Some(bytes) = self.disk.read(SETTINGS)? else { return Ok(None) };
        let record = SettingsRecord::decode(&bytes).map_err(|error| self.broken(SETTINGS, error))?;
        Ok(Some(record.into()))
    }

    /// Remembers which children were spoken for, each as `kind/id`, with its parent's id where that is another's.
    ///
    /// # Errors
    /// When they cannot be written; the old ones are untouched.
    pub fn keep_children(&self, children: &BTreeMap<ServiceKey, Option<ServiceId>>) -> Result<(), VaultError> {
        let line = |(key, parent): (&ServiceKey, &Option<ServiceId>)| match parent {
            Some(parent) => format!("{key} {}\n", parent.as_str()),
            None => format!("{key}\n"),
        };
        self.disk.write(CHILDREN, children.iter().map(line).collect::<String>().as_bytes())
    }

    /// Which children were spoken for. Lines that do not read are passed over: they cost a goodbye, no more.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn children(&self) -> Result<BTreeMap<ServiceKey, Option<ServiceId>>, VaultError> {
        let Some(bytes) = self.disk.read(CHILDREN)? else { return Ok(BTreeMap::new()) };
        let text = String::from_utf8_lossy(&bytes);
        let child = |line: &str| {
            let (key, parent) = line.split_once(' ').map_or((line, None), |(key, parent)| (key, parent.parse().ok()));
            Some((key.parse().ok()?, parent))
        };
        Ok(text.lines().filter_map(child).take(MAX_KEPT_CHILDREN).collect())
    }

    fn read(&self) -> Result<Stored, VaultError> {
        let (current, made_for) = self.identity(IDENTITY)?.unzip();
        let next = match self.identity(NEXT).map(|next| next.map(|(identity, _)| identity)) {
            // It never was in use: without it, the certificate is merely renewed once more.
            Err(error @ VaultError::Damaged { .. }) if current.is_some() => {
                tracing::warn!(%error, "the next identity is passed over");
                None
            }
            other => other?,
        };
        let addresses = match self.disk.read(ADDRESSES)? {
            Some(bytes) => Some(AddressesRecord::decode(&bytes).map_err(|e| self.broken(ADDRESSES, e))?.into()),
            None => None,
        };
        Ok(Stored { current, next, addresses, made_for: made_for.flatten() })
    }

    fn identity(&self, name: &'static str) -> Result<Option<(Identity, Option<MachineTag>)>, VaultError> {
        let Some(bytes) = self.disk.read(name)? else { return Ok(None) };
        let record = IdentityRecord::decode(&bytes).map_err(|error| self.broken(name, error))?;
        let damaged = |why: String| VaultError::Damaged { path: self.disk.path_of(name), why, cure: cure(name) };
        let key = Key::from_pkcs8(&record.key.0).map_err(|error| damaged(error.to_string()))?;
        let machine = record.machine;
        let granted: Renewed = record.into();
        let joined: Result<Identity, IdentityError> = Identity::new(Arc::new(key), granted);
        joined.map(|identity| Some((identity, machine))).map_err(|error| damaged(error.to_string()))
    }

    fn pending(&self) -> Result<Option<PendingRecord>, VaultError> {
        let Some(bytes) = self.disk.read(PENDING)? else { return Ok(None) };
        PendingRecord::decode(&bytes).map(Some).map_err(|error| self.broken(PENDING, error))
    }

    fn pending_key(&self, purpose: Purpose) -> Result<Key, VaultError> {
        // A key that was copied with its directory is another machine's: with it, two would be one.
        let ours = |kept: &PendingRecord| kept.machine.is_none() || kept.machine == self.machine;
        if let Some(kept) = self.pending()?.filter(|kept| kept.purpose == purpose && ours(kept)) {
            return Ok(Key::from_pkcs8(&kept.key.0)?);
        }
        let key = Key::generate()?;
        self.disk.write(PENDING, &PendingRecord::new(purpose, &key, self.machine).encode())?;
        Ok(key)
    }

    fn broken(&self, name: &'static str, error: RecordError) -> VaultError {
        let path = self.disk.path_of(name);
        match error {
            RecordError::Newer(found) => VaultError::Newer { path, found },
            RecordError::Damaged(why) => VaultError::Damaged { path, why, cure: cure(name) },
        }
    }
}
