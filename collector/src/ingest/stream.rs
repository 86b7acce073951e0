//! Frames on one stream, each under its deadline.

use std::time::Duration;

use rollcall_common::{
    code::Code,
    wire::{
        codec::{Deframer, encode},
        message::{Bye, Down, Up},
    },
};

use super::{FRAME_WITHIN, close};

/// Bytes read at once: more than any frame that is not an enrollment.
const CHUNK: usize = 2_048;
/// How long a peer gets to take the last frame before the connection closes under it.
const LAST_WORD_WITHIN: Duration = Duration::from_millis(300);

/// The one stream of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    frames: Deframer,
}

/// Why no frame came.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer is gone; there is nobody to tell.
    Gone,
    /// The peer broke a rule, or took too long.
    Broke(Code),
}

impl Stream {
    /// Accepts the peer's stream.
    pub(super) async fn accept(connection: &quinn::Connection) -> Result<Self, Ended> {
        let accepted = tokio::time::timeout(FRAME_WITHIN, connection.accept_bi()).await;
        let (send, recv) = accepted.map_err(|_| Ended::Broke(Code::Deadline))?.map_err(|_| Ended::Gone)?;
        Ok(Self { send, recv, frames: Deframer::default() })
    }

    /// The first frame, whole within the deadline.
    pub(super) async fn first(&mut self) -> Result<Up, Ended> {
        let first = async {
            loop {
                if let Some(frame) = self.take()? {
                    return Ok(frame);
                }
                self.fill().await?;
            }
        };
        tokio::time::timeout(FRAME_WITHIN, first).await.unwrap_or(Err(Ended::Broke(Code::Deadline)))
    }

    /// A frame that has arrived already.
    pub(super) fn take(&mut self) -> Result<Option<Up>, Ended> {
        self.frames.next_message().map_err(|error| Ended::Broke(error.code()))
    }

    /// Waits for bytes; safe to cancel. A frame that has begun must go on within the deadline.
    pub(super) async fn fill(&mut self) -> Result<(), Ended> {
        let read = self.recv.read_chunk(CHUNK, true);
        let read = if self.frames.is_partial() {
            tokio::time::timeout(FRAME_WITHIN, read).await.map_err(|_| Ended::Broke(Code::Deadline))?
        } else {
            read.await
        };
        match read {
            Ok(Some(chunk)) => {
                self.frames.push(&chunk.bytes);
                Ok(())
            }
            Ok(None) | Err(_) => Err(Ended::Gone),
        }
    }

    /// Sends a frame; a peer that does not take it within the deadline has broken the rules.
    pub(super) async fn send(&mut self, frame: &Down) -> Result<(), Ended> {
        let bytes = encode(frame).map_err(|error| {
            tracing::error!(%error, "a frame of ours does not encode");
            Ended::Broke(Code::Internal)
        })?;
        match tokio::time::timeout(FRAME_WITHIN, self.send.write_all(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Gone),
            Err(_) => Err(Ended::Broke(Code::Deadline)),
        }
    }

    /// Says goodbye, gives the peer a moment to hear it, and closes with the same number.
    pub(super) async fn bye(mut self, connection: &quinn::Connection, code: Code) {
        let bye = Down::Bye(Bye { code, retry_after_ms: 0 });
        if self.send(&bye).await.is_ok() {
            self.finish().await;
        }
        close(connection, code);
    }

    /// Ends our half and waits briefly until the peer has it.
    pub(super) async fn finish(&mut self) {
        if self.send.finish().is_ok() {
            // Either it has everything or the time is up: the close that follows tells the rest.
            let _ = tokio::time::timeout(LAST_WORD_WITHIN, self.send.stopped()).await;
        }
    }
}
