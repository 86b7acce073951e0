//! JSON lines in a file that others may move away at any time.

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::{
    fs::OpenOptions,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use super::{Outlet, OutletError, print};
use crate::audit::offline::Line;

/// Appends to a file. It is opened by name for each batch, so that a rotation needs no signal.
#[derive(Debug)]
pub struct JsonLines(pub PathBuf);

#[async_trait]
impl Outlet for JsonLines {
    fn name(&self) -> &'static str {
        "file"
    }

    async fn take(&mut self, lines: &[Line]) -> Result<(), OutletError> {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).read(true).append(true).mode(0o640).open(&self.0).await?;
        let mut text = Vec::new();
        if file.metadata().await?.len() > 0 {
            // A kill may have left half a line, which is sent again behind it.
            let mut last = [0];
            file.seek(std::io::SeekFrom::End(-1)).await?;
            file.read_exact(&mut last).await?;
            if last != *b"\n" {
                text.push(b'\n');
            }
        }
        text.append(&mut print(lines)?);
        file.write_all(&text).await?;
        file.flush().await?;
        Ok(file.sync_data().await?)
    }
}
