//! Frames on one connection, each under its deadline.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use rollcall_common::{
    code::Code,
    wire::{
        EXPORTER_LEN, Transport,
        codec::{Deframer, encode},
        message::{Bye, Down, Up},
    },
};
use rustls::pki_types::CertificateDer;
use tokio::time::Sleep;

use super::{
    FRAME_WITHIN,
    carrier::{Carrier, Gone},
};

/// How long a peer gets to take the last frame before the connection closes under it.
const LAST_WORD_WITHIN: Duration = Duration::from_millis(300);

/// One connection's frames.
#[derive(Debug)]
pub(super) struct Stream {
    carrier: Carrier,
    frames: Deframer,
    /// When the frame that has begun must be whole; there is none while nothing is half received.
    due: Option<Pin<Box<Sleep>>>,
    /// A frame of ours was cut short: nothing can follow it.
    is_cut: bool,
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

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Stream {
    /// Of a connection whose handshake is done.
    pub(super) fn new(carrier: Carrier) -> Self {
        Self { carrier, frames: Deframer::default(), due: None, is_cut: false }
    }

    /// What carries it.
    pub(super) fn transport(&self) -> Transport {
        self.carrier.transport()
    }

    /// Where it comes from.
    pub(super) fn remote(&self) -> SocketAddr {
        self.carrier.remote()
    }

    /// The protocol that was agreed on.
    pub(super) fn protocol(&self) -> Vec<u8> {
        self.carrier.protocol()
    }

    /// The certificate that the peer showed.
    pub(super) fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.carrier.leaf()
    }

    /// Keying material of this very connection.
    pub(super) fn exporter(&self) -> Option<[u8; EXPORTER_LEN]> {
        self.carrier.exporter()
    }

    /// The first frame, whole within the deadline.
    pub(super) async fn first(&mut self) -> Result<Up, Ended> {
        let opened = tokio::time::timeout(FRAME_WITHIN, self.carrier.open()).await;
        opened.map_err(|_| Ended::Broke(Code::Deadline))??;
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
        let read = self.carrier.read(&mut self.frames);
        match &mut self.due {
            Some(due) => tokio::select! {
                read = read => Ok(read?),
                () = due => Err(Ended::Broke(Code::Deadline)),
            },
            None => Ok(read.await?),
        }
    }

    /// It is known who is there.
    pub(super) fn greeted(&mut self) {
        self.carrier.greeted();
    }

    /// Sends a frame; a peer that does not take it within the deadline has broken the rules. Where this is cancelled,
    /// nothing more can be sent.
    pub(super) async fn send(&mut self, frame: &Down) -> Result<(), Ended> {
        let bytes = encode(frame).map_err(|error| {
            tracing::error!(%error, "a frame of ours does not encode");
            Ended::Broke(Code::Internal)
        })?;
        self.is_cut = true;
        match tokio::time::timeout(FRAME_WITHIN, self.carrier.write(&bytes)).await {
            Ok(written) => {
                self.is_cut = false;
                Ok(written?)
            }
            Err(_) => Err(Ended::Broke(Code::Deadline)),
        }
    }

    /// Says goodbye, gives the peer a moment to hear it, and closes with the same number.
    pub(super) async fn bye(mut self, code: Code, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        let bye = Down::Bye(Bye { code, retry_after_ms });
        // One that has not taken what was sent before does not hear it.
        if !self.is_cut && tokio::time::timeout(LAST_WORD_WITHIN, self.send(&bye)).await.is_ok_and(|sent| sent.is_ok())
        {
            self.finish().await;
        }
        self.carrier.close(code);
    }

    /// Ends our half and waits briefly until the peer has it: the close that follows tells the rest.
    pub(super) async fn finish(&mut self) {
        let _ = tokio::time::timeout(LAST_WORD_WITHIN, self.carrier.finish()).await;
    }

    /// Waits, so long, until the peer leaves by itself, and then closes.
    pub(super) async fn part(mut self, within: Duration) {
        let _ = tokio::time::timeout(within, self.carrier.closed()).await;
        self.carrier.close(Code::Goodbye);
    }
}
