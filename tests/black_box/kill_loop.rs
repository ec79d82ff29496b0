//! kill -9 again and again, of any member and of data processes alone, under load.
//!
//! A kill does not wait until the cluster has recovered from the one before it: how far it waits is
//! drawn from the seed, so that members also die while they start, seal, mount and catch up. A
//! majority of members always runs, and at the end every copy must have come back by itself. (A
//! member that dies while the others have not caught up yet may hold the only copy of something
//! acknowledged. Then the database waits for it, and the test starts it.)
//!
//! `KEELSON_KILLS` sets the number of kills (6 unless set; the recorded run uses 50),
//! `KEELSON_SEED` the choices. The seed is printed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually};

use crate::crashes::{EXPECTED_ERRORS, prove};
use crate::data::cluster;

const KILLS: u64 = 6;

pub(crate) fn number_of(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}

/// A small generator, so that a seed gives the same victims everywhere.
pub(crate) struct Choices(u64);

impl Choices {
    /// Of `KEELSON_SEED`, or of the clock; prints which.
    pub(crate) fn of_seed(kills: u64) -> Result<Self> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let seed = number_of("KEELSON_SEED", u64::from(since.subsec_nanos()))?;
        println!("{kills} kills with KEELSON_SEED={seed}");
        Ok(Self(seed))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a kill waits for before the next one.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// Nothing: the next one comes at once.
    Now,
    /// The members' data processes run; their copies may still be opening.
    Started,
    /// Something is acknowledged again.
    Writing,
    /// All copies follow and count in the commit rule.
    Whole,
}

/// How long a killed member stays away.
#[derive(Clone, Copy, Debug)]
enum Absence {
    None,
    /// Until something was acknowledged without it.
    Short,
    /// Until the next kill, or until all are waited for.
    Long,
}

/// One kill, drawn as a whole, so that the seed alone decides.
#[derive(Clone, Debug)]
struct Kill {
    victim: String,
    /// The data process only.
    data_only: bool,
    absence: Absence,
    until: Until,
}

/// A member that dies this many times before all copies follow again could be taken for one that
/// cannot start (a copy is left alone after five starts that came to no end).
const KILLS_IN_A_ROW_MAX: u32 = 3;

/// A cluster under fire.
struct Range {
    cluster: Cluster,
    choices: Choices,
    /// The member that was killed and not yet started again. Never more than one.
    away: Option<String>,
    /// Kills of each member since all copies followed.
    kills: BTreeMap<String, u32>,
}

impl Range {
    async fn shoot(&mut self, kills: u64, writer: &Writer) -> Result<()> {
        for kill in 1..=kills {
            let drawn = self.draw();
            let what = || format!("kill {kill}: {drawn:?}");
            println!("{}", what());
            self.kill(&drawn, writer).await.with_context(what)?;
            self.wait(drawn.until, writer).await.with_context(what)?;
        }
        self.wait(Until::Whole, writer).await.context("after the last kill")
    }

    /// Prints what the cluster says of itself.
    async fn explain(&self) {
        for args in [
            &["cluster", "status"][..],
            &["copy", "status"],
            &["database", "show", "DB1"],
            &["decision", "list", "DB1", "--limit", "8", "-o", "wide"],
        ] {
            match self.cluster.cli().succeed(args).await {
                Ok(text) => println!("{args:?}:\n{text}"),
                Err(error) => println!("{args:?}: {error:#}"),
            }
        }
    }

    fn draw(&mut self) -> Kill {
        let mut names = self.cluster.names();
        names.retain(|name| Some(name) != self.away.as_ref());
        let index = self.choices.below(names.len() as u64);
        let data_only = self.choices.below(3) == 0;
        let absence = match self.choices.below(3) {
            _ if data_only => Absence::None,
            0 => Absence::None,
            1 => Absence::Short,
            _ => Absence::Long,
        };
        let until = match self.choices.below(8) {
            0 | 1 => Until::Now,
            2 | 3 => Until::Started,
            4 | 5 => Until::Writing,
            _ => Until::Whole,
        };
        let victim = names.swap_remove(usize::try_from(index).unwrap_or(0));
        Kill { victim, data_only, absence, until }
    }

