//! The tree as an archive, written while it is read: a stride of services at a time, however many there are.

use std::{collections::VecDeque, convert::Infallible, io, ops::ControlFlow};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use futures_util::stream;
use rollcall_common::id::{Kind, NameError, ServiceId, ServiceKey};

use super::{
    super::{
        call::Call,
        error::{Problem, ProblemCode},
        extract::Query,
        filter::Way,
        scan::stride,
    },
    ConfigDocument, path_of,
};
use crate::{registry::Registry, scope::Scope, store::rows::ServiceRow};

pub(super) async fn archive(call: Call, query: Query) -> Result<Response, Problem> {
    let poller = query.get("poller").map(str::parse::<ServiceId>).transpose();
    let poller = poller.map_err(|error: NameError| Problem::new(ProblemCode::InvalidId, error.to_string()))?;
    let way = match poller {
        Some(id) => {
            let key = ServiceKey::new(Kind::Poller, id);
            call.find(&key)?;
            Walk::Below(VecDeque::from([key]))
        }
        None => Walk::All(None),
    };
    let walker =
        Walker { registry: call.state.registry.clone(), scope: call.scope().clone(), way, tar: Some(Tar::new()) };
    let chunks = stream::unfold(walker, |mut walker| async move {
        let chunk = walker.chunk()?;
        Some((Ok::<_, Infallible>(chunk), walker))
    });
    let mut answer = Body::from_stream(chunks).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"config.tar.gz\""));
    Ok(answer)
}

/// Where a walk goes on.
enum Walk {
    /// Behind this service, in the order of keys.
    All(Option<ServiceKey>),
    /// With these and what stands below them.
    Below(VecDeque<ServiceKey>),
    /// Nowhere.
    Done,
}

struct Walker {
    registry: Registry,
    scope: Scope,
    way: Walk,
    tar: Option<Tar>,
}

impl Walker {
    /// The next piece of the archive; nothing once it is complete.
    fn chunk(&mut self) -> Option<Bytes> {
        loop {
            let mut tar = self.tar.take()?;
            let rows = self.rows();
            // Writing to memory does not fail; were it to, the reader would see a damaged archive, not a short one.
            if rows.iter().try_for_each(|row| tar.add(row)).is_err() {
                return Some(Bytes::from_static(b"damaged"));
            }
            if matches!(self.way, Walk::Done) {
                return Some(tar.end().unwrap_or_default().into());
            }
            let chunk = tar.take();
            self.tar = Some(tar);
            if !chunk.is_empty() {
                return Some(chunk.into());
            }
        }
    }

    fn rows(&mut self) -> Vec<std::sync::Arc<ServiceRow>> {
        let mut rows = Vec::new();
        let scope = &self.scope;
        match &mut self.way {
            Walk::All(after) => {
                let next = self.registry.read(|roster| {
                    stride(roster, &Way::All, scope, None, after.as_ref(), &mut |entry| {
                        rows.push(std::sync::Arc::clone(&entry.row));
                        ControlFlow::Continue(())
                    })
                });
                self.way = next.map_or(Walk::Done, |key| Walk::All(Some(key)));
            }
            Walk::Below(waiting) => {
                if let Some(key) = waiting.pop_front() {
                    self.registry.read(|roster| {
                        rows.extend(roster.get(&key).map(|entry| std::sync::Arc::clone(&entry.row)));
                        waiting.extend(roster.children(&key).map(|child| child.row.key.clone()));
                    });
                    rows.retain(|row| scope.admits(&row.labels));
                }
                if waiting.is_empty() {
                    self.way = Walk::Done;
                }
            }
            Walk::Done => {}
        }
        rows
    }
}

struct Tar(tar::Builder<GzEncoder<Vec<u8>>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast())))
    }

    fn add(&mut self, row: &ServiceRow) -> io::Result<()> {
        let Some(path) = path_of(row) else { return Ok(()) };
        let mut bytes = serde_json::to_vec_pretty(&ConfigDocument::of(row))?;
        bytes.push(b'\n');
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        self.0.append_data(&mut header, path, bytes.as_slice())
    }

    /// What was written so far.
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.0.get_mut().get_mut())
    }

    fn end(self) -> io::Result<Vec<u8>> {
        self.0.into_inner()?.finish()
    }
}
