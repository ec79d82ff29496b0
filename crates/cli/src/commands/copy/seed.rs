//! `keelson copy seed`: makes a suspended copy, or the content index of any passive one, anew from
//! another copy.

use std::time::Duration;

use clap::Args;
use keelson_client::{Client, succeeded};
use keelson_types::{OperationId, RefusalReason};
use keelson_wire::v1::{SeedCheckRow, SeedCopyRequest};
use serde_json::{Value, json};

use super::changes::CopyName;
use crate::commands::operation::follow_for;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column};
use crate::text;

/// A large copy takes days.
const SEED_WAIT_MAX: Duration = Duration::from_secs(14 * 24 * 3_600);

#[derive(Args, Debug)]
pub(crate) struct Seed {
    /// The copy, as DATABASE@MEMBER; it must be suspended, unless it gets a content index only
    copy: CopyName,
    #[command(flatten)]
    options: Options,
}

/// Options that one seed and those of a whole member share.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Read from the copy on this member only; default: any healthy copy, near and passive first
    #[arg(long, value_name = "MEMBER", default_value = "")]
    source: String,
    /// The database only: the new copy makes its content index itself; default: it comes along
    #[arg(long, conflicts_with = "catalog_only")]
    database_only: bool,
    /// The content index only, while the copy goes on
    #[arg(long, conflicts_with_all = ["delete_existing_files", "safe_delete_existing_files"])]
    pub(crate) catalog_only: bool,
    /// Delete the old files once the new ones are in place; default: they stay beside them
    #[arg(long)]
    delete_existing_files: bool,
    /// The same, and only if two other copies are healthy
    #[arg(long, conflicts_with = "delete_existing_files")]
    safe_delete_existing_files: bool,
    /// Do not ask
    #[arg(long)]
    force: bool,
    /// Leave the copy suspended afterwards
    #[arg(long)]
    manual_resume: bool,
    /// Send at full speed, whatever the writers on the source's member feel
    #[arg(long)]
    no_throttle: bool,
    /// The network to use before any other; keelson network list shows them
    #[arg(long, default_value = "")]
    network: String,
    /// enabled or disabled, whatever the policy of the cluster says
    #[arg(long, default_value = "")]
    compression: String,
    /// enabled: everything between members is encrypted; anything else is refused
    #[arg(long, default_value = "")]
    encryption: String,
    /// Return once the seed has begun
    #[arg(long)]
    pub(crate) background: bool,
}

impl Options {
    pub(crate) fn request(&self, database: &str, member: &str) -> SeedCopyRequest {
        SeedCopyRequest {
            database: database.into(),
            member: member.into(),
            source: self.source.clone(),
            database_only: self.database_only,
            catalog_only: self.catalog_only,
            delete_existing_files: self.delete_existing_files,
            safe_delete_existing_files: self.safe_delete_existing_files,
            manual_resume: self.manual_resume,
            no_throttle: self.no_throttle,
            network: self.network.clone(),
            compression: self.compression.clone(),
            encryption: self.encryption.clone(),
            ..SeedCopyRequest::default()
        }
    }

    /// Asks unless that is not wanted.
    pub(crate) fn confirm(&self, global: &Global, plan: &str) -> Outcome {
        if self.force { Ok(()) } else { global.confirm(plan) }
    }
}

impl Seed {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let request = self.options.request(&self.copy.database, &self.copy.member);
        let asked = SeedCopyRequest { what_if: true, ..request.clone() };
        let checks = client.admin().seed_copy(asked).await?.checks;
        if global.what_if {
            show_checks(global, &checks);
            return Ok(());
        }
        if !global.output.is_data() {
            show_checks(global, &checks);
        }
        refuse_failed(&checks)?;
        self.options.confirm(global, &self.plan())?;
        let operation = client.admin().seed_copy(request).await?.operation;
        if !self.options.background {
            wait(&client, &operation).await?;
        }
        let what = match self.options.catalog_only {
            true => format!("the content index of {}", self.copy),
            false => self.copy.to_string(),
        };
        let sentence = match self.options.background {
            true => format!("seeding {what}: keelson operation watch {}", text::id(&operation)),
            false => format!("seeded {what}"),
        };
        let data = json!({
            "database": self.copy.database,
            "member": self.copy.member,
            "operation": text::id(&operation),
            "done": sentence,
        });
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

impl Seed {
    fn plan(&self) -> String {
        match self.options.catalog_only {
            true => format!("seed the content index of copy {}", self.copy),
            false => format!("seed copy {}", self.copy),
        }
    }
}

/// Waits for a seed; its failure is that of the command.
pub(crate) async fn wait(client: &Client, operation: &[u8]) -> Outcome {
    let unreadable = || Failure::new(RefusalReason::Internal, "the answer has no operation");
    let id = OperationId::from_slice(operation).ok_or_else(unreadable)?;
    succeeded(follow_for(client, id, SEED_WAIT_MAX).await?)?;
    Ok(())
}

pub(super) fn id_or_null(id: &[u8]) -> Value {
    if id.is_empty() { Value::Null } else { text::id(id).into() }
}

/// The first check that failed, as the server would refuse it.
pub(crate) fn refuse_failed(checks: &[SeedCheckRow]) -> Outcome {
    let Some(failed) = checks.iter().find(|check| !check.passed) else { return Ok(()) };
    let reason = RefusalReason::from_code(&failed.code).unwrap_or(RefusalReason::Precondition);
    Err(Failure::new(reason, failed.found.clone()))
}

pub(super) fn show_checks(global: &Global, checks: &[SeedCheckRow]) {
    let columns = [column("check"), column("verdict"), column("found")];
    let rows = checks
        .iter()
        .map(|check| vec![check.name.clone(), verdict(check).into(), check.found.clone()]);
    let data = checks.iter().map(check_data).collect();
    output::print_list(global.output, &columns, rows.collect(), &data);
}

/// The verdict of a check, for people.
pub(crate) const fn verdict(check: &SeedCheckRow) -> &'static str {
    if check.passed { "passed" } else { "failed" }
}

/// A check as JSON.
pub(crate) fn check_data(check: &SeedCheckRow) -> Value {
    json!({
        "check": check.name,
        "passed": check.passed,
        "found": check.found,
        "code": check.code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failed_check_is_the_refusal() {
        let check = |name: &str, code: &str| SeedCheckRow {
            name: name.into(),
            passed: code.is_empty(),
            found: format!("found of {name}"),
            code: code.into(),
        };
        assert!(refuse_failed(&[check("role", ""), check("space", "")]).is_ok());
        let checks =
            [check("role", ""), check("suspended", "not_suspended"), check("x", "bad_name")];
        let refused = refuse_failed(&checks).unwrap_err();
        assert_eq!(
            (refused.code.as_str(), refused.message.as_str()),
            ("not_suspended", "found of suspended")
        );
    }
}
