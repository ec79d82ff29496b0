//! A cluster as those see it who reach it with a client configuration: what can be asked of it and
//! waited for, wherever its members run.

use anyhow::{Context, Result, ensure};
use keelson_client::{Client, v1};

use crate::{Cli, eventually};

/// Client and commands of one client configuration.
#[derive(Clone, Debug)]
pub struct View {
    /// The client.
    pub client: Client,
    /// Commands.
    pub cli: Cli,
}

impl View {
    /// The member of the active copy, once there is one that serves.
    ///
    /// # Errors
    /// None serves within a minute.
    pub async fn active_of(&self, database: &str) -> Result<String> {
        eventually(&format!("a copy of {database} serves"), || async {
            let rows = self.client.admin().copy_status(database, "").await?;
            let serving = rows
                .into_iter()
                .find(|row| row.active && row.facts.as_ref().is_some_and(|facts| facts.serving));
            serving.map(|row| row.member).context("no copy serves")
        })
        .await
    }

    /// Waits until `count` members, all that there are, answer with a running data process, or as
    /// a witness.
    ///
    /// # Errors
    /// Not within a minute.
    pub async fn wait_until_up(&self, count: usize) -> Result<()> {
        eventually("all members are up", || async {
            let status = self.client.admin().cluster_status().await?;
            let is_up = |m: &&v1::MemberStatus| m.reachable && (m.data_process_up || m.witness);
            let up = status.members.iter().filter(is_up).count();
            ensure!(up == count, "{up} of {count} members are up");
            ensure!(!status.leader.is_empty(), "there is no leader");
            Ok(())
        })
        .await
    }

    /// Creates a database and waits until it answers.
    ///
    /// # Errors
    /// It is refused, or does not answer within a minute.
    pub async fn create_database(&self, name: &str, members: &[&str]) -> Result<()> {
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        let settings = v1::DatabaseSettings::default();
        self.client.admin().create_database(name, members, settings).await?;
        let database = self.client.database(name);
        eventually(&format!("{name} answers"), || async {
            database.get("a key that is not there").await?;
            Ok(())
        })
        .await
    }

    /// Waits until every copy of `database` is reachable, healthy or mounted, and has empty queues.
    ///
    /// # Errors
    /// Not within a minute; the error names the copies that are behind.
    pub async fn wait_until_caught_up(&self, database: &str) -> Result<()> {
        eventually(&format!("all copies of {database} are caught up"), || async {
            let rows = self.client.admin().copy_status(database, "").await?;
            let behind: Vec<_> = rows.iter().filter_map(not_caught_up).collect();
            ensure!(!rows.is_empty(), "there are no copies");
            ensure!(behind.is_empty(), "{}", behind.join(", "));
            // A passive copy that was not yet told of the last frames has empty queues, too.
            let end = |row: &v1::CopyStatusRow| row.facts.clone().and_then(|facts| facts.log_end);
            let other = rows.iter().find(|row| end(row) != end(&rows[0]));
            ensure!(other.is_none(), "their logs end apart: {rows:?}");
            Ok(())
        })
        .await
    }

    /// Waits until every copy of `database` is mounted or follows; writers may go on meanwhile.
    ///
    /// # Errors
    /// Not within a minute; the error names the copies that do not.
    pub async fn wait_until_following(&self, database: &str) -> Result<()> {
        eventually(&format!("all copies of {database} follow"), || async {
            let rows = self.client.admin().copy_status(database, "").await?;
            let others: Vec<_> = rows.iter().filter(|row| !is_following(row)).collect();
            let others: Vec<_> = others.iter().filter_map(|row| not_caught_up(row)).collect();
            ensure!(others.is_empty(), "{}", others.join(", "));
            Ok(())
        })
        .await
    }

    /// Waits until the content index of every copy of `database` is whole, as a move wants it.
    ///
    /// # Errors
    /// Not within a minute; the error names the copies where it is not.
    pub async fn wait_until_indexed(&self, database: &str) -> Result<()> {
        let is_whole = |row: &v1::CopyStatusRow| {
            let index = row.facts.as_ref().and_then(|facts| facts.content_index.as_ref());
            index.is_some_and(|index| index.state == "Healthy")
        };
        eventually(&format!("the content indexes of {database} are whole"), || async {
            let rows = self.client.admin().copy_status(database, "").await?;
            let others: Vec<_> = rows.iter().filter(|row| !is_whole(row)).collect();
            let names: Vec<_> = others.iter().map(|row| row.member.as_str()).collect();
            ensure!(names.is_empty(), "not whole: {}", names.join(", "));
            Ok(())
        })
        .await
    }

    /// Waits until every copy of `database` is mounted or follows, and counts in its commit rule;
    /// for databases without lagged or suspended copies.
    ///
    /// # Errors
    /// Not within a minute; the error names the copies that do not.
    pub async fn wait_until_counting(&self, database: &str) -> Result<()> {
        self.wait_until_following(database).await?;
        eventually(&format!("all copies of {database} count"), || async {
            let rows = self.client.admin().copy_status(database, "").await?;
            let others: Vec<_> = rows.iter().filter(|row| !row.participant).collect();
            let names: Vec<_> = others.iter().map(|row| row.member.as_str()).collect();
            ensure!(names.is_empty(), "not in the commit rule: {}", names.join(", "));
            Ok(())
        })
        .await
    }

    /// Compares the content of all copies and gives the common digest.
    ///
    /// # Errors
    /// They are not found equal within a minute.
    pub async fn equal_digest(&self, database: &str, copies: usize) -> Result<String> {
        eventually(&format!("all copies of {database} are equal"), || async {
            let answer = self.client.admin().compare_digests(database).await?;
            let answered = answer.rows.iter().filter(|row| row.answered).count();
            let problems: Vec<_> =
                answer.rows.iter().map(|row| format!("{}: {}", row.member, row.problem)).collect();
            ensure!(answered == copies, "{answered} copies answered: {}", problems.join(", "));
            ensure!(answer.equal, "the digests differ: {}", problems.join(", "));
            let digest = answer.rows.first().map(|row| row.digest.clone()).unwrap_or_default();
            Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
        })
        .await
    }
}

fn is_following(row: &v1::CopyStatusRow) -> bool {
    let status = row.facts.as_ref().map_or("", |facts| facts.status.as_str());
    row.reachable && (status == "Healthy" || status == "Mounted")
}

/// What keeps a copy from being caught up; `None` if nothing does.
fn not_caught_up(row: &v1::CopyStatusRow) -> Option<String> {
    let facts = row.facts.clone().unwrap_or_default();
    let fine = row.reachable
        && (facts.status == "Healthy" || facts.status == "Mounted")
        && facts.copy_queue_bytes == 0
        && facts.replay_queue_bytes == 0;
    (!fine).then(|| {
        format!(
            "{} is {:?} with queues of {} and {} bytes",
            row.member, facts.status, facts.copy_queue_bytes, facts.replay_queue_bytes
        )
    })
}