    async fn kill(&mut self, kill: &Kill, writer: &Writer) -> Result<()> {
        let victim = &kill.victim;
        // A member killed earlier comes back just before: two of three are never dead together.
        self.bring_back()?;
        if self.kills.get(victim).is_some_and(|kills| *kills >= KILLS_IN_A_ROW_MAX) {
            self.wait(Until::Whole, writer).await?;
        }
        *self.kills.entry(victim.clone()).or_default() += 1;
        // A member whose data process is not back yet can only die as a whole.
        if kill.data_only && self.cluster.member(victim).kill_data_process().is_ok() {
            return Ok(());
        }
        self.cluster.member(victim).kill()?;
        self.away = Some(victim.clone());
        match kill.absence {
            Absence::None => self.bring_back(),
            Absence::Short => {
                self.written(50, writer).await?;
                self.bring_back()
            }
            Absence::Long => Ok(()),
        }
    }

    fn bring_back(&mut self) -> Result<()> {
        match self.away.take() {
            None => Ok(()),
            Some(name) => self.cluster.member(&name).start(),
        }
    }

    /// Waits until writes are acknowledged again. If the member that is away was the only one left
    /// in the commit rule, the database must wait for it, and it comes back first.
    async fn written(&mut self, count: u64, writer: &Writer) -> Result<()> {
        let goal = writer.acknowledged() + count;
        let admin = self.cluster.client().admin();
        let needs_it = || async {
            let acknowledged = writer.acknowledged();
            if self.away.is_none() || acknowledged >= goal {
                return Ok(false);
            }
            let blocked = admin.show_database("DB1").await?.blocked;
            let waits = blocked.starts_with("no copy can be activated without losing data");
            ensure!(waits, "{acknowledged} of {goal} writes, and the database is not waiting");
            Ok(true)
        };
        if eventually("writes go on, or need the member that is away", needs_it).await? {
            println!("the database waits for {:?}", self.away);
            self.bring_back()?;
        }
        writer.progress(count).await
    }

    async fn wait(&mut self, until: Until, writer: &Writer) -> Result<()> {
        match until {
            Until::Now => Ok(()),
            Until::Started => {
                self.bring_back()?;
                let names = self.cluster.names();
                for name in &names {
                    let member = &*self.cluster.member(name);
                    let running = || async {
                        member.data_pid().map(|_| ()).with_context(|| format!("{name} is down"))
                    };
                    eventually("all data processes run", running).await?;
                }
                Ok(())
            }
            Until::Writing => self.written(100, writer).await,
            Until::Whole => {
                self.bring_back()?;
                writer.progress(100).await?;
                self.cluster.wait_until_whole().await?;
                self.cluster.wait_until_counting("DB1").await?;
                self.kills.clear();
                Ok(())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_however_often_members_are_killed() -> Result<()> {
    let kills = number_of("KEELSON_KILLS", KILLS)?;
    let choices = Choices::of_seed(kills)?;
    let cluster = cluster().await?;
    let options = WriterOptions { tasks: 8, ..WriterOptions::default() };
    let writer = Writer::start(cluster.client().database("DB1"), options);
    writer.progress(200).await?;
    let kills_of = BTreeMap::new();
    let mut range = Range { cluster, choices, away: None, kills: kills_of };
    if let Err(error) = range.shoot(kills, &writer).await {
        range.explain().await;
        return Err(error);
    }
    let longest = writer.longest_gap();
    let verified = prove(&range.cluster, writer).await?;
    println!("{kills} kills, longest gap {longest:?}, {verified:?}");
    range.cluster.assert_clean_logs(EXPECTED_ERRORS)
}
