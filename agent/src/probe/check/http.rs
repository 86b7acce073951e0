//! Pages: HTTP/1.1, with or without TLS. A redirect is followed only as often as allowed; of the body no more is read
//! than its first [`MAX_BODY`] bytes, and nothing where nobody asked for it. Who was asked over TLS does not lead
//! out of it.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use rollcall_common::health::Text;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::{Host, Look, net, tls};
use crate::probe::plan::{Http, Url};

/// How much of a body is read.
const MAX_BODY: usize = 64 * 1024;
/// How much a head may take.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
const USER_AGENT: &str = concat!("rollcall-agent/", env!("CARGO_PKG_VERSION"));

pub(super) async fn look(http: &Http, within: Duration, host: &Host) -> Look {
    let mut url = http.url.clone();
    for hop in 0..=http.redirects {
        match get(&url, http, within, host).await {
            Seen::Answer(look) => return look,
            Seen::Redirect(status, to) => {
                let Some(next) = url.follow(&to) else {
                    let to = Text::fit(&to);
                    return Look::ill(format!("{url} answers {status} and leads to {to:?}, which is no page"));
                };
                if hop == http.redirects {
                    return Look::ill(match http.redirects {
                        0 => format!("{url} answers {status} and leads to {next}; redirects are not followed"),
                        most => format!("{} leads on and on: {most} redirects were followed", http.url),
                    });
                }
                if url.tls && !next.tls {
                    return Look::ill(format!("{url} answers {status} and leads to {next}, out of TLS"));
                }
                url = next;
            }
        }
    }
    Look::ill("it leads nowhere")
}

enum Seen {
    Answer(Look),
    Redirect(u16, String),
}

async fn get(url: &Url, http: &Http, within: Duration, host: &Host) -> Seen {
    let stream = match net::connect(&url.target, within, host).await {
        Ok(stream) => stream,
        Err(look) => return Seen::Answer(look),
    };
    if !url.tls {
        return exchange(TokioIo::new(stream), url, http).await;
    }
    match tls::wrap(stream, &url.target, &http.trust, b"http/1.1", host).await {
        Ok(stream) => exchange(TokioIo::new(stream), url, http).await,
        Err(look) => Seen::Answer(look),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: TokioIo<S>, url: &Url, http: &Http) -> Seen {
    let request = Request::get(url.path.as_str())
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Seen::Answer(Look::blind(format!("cannot ask for {url}: {error}"))),
    };
    let shaken = http1::Builder::new().max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS).handshake(io).await;
    let (mut sender, connection) = match shaken {
        Ok(pair) => pair,
        Err(error) => return Seen::Answer(garbled(url, &error)),
    };
    // Ends with this look, whatever the other side does.
    let mut carrying = JoinSet::new();
    carrying.spawn(connection);
    match sender.send_request(request).await {
        Ok(answer) => judge(answer, url, http).await,
        Err(error) => Seen::Answer(garbled(url, &error)),
    }
}

/// The words of the innermost reason say most.
fn garbled(url: &Url, error: &hyper::Error) -> Look {
    use std::error::Error as _;
    let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    if error.is_parse() || error.is_parse_too_large() {
        Look::ill(format!("{url} answers with something that is no HTTP: {error}"))
    } else if error.is_incomplete_message() {
        Look::ill(format!("{url} closed the connection without an answer"))
    } else {
        Look::ill(format!("{url}: {why}"))
    }
}

async fn judge(answer: Response<Incoming>, url: &Url, http: &Http) -> Seen {
    let status = answer.status();
    let fits = http.status.iter().any(|(from, to)| (*from..=*to).contains(&status.as_u16()));
    if !fits {
        let location = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        return match location.filter(|_| status.is_redirection()) {
            Some(to) => Seen::Redirect(status.as_u16(), to.to_owned()),
            None => Seen::Answer(Look::ill(format!("{url} answers {status}"))),
        };
    }
    let Some(needle) = &http.body else { return Seen::Answer(Look::well(format!("answers {status}"))) };
    Seen::Answer(match holds(answer.into_body(), needle.as_bytes()).await {
        Ok(true) => Look::well(format!("answers {status} with what is expected")),
        Ok(false) => Look::ill(format!("{url} answers {status}, but not with {needle:?}")),
        Err(error) => Look::ill(format!("{url} answers {status}, but its body breaks off: {error}")),
    })
}

async fn holds(mut body: Incoming, needle: &[u8]) -> Result<bool, hyper::Error> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        // What could not begin a match before is not searched again.
        let from = read.len().saturating_sub(needle.len());
        let room = MAX_BODY.saturating_sub(read.len());
        read.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
        if read.get(from..).unwrap_or_default().windows(needle.len()).any(|window| window == needle) {
            return Ok(true);
        }
        if read.len() >= MAX_BODY {
            break;
        }
    }
    Ok(false)
}
