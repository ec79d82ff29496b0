//! The eighteen named tests of a member's health (F133), in their form here, and one of its disks
//! (F13).
//!
//! Decides from a picture that was collected when it was asked for. The names are the model's, in
//! this house's spelling, so that whoever knows them finds them; what each means here stands beside
//! it.

use keelson_types::{CopyStatus, FailureTag};

use crate::criteria::CopyHealth;

/// What is known of a member.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberPicture {
    /// Its name.
    pub name: String,
    /// Its control process answers.
    pub answers: bool,
    /// Why not.
    pub problem: String,
    /// It votes and holds no data.
    pub witness: bool,
    /// It votes.
    pub voter: bool,
    /// Its data process answers its control process.
    pub data_process: bool,
    /// Its data process holds a lease.
    pub lease: bool,
    /// Its volumes that failed or are missing.
    pub lost_volumes: Vec<String>,
}

/// What is known of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyPicture {
    /// `DATABASE@MEMBER`.
    pub name: String,
    /// The member.
    pub member: String,
    /// Its status.
    pub status: CopyStatus,
    /// It lags on purpose: its replay queue is long then.
    pub lagged: bool,
    /// Its queues.
    pub health: CopyHealth,
    /// The class of its failure, if it has one.
    pub failure: Option<FailureTag>,
}

/// What is known of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabasePicture {
    /// Its name.
    pub name: String,
    /// The members of its copies.
    pub members: Vec<String>,
    /// An operator wants it open.
    pub wanted_open: bool,
    /// The member of its active copy.
    pub active: Option<String>,
    /// Copies that could serve, and copies that hold what was written.
    pub available: u32,
    /// See there.
    pub redundant: u32,
}

/// Everything that the tests look at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HealthPicture {
    /// The leader of consensus, as the member that was asked knows it.
    pub leader: Option<String>,
    /// All members.
    pub members: Vec<MemberPicture>,
    /// All copies.
    pub copies: Vec<CopyPicture>,
    /// All databases.
    pub databases: Vec<DatabasePicture>,
}

/// How one test ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TestResult {
    /// Its name.
    pub test: &'static str,
    /// What it verifies.
    pub verifies: &'static str,
    /// What is wrong; nothing if it passed.
    pub error: Option<String>,
}

/// The tests of one member.
#[must_use]
pub fn health(picture: &HealthPicture, member: &MemberPicture) -> Vec<TestResult> {
    let cluster = cluster_tests(picture, member);
    let of_databases = database_tests(picture, member);
    let copies: Vec<_> = picture.copies.iter().filter(|c| c.member == member.name).collect();
    cluster
        .into_iter()
        .chain(of_databases)
        .chain(copy_tests(&copies, &member.lost_volumes))
        .collect()
}

fn row(test: &'static str, verifies: &'static str, error: Option<String>) -> TestResult {
    TestResult { test, verifies, error }
}

fn unless(holds: bool, error: impl Into<String>) -> Option<String> {
    (!holds).then(|| error.into())
}

