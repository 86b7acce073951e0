//! The treaty between sidecar and collector.
//!
//! One long-lived bidirectional stream carries frames: a u32 length, big-endian, then one postcard value
//! of [`message::Up`] or [`message::Down`]. The ALPN names protocol and version; variants are only ever
//! appended, released structs are frozen, new facts get new variants, and nobody sends what the greeted
//! version lacks. `wire/golden.rs` pins the bytes.

pub mod children;
pub mod codec;
pub mod message;
pub mod settings;

#[cfg(test)]
mod golden;

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC, over UDP.
    Quic,
    /// TLS on TCP at the same port, for networks that let no UDP pass.
    Tcp,
}

impl Transport {
    /// All of them, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Quic, Self::Tcp];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Quic => Self::Tcp,
            Self::Tcp => Self::Quic,
        }
    }

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// ALPN of enrollment and rejoin: no client certificate.
pub const ALPN_ENROLL: &[u8] = b"rollcall-enroll/1";
/// ALPN of heartbeats: mutual TLS.
pub const ALPN_BEAT: &[u8] = b"rollcall-beat/1";

/// The one version of the beat protocol that exists.
pub const BEAT_VERSION: u16 = 1;

/// Largest frame body, in bytes; a chain of three P-256 certificates takes 1.2 kB.
pub const MAX_FRAME: usize = 16 * 1024;

/// TLS exporter label that ties an enrollment to its connection.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-rollcall-enroll";
/// Length of the exported keying material, in bytes.
pub const EXPORTER_LEN: usize = 32;

/// The server name that sidecars send: constant, since trust comes from the SPIFFE id.
pub const SERVER_NAME: &str = "collector.rollcall.invalid";

/// What the sidecar's key signs to prove possession on this very connection: the exporter and the
/// SHA-256 of the certificate request.
#[must_use]
pub fn proof_message(exporter: &[u8; EXPORTER_LEN], csr: &[u8]) -> [u8; 2 * 32] {
    use sha2::Digest;
    let digest: [u8; 32] = sha2::Sha256::digest(csr).into();
    let mut message = [0; 64];
    for (to, from) in message.iter_mut().zip(exporter.iter().chain(&digest)) {
        *to = *from;
    }
    message
}
