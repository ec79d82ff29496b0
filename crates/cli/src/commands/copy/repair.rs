//! `keelson copy repair`.

use clap::Args;
use keelson_wire::v1::RepairCopyRequest;

use super::changes::{CopyName, done};
use crate::context::Global;
use crate::failure::Outcome;

#[derive(Args, Debug)]
pub(crate) struct Repair {
    /// The copy, as DATABASE@MEMBER
    copy: CopyName,
    /// First key; default: the first of the store
    #[arg(long, default_value = "")]
    from: String,
    /// Key behind the last one; default: to the end
    #[arg(long, default_value = "")]
    to: String,
}

impl Repair {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let keys = match (self.from.as_str(), self.to.as_str()) {
            ("", "") => "all keys".to_owned(),
            (from, "") => format!("the keys from {from:?} on"),
            (from, to) => format!("the keys from {from:?} to before {to:?}"),
        };
        let plan = format!("fetch {keys} of copy {} from another copy", self.copy);
        if global.only_shows(&format!("{plan}; until then it is no candidate")) {
            return Ok(());
        }
        global.confirm(&plan)?;
        let request = RepairCopyRequest {
            database: self.copy.database.clone(),
            member: self.copy.member.clone(),
            from: self.from.into(),
            to: self.to.into(),
        };
        global.connect().await?.admin().repair_copy(request).await?;
        done(global, &self.copy, &plan);
        Ok(())
    }
}
