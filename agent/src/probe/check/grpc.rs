//! The gRPC health service, version 1: one unary call over HTTP/2. Its two messages have one field each and are
//! written and read by hand.

use std::{io, time::Duration};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, client};
use hyper::{HeaderMap, Request, StatusCode, Version, header};
use rollcall_common::health::Health;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::{Host, Look, net, tls};
use crate::probe::plan::{Grpc, Target};

/// No answer of a health service is longer.
const MAX_ANSWER: usize = 1_024;
const WINDOW: u32 = 16 * 1024;

pub(super) async fn look(grpc: &Grpc, within: Duration, host: &Host) -> Look {
    let target = &grpc.url.target;
    let stream = match net::connect(target, within, host).await {
        Ok(stream) => stream,
        Err(look) => return look,
    };
    let asked = if grpc.url.tls {
        match tls::wrap(stream, target, &grpc.trust, b"h2", host).await {
            Ok(stream) => ask(stream, grpc).await,
            Err(look) => return look,
        }
    } else {
        ask(stream, grpc).await
    };
    asked.unwrap_or_else(|error| broken(target, &error))
}

/// A connection that ends is told from one that never was of this sort.
fn broken(target: &Target, error: &h2::Error) -> Look {
    match error.reason() {
        Some(reason) if error.is_remote() => {
            let how = if error.is_go_away() { "ends the connection" } else { "refuses the call" };
            Look::ill(format!("{target} {how}: {}", reason.description()))
        }
        _ if error.is_io() => match error.get_io().filter(|error| error.raw_os_error().is_none()) {
            Some(error) if error.kind() == io::ErrorKind::Other => Look::ill(format!("{target}: {error}")),
            Some(_) | None => Look::ill(format!("{target} closed the connection without an answer")),
        },
        _ => Look::ill(format!("{target} does not speak gRPC: {error}")),
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, grpc: &Grpc) -> Result<Look, h2::Error> {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(WINDOW)
        .max_header_list_size(WINDOW)
        .max_concurrent_streams(1);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    // Ends with this look, whatever the other side does.
    let mut carrying = JoinSet::new();
    carrying.spawn(connection);
    let mut sender = sender.ready().await?;
    let scheme = if grpc.url.tls { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{}/grpc.health.v1.Health/Check", grpc.url.authority()))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("rollcall-agent/", env!("CARGO_PKG_VERSION")))
        .body(());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Ok(Look::blind(format!("cannot ask {}: {error}", grpc.url))),
    };
    let (answer, mut body) = sender.send_request(request, false)?;
    body.send_data(question(&grpc.service), true)?;
    let answer = answer.await?;
    if answer.status() != StatusCode::OK {
        return Ok(Look::ill(format!("{} answers HTTP {}", grpc.url.target, answer.status())));
    }
    // An answer without a message tells its status at once.
    if let Some(refused) = refusal(answer.headers(), grpc) {
        return Ok(refused);
    }
    let mut body = answer.into_body();
    let message = read(&mut body).await?;
    if message.len() >= MAX_ANSWER {
        return Ok(Look::ill(format!("{} answers with something that is no health", grpc.url.target)));
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(refusal(&trailers, grpc).unwrap_or_else(|| judge(&message, grpc)))
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        let room = MAX_ANSWER.saturating_sub(message.len());
        message.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
        if message.len() >= MAX_ANSWER {
            break;
        }
    }
    Ok(message)
}

/// `HealthCheckRequest { string service = 1; }`, in a message that is not compressed.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // At most 127 bytes: a length of one byte.
        message.extend([0x0a, u8::try_from(service.len()).unwrap_or(0)]);
        message.extend(service.bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// What a status other than 0 means.
fn refusal(headers: &HeaderMap, grpc: &Grpc) -> Option<Look> {
    let status: u32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let service = &grpc.service;
    match status {
        0 => None,
        5 => Some(Look::ill(format!("{} knows no service {service:?}", grpc.url.target))),
        12 => Some(Look::blind(format!("{} has no gRPC health service", grpc.url.target))),
        16 | 7 => Some(Look::blind(format!("{} wants credentials for its health service", grpc.url.target))),
        other => Some(Look::ill(format!("{} answers gRPC status {other}", grpc.url.target))),
    }
}

/// `HealthCheckResponse { ServingStatus status = 1; }`
fn judge(message: &[u8], grpc: &Grpc) -> Look {
    let of = if grpc.service.is_empty() { grpc.url.target.to_string() } else { grpc.service.clone() };
    match status(message) {
        Some(1) => Look::well("is serving"),
        Some(2) => Look::ill(format!("{of} says that it is not serving")),
        Some(3) => Look::ill(format!("{} knows no service {:?}", grpc.url.target, grpc.service)),
        Some(0) => Look { health: Health::Degraded, ..Look::well(format!("{of} does not know how it is")) },
        Some(other) => Look::ill(format!("{of} answers with the unknown status {other}")),
        None => Look::ill(format!("{of} answers with something that is no health")),
    }
}

/// The last value of field 1; 0 where there is none.
fn status(frame: &[u8]) -> Option<u64> {
    let mut rest = frame;
    if rest.len() < 5 || rest.get_u8() != 0 {
        return None;
    }
    let len = usize::try_from(rest.get_u32()).ok()?;
    let mut rest = rest.get(..len)?;
    let mut found = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => found = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 2) => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(len..)?;
            }
            (_, 1) => rest = rest.get(8..)?,
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_is_read_whatever_stands_beside_it() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B").as_ref(), b"\0\0\0\0\x05\x0a\x03a.B");
        for (frame, wanted) in [
            (&[0, 0, 0, 0, 0][..], Some(0)),
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 2, 8, 2][..], Some(2)),
            (&[0, 0, 0, 0, 6, 0x12, 2, 7, 7, 8, 1][..], Some(1)),
            (&[1, 0, 0, 0, 2, 8, 1][..], None),
            (&[0, 0, 0, 0, 9, 8, 1][..], None),
            (&[0, 0, 0, 0, 2, 8, 0x81][..], None),
            (b"HTTP/1.1 400"[..].as_ref(), None),
            (&[][..], None),
        ] {
            assert_eq!(status(frame), wanted, "{frame:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = status(&bytes);
        }
    }
}
