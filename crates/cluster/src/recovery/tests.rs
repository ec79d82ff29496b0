//! What speaks against a recovery, and what becomes of whom.

use keelson_types::{MemberName, SiteName};

use super::*;

const LAST: (u64, u64) = (5, 100);

fn row(n: u128, state: SurvivorState, answer: Option<Answer>) -> Survivor {
    let id = MemberId::from_u128(n);
    let config = MemberConfig {
        id,
        node: u64::try_from(n).expect("small"),
        name: MemberName::new(format!("m{n}")).expect("a name"),
        site: SiteName::new("south").expect("a name"),
        control_address: String::new(),
        data_address: "127.0.0.1:1".into(),
        replication_addresses: Vec::new(),
        voter: true,
    };
    Survivor {
        name: config.name.to_string(),
        site: config.site.to_string(),
        state,
        witness: false,
        last_index: None,
        answer,
        config,
    }
}

fn said(last: (u64, u64), leader: &str) -> Option<Answer> {
    Some(Answer { recovery: 0, last: Some(last), leader: leader.into() })
}

/// m3 founds, m4 survives, m1 is lost.
fn rows(survivor: Option<Answer>, lost: Option<Answer>) -> Vec<Survivor> {
    vec![
        row(3, SurvivorState::Founder, None),
        row(4, SurvivorState::Survives, survivor),
        row(1, SurvivorState::Lost, lost),
    ]
}

#[track_caller]
fn refused(rows: &[Survivor], part: &str) {
    let refusal = check(rows, 1, LAST).expect_err("it is refused");
    assert!(refusal.message.contains(part), "{}", refusal.message);
}

#[test]
fn a_survivor_that_is_not_ahead_and_lost_members_that_are_silent_are_fine() {
    for last in [LAST, (5, 99), (4, 1_000), (0, 0)] {
        assert!(check(&rows(said(last, ""), None), 1, LAST).is_ok(), "{last:?}");
    }
}

#[test]
fn what_speaks_against_a_recovery_is_named() {
    let fine = said(LAST, "");
    refused(&rows(fine.clone(), fine.clone()), "m1 answers");
    refused(&rows(None, None), "m4 does not answer");
    refused(&rows(said((5, 101), ""), None), "m4 goes further");
    refused(&rows(said((6, 1), ""), None), "m4 goes further");
    refused(&rows(said(LAST, "m4"), None), "m4 leads");
    refused(&rows(said(LAST, "m1"), None), "m1 leads");
    let recovered = Some(Answer { recovery: 1, last: Some((0, 0)), leader: String::new() });
    refused(&rows(recovered, None), "m4 was recovered already");
    let silent = Some(Answer { recovery: 0, last: None, leader: String::new() });
    refused(&rows(silent, None), "m4 does not say");
    refused(&rows(fine, None)[..2], "no member is lost");
}

/// The founder led without a majority until it was stopped: who followed it heard it a moment ago.
#[test]
fn a_survivor_that_was_heard_as_leader_by_another_one_is_no_leader() {
    assert!(check(&rows(said(LAST, "m3"), None), 1, LAST).is_ok());
}

/// Two operators who know nothing of each other, at one member each.
#[test]
fn generations_follow_the_clock_and_always_rise() {
    assert_eq!(next_generation(0, 1_700_000_000_999), 1_700_000_000);
    assert_eq!(next_generation(1_700_000_000, 1_700_000_000_000), 1_700_000_001);
    assert_eq!(next_generation(5, 0), 6, "a clock that is wrong");
}

fn state() -> ClusterState {
    use keelson_cluster_core::Command;
    let mut state = ClusterState::default();
    for (index, (n, site)) in (1..).zip([(1, "north"), (2, "north"), (3, "south"), (4, "west")]) {
        let mut member = row(n, SurvivorState::Lost, None).config;
        member.site = SiteName::new(site).expect("a name");
        state.apply(index, &Command::AddMember { member });
    }
    state
}

fn becomes(founder: u128, wanted: &SiteToRecover) -> Result<Vec<(String, SurvivorState)>, String> {
    let found = members(&state(), MemberId::from_u128(founder), wanted);
    let rows = found.map_err(|error| error.to_string())?;
    Ok(rows.into_iter().map(|row| (row.name, row.state)).collect())
}

#[test]
fn the_members_of_the_site_go_on_and_all_others_are_lost() {
    let wanted = |site: &str, lost: &[&str], with: &[&str]| SiteToRecover {
        site: site.into(),
        lost: lost.iter().map(|name| (*name).to_owned()).collect(),
        with: with.iter().map(|name| (*name).to_owned()).collect(),
        comment: String::new(),
    };
    use SurvivorState::{Founder, Lost, Survives};
    let row = |name: &str, state| (name.to_owned(), state);
    let expected = [row("m3", Founder), row("m1", Lost), row("m2", Lost), row("m4", Lost)];
    assert_eq!(becomes(3, &wanted("south", &[], &[])), Ok(expected.to_vec()));
    let expected = [row("m3", Founder), row("m4", Survives), row("m1", Lost), row("m2", Lost)];
    assert_eq!(becomes(3, &wanted("south", &[], &["m4"])), Ok(expected.to_vec()));
    let expected = [row("m2", Founder), row("m1", Lost), row("m3", Lost), row("m4", Lost)];
    assert_eq!(becomes(2, &wanted("north", &["m1"], &[])), Ok(expected.to_vec()));
    assert!(becomes(3, &wanted("north", &[], &[])).unwrap_err().contains("does not stand"));
    assert!(becomes(3, &wanted("south", &["m3"], &[])).unwrap_err().contains("does not stand"));
    assert!(becomes(3, &wanted("south", &["m9"], &[])).unwrap_err().contains("no member m9"));
}
