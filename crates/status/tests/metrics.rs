//! The metrics of a full snapshot, and whether dashboards and alerts ask for metrics that exist.

use std::collections::BTreeSet;

use keelson_status::{Snapshot, metrics};
use keelson_wire::v1;

fn position(generation: u64) -> Option<v1::Position> {
    Some(v1::Position { generation, offset: 4096 })
}

fn facts() -> v1::CopyFacts {
    v1::CopyFacts {
        status: "Healthy".into(),
        watermarks: Some(v1::Watermarks {
            truncated: position(1),
            checkpointed: position(2),
            replayed: position(3),
            inspected: position(4),
            generated: position(5),
            committed: position(4),
        }),
        copy_queue_bytes: 1,
        replay_queue_bytes: 3 << 20,
        log_seconds_to_full: Some(3600),
        read_latency_micros: Some(250),
        written_log_bytes: 5000,
        replayed_log_bytes: 4000,
        scrub: Some(v1::ScrubFacts { found: 3, mended: 2, ..Default::default() }),
        content_index: Some(v1::ContentIndexFacts {
            state: "Crawling".into(),
            backlog_bytes: 77,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn volumes() -> Vec<v1::VolumeFacts> {
    let volume = |(path, state): (&str, &str)| v1::VolumeFacts {
        path: path.into(),
        state: state.into(),
        free_bytes: Some(1024),
        total_bytes: Some(4096),
        ..Default::default()
    };
    [("/v/a", "healthy"), ("/v/b", "failed")].map(volume).into()
}

fn places() -> Vec<v1::PlaceFacts> {
    let place = |(name, free): (&str, u64)| v1::PlaceFacts {
        name: name.into(),
        free_bytes: Some(free),
        total_bytes: Some(4 << 30),
        read_latency_micros: Some(100),
        ..Default::default()
    };
    [("log", 1 << 30), ("data", 2 << 30)].map(place).into()
}

fn losses() -> Vec<v1::LossReceipt> {
    [Some(3), None, Some(4)]
        .map(|missing_logs| v1::LossReceipt { missing_logs, ..Default::default() })
        .into()
}

fn timings(of: &str) -> v1::Timings {
    v1::Timings {
        of: of.into(),
        first_bound_micros: 64,
        counts: vec![1, 2, 0, 1],
        sum_micros: 1_500,
    }
}

fn database() -> v1::DatabaseInfo {
    v1::DatabaseInfo {
        name: "DB1".into(),
        epoch: Some(v1::Epoch { recovery: 0, counter: 7 }),
        state: "established".into(),
        mount_intent: "mounted".into(),
        active_member: "m2".into(),
        commit_constraint: "second_copy".into(),
        losses: losses(),
        losses_ever: 19,
        last_loss_unix_millis: 1_700_000_000_500,
        copies: vec![v1::CopyInfo { participant: true, ..Default::default() }; 2],
        ..Default::default()
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        version: "0.1.0".into(),
        member: "m1".into(),
        site: "north".into(),
        certificate_expires_unix_seconds: 2_000_000_000,
        facts: v1::MemberFactsResponse {
            data_process_up: true,
            lease_left_millis: 900,
            resident_bytes: 1 << 26,
            copies: vec![facts()],
            volumes: volumes(),
            places: places(),
            timings: ["queue", "commit", "request", "log_sync", "log_arrival"].map(timings).into(),
            log_written_bytes: 12_345,
            calls: vec![v1::CallCount { call: "Kv.Put".into(), outcome: "ok".into(), count: 5 }],
            call_times: vec![timings("Kv.Put")],
            traffic: vec![v1::PeerTraffic {
                member: "m2".into(),
                log_sent_bytes: 10,
                log_sent_raw_bytes: 25,
                seed_received_bytes: 40,
                sessions_begun: 3,
                sessions_broken: 2,
                ..Default::default()
            }],
            activations: vec![v1::ActivationCount {
                kind: "failover".into(),
                reason: "death_certified".into(),
                outcome: "with_loss".into(),
                count: 2,
                lost_logs: 6,
                unknown_losses: 1,
            }],
            activation_times: vec![timings("failover")],
            audit_lines: 7,
            audit_dropped_lines: 2,
            spans_exported: 30,
            spans_dropped: 4,
            ..Default::default()
        },
        copies: vec![v1::CopyStatusRow {
            database: "DB1".into(),
            member: "m1".into(),
            status: "Healthy".into(),
            participant: true,
            facts: Some(facts()),
            ..Default::default()
        }],
        cluster: Some(v1::ClusterStatusResponse { leader: "m1".into(), ..Default::default() }),
        databases: vec![database()],
        operations: vec![v1::Operation {
            state: "running".into(),
            subject: "DB1@m3".into(),
            done: 10,
            total: 100,
            seed: Some(v1::SeedFigures::default()),
            ..Default::default()
        }],
    }
}

#[test]
fn a_full_snapshot_has_every_figure() {
    let text = metrics(&snapshot());
    for line in [
        "keelson_member_info{member=\"m1\",site=\"north\",version=\"0.1.0\"} 1",
        "keelson_member_lease_left_seconds 0.9",
        "keelson_spans_total{process=\"data\",outcome=\"exported\"} 30",
        "keelson_spans_total{process=\"data\",outcome=\"dropped\"} 4",
        "keelson_spans_total{process=\"control\",outcome=\"dropped\"} 0",
        "keelson_tls_certificate_expires_timestamp_seconds 2000000000",
        "keelson_cluster_leader 1",
        "keelson_database_epoch{database=\"DB1\"} 7",
        "keelson_database_participants{database=\"DB1\"} 2",
        "keelson_database_active_info{database=\"DB1\",active=\"m2\",constraint=\"second_copy\"} 1",
        "keelson_copy_status_info{database=\"DB1\",status=\"Healthy\"} 1",
        "keelson_copy_position_generation{database=\"DB1\",mark=\"inspected\"} 4",
        "keelson_database_losses_total{database=\"DB1\"} 19",
        "keelson_database_last_loss_timestamp_seconds{database=\"DB1\"} 1700000000.5",
        "keelson_database_loss_receipts{database=\"DB1\"} 3",
        "keelson_database_lost_logs{database=\"DB1\"} 7",
        "keelson_database_unknown_losses{database=\"DB1\"} 1",
        "keelson_copy_log_bytes_total{database=\"DB1\",mark=\"inspected\"} 5000",
        "keelson_copy_log_bytes_total{database=\"DB1\",mark=\"replayed\"} 4000",
        "keelson_copy_queue_logs{database=\"DB1\",queue=\"copy\"} 1",
        "keelson_copy_queue_logs{database=\"DB1\",queue=\"replay\"} 3",
        "keelson_copy_scrub_unmended{database=\"DB1\"} 1",
        "keelson_catalog_state_info{database=\"DB1\",state=\"Crawling\"} 1",
        "keelson_volume_free_bytes{volume=\"data\"} 2147483648",
        "keelson_volume_free_bytes{volume=\"/v/a\"} 1024",
        "keelson_volume_size_bytes{volume=\"log\"} 4294967296",
        "keelson_volume_size_bytes{volume=\"/v/a\"} 4096",
        "keelson_volume_state_info{volume=\"/v/b\",state=\"failed\"} 1",
        "keelson_volume_log_full_in_seconds 3600",
        "keelson_volume_read_latency_seconds 0.00025",
        "keelson_seed_done_bytes{copy=\"DB1@m3\"} 10",
        "keelson_write_stage_seconds_bucket{stage=\"commit\",le=\"0.000064\"} 1",
        "keelson_write_stage_seconds_bucket{stage=\"commit\",le=\"0.000256\"} 3",
        "keelson_write_stage_seconds_count{stage=\"commit\"} 4",
        "keelson_log_sync_seconds_sum 0.0015",
        "keelson_log_written_bytes_total 12345",
        "keelson_log_arrival_seconds_count 4",
        "keelson_requests_total{process=\"data\",call=\"Kv.Put\",outcome=\"ok\"} 5",
        "keelson_request_seconds_count{process=\"data\",call=\"Kv.Put\"} 4",
        "keelson_network_bytes_total{peer=\"m2\",what=\"log\",direction=\"sent\"} 10",
        "keelson_network_bytes_total{peer=\"m2\",what=\"seed\",direction=\"received\"} 40",
        "keelson_network_raw_bytes_total{peer=\"m2\",what=\"log\",direction=\"sent\"} 25",
        "keelson_log_sessions_total{peer=\"m2\",event=\"broken\"} 2",
        "keelson_activations_total{kind=\"failover\",reason=\"death_certified\",\
         outcome=\"with_loss\"} 2",
        "keelson_activation_lost_logs_total{kind=\"failover\",reason=\"death_certified\"} 6",
        "keelson_activation_unknown_losses_total{kind=\"failover\",reason=\"death_certified\"} 1",
        "keelson_activation_seconds_count{kind=\"failover\"} 4",
        "keelson_audit_lines_total{outcome=\"written\"} 7",
        "keelson_audit_lines_total{outcome=\"dropped\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn a_member_without_a_cluster_tells_of_itself() {
    let text = metrics(&Snapshot { member: "m1".into(), ..Snapshot::default() });
    assert!(text.contains("keelson_cluster_joined 0\n") && !text.contains("keelson_cluster_term"));
}

#[test]
fn a_member_without_copies_tells_its_room() {
    let mut snapshot = snapshot();
    snapshot.facts.copies.clear();
    snapshot.facts.places[0].seconds_to_full = Some(60);
    // A disk that does not say has no sample, rather than no room.
    snapshot.facts.places[1].free_bytes = None;
    let text = metrics(&snapshot);
    for line in [
        "keelson_volume_free_bytes{volume=\"log\"} 1073741824",
        "keelson_volume_size_bytes{volume=\"data\"} 4294967296",
        "keelson_volume_log_full_in_seconds 60",
        "keelson_volume_read_latency_seconds 0.0001",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("keelson_volume_free_bytes{volume=\"data\"}"));
    assert!(!text.contains("{volume=\"/v/b\"}"), "nothing is written there");
}

/// Families of the exposition, with the names under which histograms are asked for.
fn families() -> BTreeSet<String> {
    let text = metrics(&snapshot());
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = kinds.flat_map(|(name, kind)| match kind {
        "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
        _ => vec![name.to_owned()],
    });
    names.collect()
}

#[test]
fn names_follow_the_house_style_and_are_told_once() {
    let text = metrics(&snapshot());
    let declared: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let unique: BTreeSet<_> = declared.iter().collect();
    assert_eq!(declared.len(), unique.len());
    for line in declared {
        let name = line.split(' ').nth(2).unwrap();
        let counter = line.ends_with(" counter");
        assert!(name.starts_with("keelson_") && name.split('_').count() >= 3, "{name}");
        assert_eq!(name.ends_with("_total"), counter, "{name}");
        for scaled in ["_millis", "_ms", "_micros", "_mb", "_kb"] {
            assert!(!name.ends_with(scaled), "{name}: base units only");
        }
    }
}

/// `promtool` runs them (`cargo xtask check`); that there are any is checked here.
#[test]
fn every_alert_is_shown_firing_and_quiet() {
    let tests = include_str!("../../../deploy/monitoring/alerts.test.yml");
    let tested = |alert: &str, quiet: bool| {
        // One on each line, or one after each name.
        tests.split("alertname: ").skip(1).any(|test| {
            let name = test.split(|c: char| !c.is_ascii_alphanumeric()).next();
            name == Some(alert) && test.contains("exp_alerts: []") == quiet
        })
    };
    let alerts = include_str!("../../../deploy/monitoring/alerts.yml");
    let alerts: Vec<_> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20);
    for alert in alerts {
        assert!(tested(alert, false), "no test shows {alert} firing");
        assert!(tested(alert, true), "no test shows {alert} quiet");
    }
}

/// `promtool` checks their grammar (`cargo xtask check`); that the metrics exist is checked here.
#[test]
fn dashboards_and_alerts_ask_for_metrics_that_exist() {
    let known = families();
    for (file, text) in [
        ("alerts.yml", include_str!("../../../deploy/monitoring/alerts.yml")),
        ("alerts.test.yml", include_str!("../../../deploy/monitoring/alerts.test.yml")),
        ("dashboard.json", include_str!("../../../deploy/monitoring/dashboard.json")),
    ] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<_> = words.filter(|word| word.starts_with("keelson_")).collect();
        assert!(!asked.is_empty(), "{file}");
        for name in asked {
            assert!(known.contains(name), "{file} asks for {name}, which no member tells");
        }
    }
}
