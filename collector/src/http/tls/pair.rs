//! A certificate chain and its key, read from two files and looked through before they are served.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use rollcall_common::time::Timestamp;
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::{
    config::HttpTls,
    statedir::{MAX_FILE, StateDirError, outside},
};

/// Why a pair cannot be served. Each names the file and the fix.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The key's file is not as private as it must be, or cannot be read.
    #[error("http_tls_key: {error}{}", key_hint(error))]
    Key {
        /// What is wrong with it.
        error: StateDirError,
    },
    /// The certificate's file cannot be read.
    #[error("http_tls_cert: cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{key}: {} {why}", path.display())]
    Content {
        /// The setting that names the file.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what would work.
        why: String,
    },
    /// The two do not belong together.
    #[error("the key in {} does not belong to the {what} in {}: {fix}", key.display(), cert.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Which certificate was compared.
        what: &'static str,
        /// What to do.
        fix: &'static str,
    },
}

fn key_hint(error: &StateDirError) -> &'static str {
    match error {
        StateDirError::Symlink { .. } => {
            "; or hand the key over by systemd (LoadCredential=), and name it below $CREDENTIALS_DIRECTORY"
        }
        StateDirError::WrongType { .. }
        | StateDirError::Mode { .. }
        | StateDirError::Owner { .. }
        | StateDirError::Busy { .. }
        | StateDirError::TooLarge { .. }
        | StateDirError::Io { .. } => "",
    }
}

/// A pair that can be served.
#[derive(Clone)]
pub struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// The names that it stands for, in lower case; a wildcard begins with `*.`.
    pub names: Vec<String>,
    /// Its begin.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
    /// What clients may take offence at, in words.
    pub doubts: Vec<String>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("names", &self.names)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("doubts", &self.doubts)
            .finish_non_exhaustive()
    }
}

impl Pair {
    /// Reads both files and looks through them.
    ///
    /// # Errors
    /// See [`PairError`].
    pub fn load(files: &HttpTls) -> Result<Self, PairError> {
        let chain =
            read_public(&files.cert).map_err(|source| PairError::Unreadable { path: files.cert.clone(), source })?;
        let key = outside::read_private(&files.key, files.keeper).map_err(|error| PairError::Key { error })?;
        Self::of_pem(&chain, &key, files)
    }

    fn of_pem(chain: &[u8], key: &[u8], files: &HttpTls) -> Result<Self, PairError> {
        let in_cert = |why: String| PairError::Content { key: "http_tls_cert", path: files.cert.clone(), why };
        let in_key = |why: String| PairError::Content { key: "http_tls_key", path: files.key.clone(), why };
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| in_cert(format!("is no good PEM: {error}")))?;
        let Some(leaf) = chain.first() else {
            let why = "holds no certificate: it must be PEM, -----BEGIN CERTIFICATE-----, the server's own first";
            return Err(in_cert(why.into()));
        };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| in_key(pem_words(&error)))?;
        let parsed = parse(leaf).map_err(|error| in_cert(format!("holds a damaged certificate: {error}")))?;
        let doubts = doubts(&chain, &parsed);
        let names = names(&parsed);
        let time = |at: x509_parser::time::ASN1Time| Timestamp::from_secs(at.timestamp());
        let (not_before, not_after) = (time(parsed.validity().not_before), time(parsed.validity().not_after));
        let provider = aws_lc_rs::default_provider();
        let certified = match CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider) {
            Ok(certified) => certified,
            Err(rustls::Error::InconsistentKeys(_)) => return Err(mismatch(&chain, &key, &provider, files)),
            Err(error) => return Err(in_key(format!("holds a key that cannot be used: {error}"))),
        };
        Ok(Self { key: Arc::new(certified), names, not_before, not_after, doubts })
    }

    /// Whether the certificate stands for the host of a `Host` header, port and all.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(inside) => inside.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let below = name.split_once('.').map(|(_, domain)| domain);
        self.names.iter().any(|known| match known.strip_prefix("*.") {
            Some(domain) => below == Some(domain),
            None => *known == name,
        })
    }
}

fn pem_words(error: &pem::Error) -> String {
    if matches!(error, pem::Error::NoItemsFound) {
        return "holds no private key: it must be PEM, -----BEGIN PRIVATE KEY-----, and not protected by a passphrase"
            .into();
    }
    format!("is no good PEM: {error}")
}

/// A certificate is public: it may be a link, and anybody's, as certbot leaves it.
fn read_public(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn mismatch(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    provider: &CryptoProvider,
    files: &HttpTls,
) -> PairError {
    let fits =
        |cert: &CertificateDer<'static>| CertifiedKey::from_der(vec![cert.clone()], key.clone_key(), provider).is_ok();
    let (what, fix) = if chain.iter().skip(1).any(fits) {
        ("first certificate", "put the server's own certificate first, then the intermediates in order")
    } else {
        ("certificate", "one of the two is of another issue; put both files of the same pair there")
    };
    PairError::Mismatch { cert: files.cert.clone(), key: files.key.clone(), what, fix }
}

fn parse<'a>(cert: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(cert).map(|(_, parsed)| parsed).map_err(|error| error.to_string())
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    let word = |name: &GeneralName<'_>| {
        if let GeneralName::DNSName(name) = name {
            return Some(name.to_ascii_lowercase());
        }
        let GeneralName::IPAddress(bytes) = name else { return None };
        address(bytes).map(|ip| ip.to_string())
    };
    names.value.general_names.iter().filter_map(word).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

/// What can be served, but not to everybody.
fn doubts(chain: &[CertificateDer<'_>], leaf: &X509Certificate<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    if names(leaf).is_empty() {
        doubts.push("it names no host (subjectAltName), so that no client will accept it".into());
    }
    if leaf.is_ca() {
        doubts.push("it is a CA's own certificate, which strict clients refuse for a server".into());
    }
    let purpose = leaf.extended_key_usage().ok().flatten();
    if purpose.is_some_and(|purpose| !purpose.value.server_auth && !purpose.value.any) {
        doubts.push("it is not meant for servers (extendedKeyUsage lacks serverAuth)".into());
    }
    let parsed: Vec<_> = chain.iter().filter_map(|cert| parse(cert).ok()).collect();
    let broken = parsed.iter().zip(parsed.iter().skip(1)).any(|(cert, next)| cert.issuer() != next.subject());
    if broken || parsed.len() < chain.len() {
        doubts.push("the chain behind it is not in order: each certificate must be signed by the next".into());
    }
    doubts
}
