//! `keelson kv export`: all items of one snapshot as JSON Lines, in the form that `import` reads.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use keelson_client::{ScanOptions, ScanStream};
use serde_json::Value;

use crate::commands::kv::{item, open, reserved};
use crate::context::Global;
use crate::failure::{Failure, Outcome};

#[derive(Args, Debug)]
pub(crate) struct Export {
    /// Name of the database
    database: String,
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// Write to this new file instead of standard output
    #[arg(long)]
    file: Option<PathBuf>,
}

impl Export {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let database = open(global, &self.database).await?;
        let scan = database.scan(ScanOptions::prefix(self.prefix)).await?;
        let Some(path) = self.file else {
            let records = write(scan, io::stdout().lock()).await;
            return match records {
                // Whoever read our output has enough.
                Err(ExportError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    Ok(())
                }
                Err(error) => Err(error.into()),
                Ok(_) => Ok(()),
            };
        };
        let file = File::create_new(&path).map_err(|error| Failure::file(&path, &error))?;
        let written = write(scan, &file).await;
        let synced = written.and_then(|records| {
            file.sync_all().map_err(ExportError::Output)?;
            Ok(records)
        });
        match synced {
            Ok(records) => {
                eprintln!("exported {records} records to {}", path.display());
                Ok(())
            }
            Err(error) => {
                // A partial export must not be taken for a whole one.
                let _ = std::fs::remove_file(&path);
                Err(error.into())
            }
        }
    }
}

enum ExportError {
    Scan(keelson_client::ClientError),
    Output(io::Error),
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Scan(error) => error.into(),
            ExportError::Output(error) => error.into(),
        }
    }
}

async fn write(mut scan: ScanStream, out: impl Write) -> Result<u64, ExportError> {
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let mut records = 0;
    while let Some(found) = scan.next().await.map_err(ExportError::Scan)? {
        if reserved::is_reserved(&found.key) {
            continue;
        }
        let line = Value::Object(item(&found.key, Some(&found.value)));
        writeln!(out, "{line}").map_err(ExportError::Output)?;
        records += 1;
    }
    out.flush().map_err(ExportError::Output)?;
    Ok(records)
}
