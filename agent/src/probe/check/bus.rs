//! As much of D-Bus as it takes to ask the service manager for properties: one connection a look, a handful of
//! `Properties.Get` calls in one breath. Owns bytes only; what the answers mean is `systemd`'s.
//!
//! Everything read is bounded: a message is at most [`MAX_MESSAGE`], and at most [`MAX_STRANGERS`] that are no
//! answer of ours are passed over.

use std::{io, path::Path};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

const MAX_MESSAGE: usize = 64 * 1024;
const MAX_LINE: u64 = 512;
const MAX_STRANGERS: usize = 16;

/// A property: of which interface, and its name.
pub(super) type Property = (&'static str, &'static str);

/// What a property holds, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u32),
    Long(u64),
    Other,
}

/// An answer: the value, or the name of an error.
pub(super) type Answer = Result<Value, String>;

/// Asks for properties of one object.
pub(super) async fn ask(bus: &Path, service: &str, object: &str, properties: &[Property]) -> io::Result<Vec<Answer>> {
    let stream = UnixStream::connect(bus).await?;
    let mut stream = BufReader::with_capacity(4_096, stream);
    greet(&mut stream).await?;
    let mut calls = call(1, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", &[]);
    let mut serial: u32 = 1;
    for (interface, name) in properties {
        serial += 1;
        let get = call(serial, service, object, "org.freedesktop.DBus.Properties", "Get", &[interface, name]);
        calls.extend(get);
    }
    stream.get_mut().write_all(&calls).await?;
    let mut answers: Vec<Option<Answer>> = vec![None; properties.len()];
    let mut strangers = 0;
    while answers.iter().any(Option::is_none) {
        let message = read(&mut stream).await?;
        let at = message.reply_to.and_then(|serial| usize::try_from(serial).ok()?.checked_sub(2));
        match at.and_then(|at| answers.get_mut(at)) {
            Some(answer) => *answer = Some(message.answer),
            None if message.reply_to == Some(1) => drop(message.answer.map_err(io::Error::other)?),
            None => strangers += 1,
        }
        if strangers > MAX_STRANGERS {
            return Err(nonsense("it talks of other things"));
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

fn nonsense(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Says who we are, which the kernel vouches for.
async fn greet(stream: &mut BufReader<UnixStream>) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let uid = data_encoding::HEXLOWER.encode(uid.as_bytes());
    stream.get_mut().write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
    let mut line = Vec::new();
    (&mut *stream).take(MAX_LINE).read_until(b'\n', &mut line).await?;
    if !line.starts_with(b"OK ") {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it does not let us in"));
    }
    stream.get_mut().write_all(b"BEGIN\r\n").await
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    while !bytes.len().is_multiple_of(to) {
        bytes.push(0);
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// A method call with strings for arguments.
fn call(serial: u32, service: &str, object: &str, interface: &str, method: &str, arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        put_text(&mut body, argument);
    }
    // Method call, no flags, version 1, little-endian.
    let mut bytes = vec![b'l', 1, 0, 1];
    bytes.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(serial.to_le_bytes());
    let mut fields = Vec::new();
    for (code, kind, text) in [(1_u8, b'o', object), (2, b's', interface), (3, b's', method), (6, b's', service)] {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        put_text(&mut fields, text);
    }
    if !arguments.is_empty() {
        pad(&mut fields, 8);
        fields.extend([8, 1, b'g', 0, u8::try_from(arguments.len()).unwrap_or(u8::MAX)]);
        fields.extend(arguments.iter().map(|_| b's'));
        fields.push(0);
    }
    // The fields begin at a multiple of eight, as they do on their own.
    bytes.extend(u32::try_from(fields.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(fields);
    pad(&mut bytes, 8);
    bytes.extend(body);
    bytes
}

#[derive(Debug)]
struct Message {
    reply_to: Option<u32>,
    answer: Answer,
}

async fn read(stream: &mut BufReader<UnixStream>) -> io::Result<Message> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let mut cursor = Cursor { bytes: &head, at: 0 };
    let (order, kind) = (cursor.byte(), cursor.byte());
    cursor.at = 4;
    let (body_len, _serial, fields_len) = (cursor.number(), cursor.number(), cursor.number());
    let ((Some(b'l'), Some(kind)), (Some(body_len), Some(fields_len))) = ((order, kind), (body_len, fields_len)) else {
        return Err(nonsense("it speaks another dialect"));
    };
    let size = |len: u32| usize::try_from(len).ok().filter(|len| *len <= MAX_MESSAGE);
    let (Some(body_len), Some(fields_len)) = (size(body_len), size(fields_len)) else {
        return Err(nonsense("its message is too long"));
    };
    let mut rest = vec![0; fields_len.next_multiple_of(8) + body_len];
    stream.read_exact(&mut rest).await?;
    let (fields, body) = rest.split_at_checked(fields_len.next_multiple_of(8)).ok_or_else(|| nonsense("it is cut"))?;
    let fields = fields.get(..fields_len).ok_or_else(|| nonsense("it is cut"))?;
    understand(kind, fields, body).ok_or_else(|| nonsense("its message does not read"))
}

fn understand(kind: u8, fields: &[u8], body: &[u8]) -> Option<Message> {
    let mut cursor = Cursor { bytes: fields, at: 0 };
    let (mut reply_to, mut error) = (None, None);
    while cursor.at < fields.len() {
        cursor.align(8);
        let code = cursor.byte()?;
        match (code, cursor.variant()?) {
            (5, Value::Number(serial)) => reply_to = Some(serial),
            (4, Value::Text(name)) => error = Some(name),
            _ => {}
        }
    }
    let answer = match kind {
        3 => Err(error.unwrap_or_else(|| "an error without a name".to_owned())),
        // Hello is answered with a text, Get with a variant; what is neither is of no interest.
        2 => Ok(Cursor { bytes: body, at: 0 }.variant().unwrap_or(Value::Other)),
        _ => {
            reply_to = None;
            Ok(Value::Other)
        }
    };
    Some(Message { reply_to, answer })
}

/// Reads little-endian values at their alignment, and never beyond the end.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Cursor<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        self.align(8);
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.number()?).ok()?;
        let text = String::from_utf8(self.take(len)?.to_vec()).ok()?;
        self.byte()?;
        Some(text)
    }

    fn signature(&mut self) -> Option<Vec<u8>> {
        let len = usize::from(self.byte()?);
        let signature = self.take(len)?.to_vec();
        self.byte()?;
        Some(signature)
    }

    /// A variant of a basic type that is looked at; others end the reading.
    fn variant(&mut self) -> Option<Value> {
        match self.signature()?.as_slice() {
            b"s" | b"o" => self.text().map(Value::Text),
            b"u" => self.number().map(Value::Number),
            b"t" => self.long().map(Value::Long),
            b"g" => self.signature().map(|_| Value::Other),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_what_the_specification_says() {
        let bytes = call(2, "a.b", "/c", "d.e", "F", &["gh", ""]);
        let mut cursor = Cursor { bytes: &bytes, at: 4 };
        assert_eq!((cursor.number(), cursor.number()), (Some(7 + 1 + 5), Some(2)));
        let fields = cursor.number().unwrap() as usize;
        let body = (16 + fields).next_multiple_of(8);
        assert_eq!(&bytes[body..], b"\x02\0\0\0gh\0\0\0\0\0\0\0");
        assert_eq!(&bytes[16..28], b"\x01\x01o\0\x02\0\0\0/c\0\0");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read(kind in any::<u8>(), fields in proptest::collection::vec(any::<u8>(), 0..200), body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = understand(kind, &fields, &body);
        }
    }
}
