//! `keelson member remove`: take a member out of the cluster, also one that is gone for good.

use clap::Args;
use keelson_client::Client;
use keelson_types::RefusalReason;
use serde_json::json;

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;

#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// Name of the member
    member: String,
    /// Remove its copies first. Refused before anything is changed if it has the active or the only
    /// copy of a database
    #[arg(long)]
    with_copies: bool,
}

/// A copy that goes, with what is needed to have its like again.
struct Held {
    database: String,
    preference: u32,
}

impl Remove {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let client = global.connect().await?;
        let (admin, member) = (client.admin(), &self.member);
        let copies = if self.with_copies { held(&client, member).await? } else { Vec::new() };
        for copy in &copies {
            admin.remove_copy(&copy.database, member, true).await?;
        }
        if copies.is_empty() {
            admin.remove_member(member, true).await?;
        }
        let names: Vec<_> = copies.iter().map(|copy| copy.database.as_str()).collect();
        let plan = match names.is_empty() {
            true => format!("remove member {member} from the cluster"),
            false => format!("remove member {member} with its copies of {}", names.join(", ")),
        };
        if global.only_shows(&plan) {
            return Ok(());
        }
        global.confirm(&plan)?;
        for copy in &copies {
            // Repeated after an attempt that was cut short, some are gone already.
            match admin.remove_copy(&copy.database, member, false).await {
                Err(error) if error.reason == RefusalReason::UnknownCopy => {}
                removed => drop(removed.map_err(|error| {
                    let what = format!("the copy of {} was not removed", copy.database);
                    Failure::from(error).during(&what)
                })?),
            }
        }
        admin.remove_member(member, false).await?;
        let removed = copies.iter().map(
            |copy| json!({ "database": copy.database, "activation_preference": copy.preference }),
        );
        let data = json!({ "member": member, "copies": removed.collect::<Vec<_>>() });
        let list = copies
            .iter()
            .map(|copy| format!("\n  {}@{member} (preference {})", copy.database, copy.preference));
        let sentence = format!("removed member {member}{}", list.collect::<String>());
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

/// The copies of a member, which need not be there.
async fn held(client: &Client, member: &str) -> Outcome<Vec<Held>> {
    if !client.topology().members.contains_key(member) {
        let what = format!("there is no member {member}");
        return Err(Failure::new(RefusalReason::UnknownMember, what));
    }
    let rows = client.admin().copy_status("", member).await?;
    let copies = rows.into_iter().map(|row| (row.active, row.database, row.preference));
    let copies = copies.map(|(active, database, preference)| match active {
        // What it acknowledged may be nowhere else: it does not go along with the member.
        true => {
            let what = format!(
                "{member} has the active copy of {database}: move it away (keelson switchover), \
                 or, if its data is given up, remove it (keelson database remove)"
            );
            Err(Failure::new(RefusalReason::InUse, what))
        }
        false => Ok(Held { database, preference }),
    });
    copies.collect()
}