fn cluster_tests(picture: &HealthPicture, member: &MemberPicture) -> Vec<TestResult> {
    let silent = || format!("it does not answer: {}", member.problem);
    let data = member.witness || member.data_process;
    let down: Vec<_> = picture.members.iter().filter(|m| !m.answers).collect();
    let names = |members: &[&MemberPicture]| {
        members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let voters: Vec<_> = picture.members.iter().filter(|m| m.voter).collect();
    let up = voters.iter().filter(|m| m.answers).count();
    let witnesses: Vec<_> = picture.members.iter().filter(|m| m.witness && !m.answers).collect();
    let lost = picture.databases.iter().filter(|d| d.wanted_open && d.active.is_none());
    let lost: Vec<_> = lost.map(|database| database.name.as_str()).collect();
    vec![
        row("cluster_service", "consensus runs on the member", unless(member.answers, silent())),
        row(
            "replay_service",
            "its data process runs",
            unless(data, "the data process does not answer"),
        ),
        row(
            "active_manager",
            "an active manager leads the cluster",
            unless(picture.leader.is_some(), "no leader is elected"),
        ),
        row("tasks_rpc_listener", "its admin service answers", unless(member.answers, silent())),
        row(
            "tcp_listener",
            "its log and client service may serve: it holds a lease",
            unless(member.witness || member.lease, "its data process holds no lease"),
        ),
        row(
            "server_locator_service",
            "every open database has an active copy to be found",
            unless(lost.is_empty(), format!("no active copy of {}", lost.join(", "))),
        ),
        row(
            "dag_members_up",
            "all members answer",
            unless(down.is_empty(), format!("{} do not answer", names(&down))),
        ),
        row(
            "cluster_network",
            "the member is reached over the control network",
            unless(member.answers, silent()),
        ),
        row(
            "quorum_group",
            "a majority of the voters answers",
            unless(up * 2 > voters.len(), format!("{up} of {} voters answer", voters.len())),
        ),
        row(
            "file_share_quorum",
            "every witness answers, if there is one",
            unless(witnesses.is_empty(), format!("{} do not answer", names(&witnesses))),
        ),
    ]
}

fn database_tests(picture: &HealthPicture, member: &MemberPicture) -> [TestResult; 2] {
    let here = |d: &&DatabasePicture| d.members.contains(&member.name) && d.wanted_open;
    let failing = |fails: fn(&DatabasePicture) -> bool| {
        let failing = picture.databases.iter().filter(here).filter(|database| fails(database));
        let names: Vec<_> = failing.map(|database| database.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let redundancy = failing(|database| database.redundant < 2);
    let availability = failing(|database| database.available < 1 || database.active.is_none());
    [
        row(
            "database_redundancy",
            "its databases have two copies that hold what was written",
            redundancy.map(|names| format!("fewer than two copies of {names}")),
        ),
        row(
            "database_availability",
            "its databases have a copy that serves",
            availability.map(|names| format!("no copy serves of {names}")),
        ),
    ]
}

/// The copy, with the class of its failure.
fn named(copy: &CopyPicture) -> String {
    match copy.failure {
        None => copy.name.clone(),
        Some(tag) => format!("{} ({tag})", copy.name),
    }
}

fn is_held_up(copy: &CopyPicture) -> bool {
    matches!(copy.failure, Some(FailureTag::SlowIo | FailureTag::HungIo))
}

fn copy_tests(copies: &[&CopyPicture], lost_volumes: &[String]) -> [TestResult; 7] {
    let lost = (!lost_volumes.is_empty()).then(|| lost_volumes.join(", "));
    let failing = |fails: fn(&CopyPicture) -> bool| {
        let names: Vec<_> =
            copies.iter().filter(|copy| fails(copy)).map(|copy| named(copy)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    [
        row(
            "db_copy_suspended",
            "no copy is suspended",
            failing(|copy| {
                matches!(copy.status, CopyStatus::Suspended | CopyStatus::FailedAndSuspended)
            }),
        ),
        row(
            "db_copy_failed",
            "no copy is failed",
            failing(|copy| {
                matches!(copy.status, CopyStatus::Failed | CopyStatus::FailedAndSuspended)
            }),
        ),
        row(
            "db_initializing",
            "no copy is still initializing",
            failing(|copy| copy.status == CopyStatus::Initializing),
        ),
        row(
            "db_disconnected",
            "no copy lost its source",
            failing(|copy| {
                let lost = [
                    CopyStatus::DisconnectedAndHealthy,
                    CopyStatus::DisconnectedAndResynchronizing,
                ];
                lost.contains(&copy.status)
            }),
        ),
        row(
            "db_log_copy_keeping_up",
            "copies receive log as fast as it is written",
            failing(|copy| !copy.health.copy_queue_is_short()),
        ),
        row(
            "db_log_replay_keeping_up",
            "copies without a lag replay as fast as log arrives",
            failing(|copy| !copy.lagged && !copy.health.replay_queue_is_short()),
        ),
        row(
            "log_disk",
            "log is written and synced in time, and no volume is lost",
            lost.or_else(|| failing(is_held_up)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::LOG_UNIT_BYTES;

    fn picture() -> HealthPicture {
        let member = |name: &str| MemberPicture {
            name: name.into(),
            answers: true,
            voter: true,
            data_process: true,
            lease: true,
            ..MemberPicture::default()
        };
        let copy = |member: &str, status| CopyPicture {
            name: format!("DB1@{member}"),
            member: member.into(),
            status,
            lagged: false,
            health: CopyHealth::default(),
            failure: None,
        };
        HealthPicture {
            leader: Some("m1".into()),
            members: vec![member("m1"), member("m2"), member("m3")],
            copies: vec![copy("m1", CopyStatus::Mounted), copy("m2", CopyStatus::Healthy)],
            databases: vec![DatabasePicture {
                name: "DB1".into(),
                members: vec!["m1".into(), "m2".into()],
                wanted_open: true,
                active: Some("m1".into()),
                available: 2,
                redundant: 2,
            }],
        }
    }

    fn failed(picture: &HealthPicture, member: usize) -> Vec<&'static str> {
        let results = health(picture, &picture.members[member]);
        assert_eq!(results.len(), 19, "F133: eighteen tests, and one of the disk");
        results.into_iter().filter(|one| one.error.is_some()).map(|one| one.test).collect()
    }

    /// F133: each trouble fails the tests that are about it, and no others.
    #[test]
    fn each_trouble_fails_its_own_tests() {
        type Arrange = fn(&mut HealthPicture);
        let long = 60 * LOG_UNIT_BYTES;
        assert_eq!(failed(&picture(), 0), Vec::<&str>::new());
        let table: [(Arrange, usize, &[&str]); 11] = [
            (|p| p.leader = None, 0, &["active_manager"]),
            (|p| p.members[1].data_process = false, 1, &["replay_service"]),
            (|p| p.members[1].lease = false, 1, &["tcp_listener"]),
            (|p| p.members[2].answers = false, 0, &["dag_members_up"]),
            (
                |p| p.members[2].answers = false,
                2,
                &["cluster_service", "tasks_rpc_listener", "dag_members_up", "cluster_network"],
            ),
            (
                |p| p.databases[0].active = None,
                0,
                &["server_locator_service", "database_availability"],
            ),
            (|p| p.databases[0].redundant = 1, 1, &["database_redundancy"]),
            (|p| p.copies[1].status = CopyStatus::Suspended, 1, &["db_copy_suspended"]),
            (
                |p| p.copies[1].status = CopyStatus::FailedAndSuspended,
                1,
                &["db_copy_suspended", "db_copy_failed"],
            ),
            (|p| p.copies[1].status = CopyStatus::DisconnectedAndHealthy, 1, &["db_disconnected"]),
            (|p| p.copies[1].status = CopyStatus::Initializing, 1, &["db_initializing"]),
        ];
        for (number, (arrange, member, expected)) in table.into_iter().enumerate() {
            let mut picture = picture();
            arrange(&mut picture);
            assert_eq!(failed(&picture, member), expected, "row {number}");
        }
        let mut hung = picture();
        hung.copies[1].failure = Some(FailureTag::HungIo);
        assert_eq!(failed(&hung, 1), ["log_disk"]);
        let errors = health(&hung, &hung.members[1]);
        assert_eq!(errors[18].error.as_deref(), Some("DB1@m2 (hung_io)"), "with its class");
        let mut lost = picture();
        lost.members[1].lost_volumes = vec!["volume /a is failed".into()];
        assert_eq!((failed(&lost, 1), failed(&lost, 0)), (vec!["log_disk"], vec![]));
        let mut behind = picture();
        behind.copies[1].health.copy_queue_bytes = long;
        behind.copies[1].health.replay_queue_bytes = long;
        let both = ["db_log_copy_keeping_up", "db_log_replay_keeping_up"];
        assert_eq!(failed(&behind, 1), both);
        behind.copies[1].lagged = true;
        assert_eq!(failed(&behind, 1), ["db_log_copy_keeping_up"]);
        let mut quorum = picture();
        quorum.members[1].answers = false;
        quorum.members[2].answers = false;
        assert_eq!(failed(&quorum, 0), ["dag_members_up", "quorum_group"]);
    }

    #[test]
    fn a_witness_needs_no_data_process() {
        let mut picture = picture();
        let witness = MemberPicture { witness: true, ..picture.members[2].clone() };
        picture.members[2] = MemberPicture { data_process: false, lease: false, ..witness };
        assert_eq!(failed(&picture, 2), Vec::<&str>::new());
        picture.members[2].answers = false;
        assert_eq!(failed(&picture, 0), ["dag_members_up", "file_share_quorum"]);
    }
}
