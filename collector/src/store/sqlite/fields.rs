//! From a row's columns to domain words: a value that breaks its rule is named, never guessed at.

use std::{fmt::Display, str::FromStr};

use rollcall_common::{
    health::Text,
    id::{Seq, ServiceKey},
    identity::Serial,
    time::{BootTime, Timestamp},
    token::SecretHash,
};
use serde::de::DeserializeOwned;
use sqlx::{Column, Decode, Row, Sqlite, Type, sqlite::SqliteRow};

use super::fault::Fault;
use crate::store::rows::Fingerprint;

/// A column that cannot be read, and why.
pub(super) struct Unreadable(String);

/// One row, read from left to right.
pub(super) struct Fields<'r> {
    row: &'r SqliteRow,
    next: usize,
}

/// Reads a whole row; a fault names the table and the row, whose key is its first `keys` columns.
pub(super) fn read<T>(
    table: &'static str,
    keys: usize,
    row: &SqliteRow,
    decode: impl FnOnce(&mut Fields<'_>) -> Result<T, Unreadable>,
) -> Result<T, Fault> {
    decode(&mut Fields { row, next: 0 }).map_err(|Unreadable(why)| {
        let part = |n| {
            row.try_get_unchecked::<String, _>(n)
                .or_else(|_| row.try_get::<i64, _>(n).map(|n| n.to_string()))
                .unwrap_or_else(|_| "?".into())
        };
        Fault::Row { table, key: (0..keys).map(part).collect::<Vec<_>>().join("/"), why }
    })
}

impl<'r> Fields<'r> {
    fn get<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T, Unreadable> {
        let at = self.next;
        self.next += 1;
        self.row.try_get(at).map_err(|error| self.bad(at, &error))
    }

    fn bad(&self, at: usize, why: &dyn Display) -> Unreadable {
        let column = self.row.try_column(at).map_or("?", |column| column.name());
        Unreadable(format!("column {column}: {why}"))
    }

    fn checked<F, T, E: Display>(&mut self, check: impl FnOnce(F) -> Result<T, E>) -> Result<T, Unreadable>
    where
        F: Decode<'r, Sqlite> + Type<Sqlite>,
    {
        let at = self.next;
        let value = self.get()?;
        check(value).map_err(|error| self.bad(at, &error))
    }

    fn checked_opt<F, T, E: Display>(&mut self, check: impl FnOnce(F) -> Result<T, E>) -> Result<Option<T>, Unreadable>
    where
        F: Decode<'r, Sqlite> + Type<Sqlite>,
    {
        let at = self.next;
        let value: Option<F> = self.get()?;
        value.map(check).transpose().map_err(|error| self.bad(at, &error))
    }

    /// A text without a rule.
    pub(super) fn text(&mut self) -> Result<String, Unreadable> {
        self.get()
    }

    /// The same, or nothing.
    pub(super) fn text_opt(&mut self) -> Result<Option<String>, Unreadable> {
        self.get()
    }

    /// Bytes.
    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Unreadable> {
        self.get()
    }

    /// The same, or nothing.
    pub(super) fn bytes_opt(&mut self) -> Result<Option<Vec<u8>>, Unreadable> {
        self.get()
    }

    /// The hash of a secret.
    pub(super) fn secret_hash(&mut self) -> Result<SecretHash, Unreadable> {
        self.checked(|bytes: &[u8]| {
            bytes.try_into().map(SecretHash).map_err(|_| format!("{} bytes where 32 are expected", bytes.len()))
        })
    }

    /// The fingerprint of a request.
    pub(super) fn fingerprint(&mut self) -> Result<Fingerprint, Unreadable> {
        self.checked(|bytes: &[u8]| {
            bytes.try_into().map(Fingerprint).map_err(|_| format!("{} bytes where 32 are expected", bytes.len()))
        })
    }

    /// A short printable text, or nothing.
    pub(super) fn short_opt(&mut self) -> Result<Option<Text>, Unreadable> {
        self.checked_opt(Text::new)
    }

    /// A text with a rule.
    pub(super) fn word<T: FromStr<Err: Display>>(&mut self) -> Result<T, Unreadable> {
        self.checked(|text: &str| text.parse())
    }

    /// The same, or nothing.
    pub(super) fn word_opt<T: FromStr<Err: Display>>(&mut self) -> Result<Option<T>, Unreadable> {
        self.checked_opt(|text: &str| text.parse())
    }

    /// A certificate's serial.
    pub(super) fn serial(&mut self) -> Result<Serial, Unreadable> {
        self.checked(parse_serial)
    }

    /// The same, or nothing.
    pub(super) fn serial_opt(&mut self) -> Result<Option<Serial>, Unreadable> {
        self.checked_opt(parse_serial)
    }

    /// A service's two columns.
    pub(super) fn service(&mut self) -> Result<ServiceKey, Unreadable> {
        Ok(ServiceKey::new(self.word()?, self.word()?))
    }

    /// JSON in a text.
    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T, Unreadable> {
        self.checked(|text: &str| serde_json::from_str(text))
    }

    /// The same, or nothing.
    pub(super) fn json_opt<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Unreadable> {
        self.checked_opt(|text: &str| serde_json::from_str(text))
    }

    /// A number within its type's range.
    pub(super) fn number<T: TryFrom<i64, Error: Display>>(&mut self) -> Result<T, Unreadable> {
        self.checked(|number: i64| number.try_into())
    }

    /// The same, or nothing.
    pub(super) fn number_opt<T: TryFrom<i64, Error: Display>>(&mut self) -> Result<Option<T>, Unreadable> {
        self.checked_opt(|number: i64| number.try_into())
    }

    /// Yes or no, as 1 or 0.
    pub(super) fn flag(&mut self) -> Result<bool, Unreadable> {
        self.checked(|number: i64| match number {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{other} where 0 or 1 is expected")),
        })
    }

    /// Wall time.
    pub(super) fn time(&mut self) -> Result<Timestamp, Unreadable> {
        self.get().map(Timestamp)
    }

    /// The same, or nothing.
    pub(super) fn time_opt(&mut self) -> Result<Option<Timestamp>, Unreadable> {
        Ok(self.get::<Option<i64>>()?.map(Timestamp))
    }

    /// Boot time.
    pub(super) fn boot(&mut self) -> Result<BootTime, Unreadable> {
        self.number().map(BootTime)
    }

    /// A seq.
    pub(super) fn seq(&mut self) -> Result<Seq, Unreadable> {
        self.number().map(Seq)
    }
}

/// Reads a serial as its `Display` prints it.
pub(super) fn parse_serial(text: &str) -> Result<Serial, &'static str> {
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).map(Serial).ok_or("a serial is 32 hexadecimal digits")
}
