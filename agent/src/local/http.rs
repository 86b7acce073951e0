//! HTTP/1.1 on a stream, and the only home of hyper here: bytes to a request and an answer to bytes.
//!
//! hyper, and nothing on top of it: heads of strangers are worth a parser that the world has tried to break, while a
//! router would cost more than the five paths it routes. One request a connection: a caller that stays would keep a
//! place from others.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answers::{Answer, Asked, House, Peer};

/// Longest body.
pub(super) const MAX_BODY: usize = 4 * 1024;
/// Longest head; hyper reads no less at a time.
const MAX_HEAD: usize = 8 * 1024;
/// Most header lines.
const MAX_HEADERS: usize = 32;
/// How long a head may take.
const HEAD_WITHIN: Duration = Duration::from_secs(2);

/// Serves one request.
pub(super) async fn serve<S>(stream: S, peer: Peer, house: Arc<House>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let house = Arc::clone(&house);
        async move { Ok::<_, Infallible>(respond(request, peer, &house).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        house.tally.broken();
        tracing::debug!(%error, "a local caller");
    }
}

/// Ends what takes too long: whoever reads or writes too slowly is not waited for.
pub(super) async fn in_time(work: impl Future<Output = ()>, within: Duration) {
    if tokio::time::timeout(within, work).await.is_err() {
        tracing::debug!("a local caller was too slow");
    }
}

async fn respond(request: Request<Incoming>, peer: Peer, house: &House) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let text = |name| head.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?").to_owned());
    let asked = Asked {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        peer,
        host: text(HOST),
        from_a_page: head.headers.contains_key(ORIGIN),
    };
    let answer = match house.refuse(&asked) {
        Some(refusal) => refusal,
        None => match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => house.answer(&asked, &body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Answer::refusal(413, format!("at most {MAX_BODY} bytes"))
            }
            Err(_) => Answer::refusal(400, "the body broke off"),
        },
    };
    house.tally.answered(asked.path, answer.status);
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.form));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(allowed) = answer.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    response
}
