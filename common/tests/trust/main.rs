//! Who is trusted, proven handshake by handshake: both ends' real TLS settings against real certificates,
//! in memory. Cases are named after the attack list (C6, C7, C9 to C11, L2). What needs a socket, the
//! gate after the handshake among it, is tested where the socket is.
#![expect(clippy::expect_used, reason = "a test's own preparation fails loudly")]

mod collectors;
mod handshake;
mod pki;
mod resumption;
mod sidecars;
