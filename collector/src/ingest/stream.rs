//! Frames on one stream, each under its deadline.

use std::{pin::Pin, time::Duration};

use rollcall_common::{
    code::Code,
    wire::{
        codec::{Deframer, encode},
        message::{Bye, Down, Up},
    },
};

use tokio::time::Sleep;

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
    /// When the frame that has begun must be whole; there is none while nothing is half received.
    due: Option<Pin<Box<Sleep>>>,
}

/// Why no frame came.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer is gone; there is nobody to tell.
    Gone,
    /// The peer broke a rule, or took too long.
    Broke(Code),
    /// Nothing is wrong but the hour: it may come back after this time.
    Later(Duration),
}

impl Stream {
    /// Accepts the peer's stream.
    pub(super) async fn accept(connection: &quinn::Connection) -> Result<Self, Ended> {
        let accepted = tokio::time::timeout(FRAME_WITHIN, connection.accept_bi()).await;
        let (send, recv) = accepted.map_err(|_| Ended::Broke(Code::Deadline))?.map_err(|_| Ended::Gone)?;
        Ok(Self { send, recv, frames: Deframer::default(), due: None })
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
        let frame = self.frames.next_message().map_err(|error| Ended::Broke(error.code()))?;
        if frame.is_some() {
            // What follows it is another frame, with a time of its own.
            self.due = None;
        }
        Ok(frame)
    }

    /// Waits for bytes; safe to cancel. A frame that has begun must be whole within the deadline, however
    /// steadily its bytes drip.
    pub(super) async fn fill(&mut self) -> Result<(), Ended> {
        if self.frames.is_partial() && self.due.is_none() {
            self.due = Some(Box::pin(tokio::time::sleep(FRAME_WITHIN)));
        }
        let read = self.recv.read_chunk(CHUNK, true);
        let read = match &mut self.due {
            Some(due) => tokio::select! {
                read = read => read,
                () = due => return Err(Ended::Broke(Code::Deadline)),
            },
            None => read.await,
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
    pub(super) async fn bye(mut self, connection: &quinn::Connection, code: Code, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        let bye = Down::Bye(Bye { code, retry_after_ms });
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
