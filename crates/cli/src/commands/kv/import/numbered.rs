//! Records without a key of their own are numbered behind the name of their file, so a file of the
//! same name from elsewhere would write over those of another.

use keelson_client::{Database, ScanOptions};
use keelson_types::RefusalReason;

use super::source::Source;
use crate::failure::{Failure, Outcome};

/// Makes sure that an import which begins anew writes over no numbered records.
///
/// # Errors
/// Such records are there (`already_exists`).
pub(super) async fn nothing_is_there(database: &Database, source: &Source) -> Outcome {
    let Some(records) = source.numbered_records() else { return Ok(()) };
    let one = ScanOptions { limit: 1, ..ScanOptions::prefix(records.clone()) };
    if database.scan(one).await?.collect().await?.is_empty() {
        return Ok(());
    }
    let records = String::from_utf8_lossy(&records);
    let message = format!("records {records}... are there already");
    let hint = "--overwrite writes over them, --key-prefix gives the new ones other keys";
    Err(Failure::new(RefusalReason::AlreadyExists, message).hinting(hint))
}
