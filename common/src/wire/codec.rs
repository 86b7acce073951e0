//! Message ⇄ bytes. Refuses, never panics; a frame is whole, in bounds and without a remainder, or it
//! is an error.

use serde::{Serialize, de::DeserializeOwned};

use super::MAX_FRAME;
use crate::code::Code;

/// Length of the prefix, in bytes.
const PREFIX: usize = 4;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Over [`MAX_FRAME`].
    #[error("a frame of {0} bytes, over the limit of {MAX_FRAME}")]
    TooLarge(usize),
    /// A frame without a body.
    #[error("an empty frame")]
    Empty,
    /// The body does not decode.
    #[error("a frame that does not decode")]
    Malformed,
    /// The body decodes, and bytes are left over.
    #[error("a frame with {0} bytes after its message")]
    Trailing(usize),
}

impl FrameError {
    /// The close code for it.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::TooLarge(_) => Code::FrameTooLarge,
            Self::Empty | Self::Malformed | Self::Trailing(_) => Code::Protocol,
        }
    }
}

/// Encodes one message with its length prefix.
///
/// # Errors
/// [`FrameError::TooLarge`] where the message exceeds the limit.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let frame =
        postcard::serialize_with_flavor(message, Prefixed(vec![0; PREFIX])).map_err(|_| FrameError::Malformed)?;
    let body = frame.len().saturating_sub(PREFIX);
    if body > MAX_FRAME {
        return Err(FrameError::TooLarge(body));
    }
    Ok(frame)
}

/// Decodes one frame body; every byte must be used.
///
/// # Errors
/// Whatever is wrong with it.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    if body.is_empty() {
        return Err(FrameError::Empty);
    }
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLarge(body.len()));
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(FrameError::Trailing(rest.len())),
        Err(_) => Err(FrameError::Malformed),
    }
}

/// Collects stream bytes into frames. Holds no memory while nothing is half received, and never more
/// than one frame and what came with it.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
}

impl Deframer {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one. After an error the stream is beyond repair.
    ///
    /// # Errors
    /// Whatever is wrong with the frame at the front; an excessive length is refused before its body
    /// is awaited.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        if length == 0 {
            return Err(FrameError::Empty);
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = decode(body)?;
        if rest.len() == length {
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..PREFIX + length);
        }
        Ok(Some(message))
    }

    /// Whether a frame is half received.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }
}

struct Prefixed(Vec<u8>);

impl postcard::ser_flavors::Flavor for Prefixed {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Vec<u8>> {
        let body = self.0.len().saturating_sub(PREFIX);
        let length = u32::try_from(body).map_err(|_| postcard::Error::SerializeBufferFull)?;
        if let Some(prefix) = self.0.first_chunk_mut::<PREFIX>() {
            *prefix = length.to_be_bytes();
        }
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        id::{BeatNo, PaceNo},
        wire::message::{Beat, Down, Up},
    };

    fn beat(no: u64) -> Vec<u8> {
        encode(&Up::Beat(Beat { beat_no: BeatNo(no), pace_no: PaceNo(1) })).unwrap_or_default()
    }

    /// W1: lengths that lie.
    #[test]
    fn hostile_lengths_are_refused_before_their_bodies() {
        let mut frames = Deframer::default();
        frames.push(&u32::MAX.to_be_bytes());
        assert!(matches!(frames.next_message::<Up>(), Err(FrameError::TooLarge(_))));
        let mut frames = Deframer::default();
        frames.push(&(u32::try_from(MAX_FRAME).unwrap_or(0) + 1).to_be_bytes());
        assert!(matches!(frames.next_message::<Up>(), Err(FrameError::TooLarge(_))));
        let mut frames = Deframer::default();
        frames.push(&[0; 4]);
        assert!(matches!(frames.next_message::<Up>(), Err(FrameError::Empty)));
        let mut frames = Deframer::default();
        frames.push(&[0, 0, 0, 9, 3]);
        assert!(matches!(frames.next_message::<Up>(), Ok(None)));
        assert!(frames.is_partial());
    }

    /// W2: bodies that lie.
    #[test]
    fn malformed_bodies_are_refused() {
        assert!(matches!(decode::<Up>(&[200, 1]), Err(FrameError::Malformed)));
        assert!(matches!(
            decode::<Up>(&[3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Err(FrameError::Malformed)
        ));
        let mut body = beat(1).split_off(PREFIX);
        body.push(0);
        assert!(matches!(decode::<Up>(&body), Err(FrameError::Trailing(1))));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = decode::<Up>(&bytes);
            let _ = decode::<Down>(&bytes);
            let mut frames = Deframer::default();
            frames.push(&bytes);
            while let Ok(Some(_)) = frames.next_message::<Up>() {}
        }

        #[test]
        fn any_split_gives_the_same_frames(cuts in proptest::collection::vec(1usize..9, 1..40)) {
            let stream: Vec<u8> = (0..8).flat_map(beat).collect();
            let mut frames = Deframer::default();
            let (mut rest, mut cuts, mut seen) = (stream.as_slice(), cuts.into_iter().cycle(), vec![]);
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                rest = tail;
                frames.push(head);
                while let Ok(Some(up)) = frames.next_message::<Up>() {
                    if let Up::Beat(beat) = up { seen.push(beat.beat_no.0) }
                }
            }
            prop_assert_eq!(seen, (0..8).collect::<Vec<_>>());
            prop_assert!(!frames.is_partial());
        }
    }
}
