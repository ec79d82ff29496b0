//! What the pages show, and that nothing of it can become markup.

use keelson_wire::v1::{
    ClusterStatusResponse, CopyFacts, CopyStatusRow, Criterion, DatabaseInfo, DecisionCandidate,
    EventInfo, ExplainDecisionResponse, LogHolder, MemberStatus, MoveCheckRow, MoveRow, Operation,
    PreviewMountResponse, RedundancyRow, SeedCheckRow, SeedFigures, VolumeFacts, VolumeRow,
};

use super::*;
use crate::action::{Action, MoveSkips};
use crate::web::fields;

const EVIL: &str = "<script>alert('x')</script>\"&";

fn frame() -> Frame {
    Frame {
        member: "m1".into(),
        now_ms: 1_700_000_060_000,
        viewer: Some(Viewer { name: "ann".into(), role: "operator".into(), csrf: "w0rd".into() }),
        notice: String::new(),
    }
}

fn member_status(name: &str) -> MemberStatus {
    MemberStatus {
        name: name.into(),
        site: "north".into(),
        reachable: true,
        data_process_up: true,
        lease_left_millis: 900,
        ..MemberStatus::default()
    }
}

fn copy(database: &str, member: &str, status: &str) -> CopyStatusRow {
    CopyStatusRow {
        database: database.into(),
        member: member.into(),
        status: status.into(),
        reachable: true,
        facts: Some(CopyFacts { replay_queue_bytes: 3 << 20, ..CopyFacts::default() }),
        ..CopyStatusRow::default()
    }
}

fn view() -> Overview {
    Overview {
        cluster: ClusterStatusResponse {
            leader: "m1".into(),
            members: vec![member_status("m1"), member_status("m2"), member_status("m3")],
            databases: 1,
            ..ClusterStatusResponse::default()
        },
        copies: vec![
            CopyStatusRow { active: true, ..copy("DB1", "m1", "Mounted") },
            copy("DB1", "m2", "FailedAndSuspended"),
        ],
        redundancy: vec![RedundancyRow {
            database: "DB1".into(),
            redundant: 2,
            verdict: "green".into(),
            ..RedundancyRow::default()
        }],
        ..Overview::default()
    }
}

fn volume(path: &str, state: &str) -> VolumeFacts {
    VolumeFacts { path: path.into(), state: state.into(), why: path.into(), ..Default::default() }
}

/// A copy on a volume with so much free.
fn copy_on(volume: &str, database: &str, free: u64) -> CopyStatusRow {
    let facts = CopyFacts {
        volume: volume.into(),
        log_free_bytes: free,
        data_free_bytes: free,
        ..CopyFacts::default()
    };
    CopyStatusRow { facts: Some(facts), ..copy(database, "m1", "Healthy") }
}

