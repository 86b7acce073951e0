//! The contents of the vault's files: JSON with a format number, read before anything else is, so that
//! a file of a newer version is recognized and left alone.

use data_encoding::BASE64;
use rollcall_common::{
    address::Address,
    id::Generation,
    machine::MachineTag,
    time::Timestamp,
    wire::{
        message::{Addresses, Bytes, Renewed},
        settings::Settings,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{identity::Identity, key::Key};

/// The one format that exists.
pub(super) const FORMAT: u32 = 1;

/// Why bytes are no record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RecordError {
    /// Of a newer version.
    Newer(u32),
    /// Not readable.
    Damaged(String),
}

/// A key, and what was granted for it.
#[derive(Serialize, Deserialize)]
pub(super) struct IdentityRecord {
    format: u32,
    /// PKCS#8.
    pub(super) key: SecretBytes,
    /// Leaf first.
    chain: Vec<PublicBytes>,
    bundle: Vec<PublicBytes>,
    bundle_revision: u64,
    generation: Generation,
    not_after: Timestamp,
    renew_at: Timestamp,
    /// The machine that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) machine: Option<MachineTag>,
}

/// A key that is being certified.
#[derive(Serialize, Deserialize)]
pub(super) struct PendingRecord {
    format: u32,
    pub(super) purpose: Purpose,
    /// PKCS#8.
    pub(super) key: SecretBytes,
    /// The machine that it was made on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) machine: Option<MachineTag>,
}

/// What a pending key is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Purpose {
    Enroll { token: String },
    Renew,
    Rejoin { generation: u64 },
}

/// The collectors' addresses.
#[derive(Serialize, Deserialize)]
pub(super) struct AddressesRecord {
    format: u32,
    revision: u64,
    list: Vec<Address>,
}

/// What the collector set.
#[derive(Serialize, Deserialize)]
pub(super) struct SettingsRecord {
    format: u32,
    settings: Settings,
}

impl IdentityRecord {
    pub(super) fn of(identity: &Identity, machine: Option<MachineTag>) -> Self {
        let granted = identity.granted();
        let public = |list: &[Bytes]| list.iter().map(|der| PublicBytes(der.0.clone())).collect();
        Self {
            format: FORMAT,
            key: SecretBytes(identity.key().to_pkcs8()),
            chain: public(&granted.chain),
            bundle: public(&granted.bundle),
            bundle_revision: granted.bundle_revision,
            generation: granted.generation,
            not_after: granted.not_after,
            renew_at: granted.renew_at,
            machine,
        }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

impl From<IdentityRecord> for Renewed {
    fn from(record: IdentityRecord) -> Self {
        let wire = |list: Vec<PublicBytes>| list.into_iter().map(|der| Bytes(der.0)).collect();
        Self {
            chain: wire(record.chain),
            bundle: wire(record.bundle),
            bundle_revision: record.bundle_revision,
            generation: record.generation,
            not_after: record.not_after,
            renew_at: record.renew_at,
        }
    }
}

impl PendingRecord {
    pub(super) fn new(purpose: Purpose, key: &Key, machine: Option<MachineTag>) -> Self {
        Self { format: FORMAT, purpose, key: SecretBytes(key.to_pkcs8()), machine }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

impl AddressesRecord {
    pub(super) fn of(addresses: &Addresses) -> Self {
        Self { format: FORMAT, revision: addresses.revision, list: addresses.list.clone() }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

impl SettingsRecord {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { format: FORMAT, settings: settings.clone() }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

impl From<SettingsRecord> for Settings {
    fn from(record: SettingsRecord) -> Self {
        record.settings
    }
}

impl From<AddressesRecord> for Addresses {
    fn from(record: AddressesRecord) -> Self {
        Self { revision: record.revision, list: record.list }
    }
}

/// Room for the largest record, so that growing leaves no copies of a key behind.
const ROOM: usize = 16 * 1024;

fn encode<T: Serialize>(record: &T) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(ROOM));
    // Records are structs of numbers and strings: there is nothing that JSON could refuse.
    let _ = serde_json::to_writer(&mut *bytes, record);
    bytes.push(b'\n');
    bytes
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let damaged = |error: serde_json::Error| RecordError::Damaged(error.to_string());
    let head: Head = serde_json::from_slice(bytes).map_err(damaged)?;
    if head.format > FORMAT {
        return Err(RecordError::Newer(head.format));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Bytes in base64 that are wiped when dropped.
pub(super) struct SecretBytes(pub(super) Zeroizing<Vec<u8>>);

impl Serialize for SecretBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(BASE64.encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| serde::de::Error::custom("a key is not base64"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}

/// Bytes in base64.
struct PublicBytes(Vec<u8>);

impl Serialize for PublicBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for PublicBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(|_| serde::de::Error::custom("a certificate is not base64"))
    }
}