/// Without tags, in one line; a tag ends a word.
fn text_of(page: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for letter in page.chars() {
        match letter {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            letter if !inside => text.push(letter),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_grid_has_a_cell_for_each_copy_with_its_state_in_words() {
    let page = overview(&frame(), &view());
    let text = text_of(&page);
    assert!(text.contains("✓ All is well"), "{text}");
    assert!(text.contains("✓ Mounted ★ active"), "{text}");
    assert!(text.contains("✗ Failed and suspended"), "{text}");
    assert!(text.contains("copy 0 , replay 3 logs"), "{text}");
    assert_eq!(page.matches("aria-label=\"no copy\"").count(), 1, "m3 has none");
}

#[test]
fn what_is_wrong_comes_first() {
    let mut view = view();
    view.cluster.problems = vec!["m3 is not reachable".into()];
    view.redundancy[0].verdict = "red".into();
    view.cluster.members[2].reachable = false;
    let text = text_of(&overview(&frame(), &view));
    let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word}: {text}"));
    assert!(
        at("2 to look at") < at("m3 is not reachable")
            && at("keelson redundancy DB1") < at("Members")
    );
    assert!(text.contains("✗ Not reachable"));
}

/// The first copy lies on a volume with room; the second one's is full.
fn with_a_full_volume() -> Vec<CopyStatusRow> {
    let mut full = copy_on("/b", "DB2", 1 << 20);
    if let Some(facts) = &mut full.facts {
        facts.shortage = "the log volume is full".into();
        facts.log_seconds_to_full = Some(60);
    }
    vec![copy_on("/a", "DB1", 8 << 30), full]
}

#[test]
fn a_member_is_as_short_of_space_as_its_fullest_volume() {
    let failed = VolumeRow { member: "m1".into(), volume: Some(volume("/c", "failed")) };
    let view = Overview { copies: with_a_full_volume(), volumes: vec![failed], ..view() };
    let text = text_of(&overview(&frame(), &view));
    for word in [
        "log 1.0 MiB free, data 1.0 MiB free (the least of several volumes)",
        "! log volume full in 1 min",
        "✗ the log volume is full (/b)",
        "✗ volume /c is failed",
    ] {
        assert_eq!(text.matches(word).count(), 1, "{word}: {text}");
    }
    let one = Overview { copies: vec![copy_on("", "DB1", 8 << 30)], ..view };
    assert!(!text_of(&overview(&frame(), &one)).contains("the least of"));
}

#[test]
fn the_page_of_a_member_has_a_row_for_each_volume() {
    let mut copies = with_a_full_volume();
    copies.push(copy_on("/b", "DB3", 1 << 20));
    let full = VolumeFacts {
        copies: 3,
        free_bytes: Some(1 << 20),
        total_bytes: Some(4 << 30),
        ..volume("/b", "healthy")
    };
    let failed = VolumeFacts { replaced_by: "/d".into(), ..volume("/c", "failed") };
    let spare = VolumeFacts { free_bytes: Some(4 << 30), ..volume("/d", "spare") };
    let volumes = vec![full, failed, spare];
    let view = MemberView { status: member_status("m1"), copies, volumes, ..Default::default() };
    let text = text_of(&member(&frame(), &view));
    for word in [
        "Free for log 1.0 MiB (the least of several volumes)",
        "Shortage ✗ the log volume is full (/b)",
        "1.0 MiB of 4.0 GiB ✗ the log volume is full ! 1 min DB2 , DB3 1 that say nothing now",
        "✗ failed /c copies go to /d not known not foreseeable none",
        "– spare /d 4.0 GiB not foreseeable none",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_certificate_that_ends_soon_is_said_on_both_pages() {
    let now = frame().now_ms;
    let mut view = view();
    view.cluster.members[0].certificate_expires_unix_millis = now + 3 * 86_400_000;
    view.cluster.members[1].certificate_expires_unix_millis = now + 300 * 86_400_000;
    let text = text_of(&overview(&frame(), &view));
    assert_eq!(text.matches("! certificate ends in 3 days").count(), 1, "{text}");
    assert!(!text.contains("300"), "{text}");
    let page = |status: &MemberStatus| {
        let view = MemberView { status: status.clone(), ..Default::default() };
        text_of(&member(&frame(), &view))
    };
    let (soon, later) = (page(&view.cluster.members[0]), page(&view.cluster.members[1]));
    assert!(soon.contains("! ends in 3 days") && soon.contains("keelson certs issue"), "{soon}");
    assert!(later.contains("✓ ends in 300 days") && !later.contains("certs issue"), "{later}");
    assert!(!page(&view.cluster.members[2]).contains("Certificate"), "it does not say");
}

#[test]
fn every_page_has_landmarks_a_way_past_them_and_one_heading() {
    let operation_row =
        Operation { kind: "seed".into(), state: "running".into(), ..Default::default() };
    let database_view = DatabaseView {
        copies: view().copies,
        redundancy: view().redundancy.pop(),
        ..Default::default()
    };
    let member_view =
        MemberView { status: member_status("m1"), copies: view().copies, ..Default::default() };
    let action = Action::Dismount { database: "DB1".into() };
    let refusal = Refused { code: "forbidden".into(), message: "no".into(), ..Refused::default() };
    for page in [
        login(&Frame { viewer: None, ..frame() }, "w", "/", "wrong"),
        overview(&frame(), &view()),
        database(&frame(), &database_view),
        member(&frame(), &member_view),
        operations(&frame(), std::slice::from_ref(&operation_row)),
        operation(&frame(), &operation_row),
        events(&frame(), &[EventInfo::default()]),
        decisions(&frame(), &["{}".into()], &Default::default()),
        decision(&frame(), 7, &ExplainDecisionResponse::default()),
        confirm(&frame(), &action, &Plan::Expected(Expected::default())),
        refused(&frame(), &refusal),
    ] {
        assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{page}");
        for word in
            ["<header", "<main id=\"main\"", "<footer", "href=\"#main\"", "name=\"viewport\""]
        {
            assert_eq!(page.matches(word).count(), 1, "{word}: {page}");
        }
        assert_eq!(page.matches("<h1").count(), 1, "{page}");
        // Style and script come from files: the policy of the page forbids anything else.
        for word in ["style=", "onclick", "<style", "javascript:"] {
            assert!(!page.contains(word), "{word}: {page}");
        }
        let scripts = page.matches("<script").count();
        assert!(scripts == 1 && page.contains("<script src=\"/assets/console.js\" defer>"));
        // Column heads and labels say what they belong to.
        for head in page.split("<th").skip(1).filter(|rest| !rest.starts_with("ead")) {
            assert!(head.starts_with(" scope="), "{head}");
        }
        for label in page.split("<label").skip(1) {
            let id = label.split("for=\"").nth(1).and_then(|rest| rest.split('"').next());
            let id = id.expect("a label is for a field");
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
        for form in page.split("<form").skip(1).filter(|form| form.contains("method=\"post\"")) {
            let form = form.split("</form>").next().unwrap_or_default();
            assert!(form.contains("name=\"csrf\""), "{form}");
        }
    }
}

#[test]
fn nothing_that_is_shown_becomes_markup() {
    let mut row = copy(EVIL, EVIL, EVIL);
    row.status_reason = EVIL.into();
    row.facts = Some(CopyFacts {
        fault: EVIL.into(),
        shortage: EVIL.into(),
        log_held_by: vec![LogHolder {
            holder: EVIL.into(),
            reason: EVIL.into(),
            ..Default::default()
        }],
        ..CopyFacts::default()
    });
    let mut evil = view();
    evil.cluster.problems = vec![EVIL.into()];
    evil.cluster.members = vec![member_status(EVIL)];
    evil.copies = vec![row.clone()];
    let info = DatabaseInfo { name: EVIL.into(), blocked: EVIL.into(), ..Default::default() };
    let database_view = DatabaseView { info, copies: vec![row.clone()], ..Default::default() };
    let event = EventInfo {
        kind: EVIL.into(),
        subject: EVIL.into(),
        message: EVIL.into(),
        ..Default::default()
    };
    let moves = vec![MoveRow {
        database: EVIL.into(),
        message: EVIL.into(),
        result: "refused".into(),
        ..Default::default()
    }];
    let action = Action::Suspend {
        database: EVIL.into(),
        member: EVIL.into(),
        activation_only: false,
        comment: EVIL.into(),
    };
    let evil_words =
        Expected { sentences: vec![EVIL.into()], refusal: Some((EVIL.into(), "precondition")) };
    let frame = Frame { notice: EVIL.into(), ..frame() };
    for page in [
        login(&frame, EVIL, EVIL, EVIL),
        overview(&frame, &evil),
        database(&frame, &database_view),
        member(
            &frame,
            &MemberView {
                status: member_status(EVIL),
                copies: vec![row],
                volumes: vec![volume(EVIL, EVIL)],
                health: vec![],
            },
        ),
        events(&frame, &[event]),
        confirm(&frame, &action, &Plan::Moves(moves)),
        confirm(&frame, &action, &Plan::Expected(evil_words)),
        refused(&frame, &Refused { message: EVIL.into(), back: EVIL.into(), ..Default::default() }),
    ] {
        assert!(!page.contains("<script>"), "{page}");
        assert!(!page.contains("\"&\""), "{page}");
    }
}

#[test]
fn a_switchover_shows_its_checks_and_offers_to_leave_some_out() {
    let form = fields(b"to=m2&skip_lag=on&comment=why");
    let action = Action::of(&["databases", "DB1", "switchover"], &form).unwrap();
    let check = |verdict: &str| MoveCheckRow {
        member: "m2".into(),
        check: "copy_queue".into(),
        measured: "12 logs".into(),
        threshold: "10 logs".into(),
        verdict: verdict.into(),
        skip: "--skip-lag-checks".into(),
    };
    let row = |result: &str, verdict: &str| MoveRow {
        database: "DB1".into(),
        from: "m1".into(),
        to: "m2".into(),
        result: result.into(),
        code: "queue_too_long".into(),
        message: "its queue is too long".into(),
        checks: vec![check(verdict)],
        ..MoveRow::default()
    };
    let page = confirm(&frame(), &action, &Plan::Moves(vec![row("would_move", "overridden")]));
    let text = text_of(&page);
    assert!(text.contains("DB1 would move from m1 to m2"), "{text}");
    assert!(text.contains("copy queue ! overridden 12 logs 10 logs DB1@m2"), "{text}");
    assert!(text.contains("0 of 1 checks passed"), "{text}");
    assert!(page.contains("name=\"skip_lag\" checked") && page.contains("value=\"why\""), "{page}");
    let page = confirm(&frame(), &action, &Plan::Moves(vec![row("refused", "failed")]));
    assert!(text_of(&page).contains("It would be refused: its queue is too long queue_too_long"));
    let no_skips = MoveSkips::default();
    assert!(no_skips.names().is_empty());
}

#[test]
fn what_would_be_refused_has_no_button() {
    let action = Action::Seed {
        database: "DB1".into(),
        member: "m2".into(),
        source: String::new(),
        catalog_only: false,
    };
    let check = |passed| SeedCheckRow {
        name: "suspended".into(),
        passed,
        found: "it copies".into(),
        code: "not_suspended".into(),
    };
    let button = ">Seed</button>";
    assert!(!confirm(&frame(), &action, &Plan::Seed(vec![check(false)])).contains(button));
    assert!(confirm(&frame(), &action, &Plan::Seed(vec![check(true)])).contains(button));
}

#[test]
fn what_has_no_what_if_is_said_in_words_before_it_is_done() {
    let action = Action::Cancel { operation: "id".into() };
    let button = ">Cancel operation</button>";
    let plan = |refusal| {
        let sentences = vec!["The seed would end now.".to_owned()];
        confirm(&frame(), &action, &Plan::Expected(Expected { sentences, refusal }))
    };
    let page = plan(None);
    assert!(text_of(&page).contains("The seed would end now.") && page.contains(button), "{page}");
    let page = plan(Some(("it ends by itself".to_owned(), "precondition")));
    let text = text_of(&page);
    assert!(text.contains("It would be refused: it ends by itself precondition"), "{text}");
    assert!(!page.contains(button), "{page}");
}

#[test]
fn a_seed_shows_how_far_it_is() {
    let figures =
        SeedFigures { bytes_done: 50, bytes: 200, seconds_left: Some(90), ..Default::default() };
    let one = Operation {
        kind: "seed_copy".into(),
        subject: "DB1@m2".into(),
        state: "running".into(),
        phase: "fetching".into(),
        seed: Some(figures),
        ..Operation::default()
    };
    let page = operation(&frame(), &one);
    assert!(page.contains("<progress max=\"200\" value=\"50\""), "{page}");
    let text = text_of(&page);
    assert!(text.contains("25 % fetching") && text.contains("1 min 30 s left"), "{text}");
    assert!(page.contains("data-live=\"yes\""));
}

#[test]
fn a_decision_has_a_column_for_each_candidate_and_a_row_for_each_criterion() {
    let candidate = |member: &str, chosen, met: bool| DecisionCandidate {
        member: member.into(),
        chosen,
        excluded: !met,
        answer_age_millis: met.then_some(3),
        criteria: vec![Criterion { name: "may_activate".into(), measured: "x".into(), met }],
    };
    let answer = ExplainDecisionResponse {
        candidates: vec![candidate("m2", true, true), candidate("m1", false, false)],
        agrees: true,
        verdict: "lossless".into(),
        chosen: "m2".into(),
        ..ExplainDecisionResponse::default()
    };
    let text = text_of(&decision(&frame(), 7, &answer));
    assert!(text.contains("Criterion m2 m1"), "{text}");
    assert!(text.contains("may activate ✓ yes x ✗ no x"), "{text}");
    assert!(text.contains("Decided again from its inputs it is the same."), "{text}");
}

#[test]
fn events_are_said_in_words_and_requests_are_folded() {
    let event = |kind: &str, message: &str| EventInfo {
        kind: kind.into(),
        message: message.into(),
        ..EventInfo::default()
    };
    let id = "01010101-0101-0101-0101-010101010101";
    let epoch = r#""epoch":{"recovery":0,"counter":4}"#;
    let activated = format!("{{{epoch},\"target\":\"{id}\",\"tag\":null,\"of\":[1,2]}}");
    let asked =
        r#"{"by":"ann (operator)","call":"move_databases","request":"Req","outcome":"done"}"#;
    let all = [event("activated", &activated), event("asked", asked), event("note", "hello")];
    let text = text_of(&events(&frame(), &all));
    for word in [
        "epoch 0.4, of 1 2, target 01010101",
        "ann (operator) move databases ✓ done Request Req",
        "note hello",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn forms_are_still_so_that_nobody_loses_what_was_filled_in() {
    let page = confirm(&frame(), &Action::Redistribute { by_site: false }, &Plan::Moves(vec![]));
    assert!(page.contains("data-live=\"no\"") && page.contains("No database has to move."));
}

#[test]
fn a_mount_that_would_lose_or_find_nothing_has_no_button() {
    let action = Action::Mount { database: "DB1".into() };
    let open = PreviewMountResponse { target: "m2".into(), ..Default::default() };
    let lossy = PreviewMountResponse { loss: Some(Default::default()), ..open.clone() };
    for (preview, word, may) in [
        (open.clone(), "without loss.", true),
        (PreviewMountResponse { mounted: true, ..open }, "is mounted already", true),
        (lossy, "keelson database mount --accept-loss", false),
        (PreviewMountResponse::default(), "no copy that may be opened answers", false),
    ] {
        let page = confirm(&frame(), &action, &Plan::Mount(preview.into()));
        let text = text_of(&page);
        assert!(text.contains(word) && page.contains(">Mount</button>") == may, "{text}");
    }
    let agreed = confirm(&frame(), &action, &Plan::Agreed);
    assert!(text_of(&agreed).contains("The leader would do it now"));
}
