//! Medians, ratios and tables from made-up samples.

use super::*;

fn results(samples: &[(Row, Kind, f64)]) -> Results {
    let mut results = Results::default();
    for (row, kind, value) in samples {
        results.add(*row, *kind, Sample::new(*value));
    }
    results
}

#[test]
fn a_ratio_says_how_many_times_better_we_are_both_ways_round() {
    let results = results(&[
        (Row::Puts64, Kind::Keelson, 15_000.0),
        (Row::Puts64, Kind::Etcd, 5_000.0),
        (Row::Switchover, Kind::Keelson, 10.0),
        (Row::Switchover, Kind::Etcd, 5.0),
    ]);
    assert_eq!(results.ratio(Row::Puts64, Kind::Keelson, Kind::Etcd), Some(3.0));
    assert_eq!(results.ratio(Row::Switchover, Kind::Keelson, Kind::Etcd), Some(0.5));
    assert_eq!(results.ratio(Row::Puts1, Kind::Keelson, Kind::Etcd), None);
}

#[test]
fn nothing_is_divided_by_zero() {
    let results = results(&[(Row::Seed, Kind::Keelson, 9.0), (Row::Seed, Kind::Postgres, 0.0)]);
    assert_eq!(results.ratio(Row::Seed, Kind::Keelson, Kind::Postgres), None);
}

#[test]
fn rounds_are_summed_up_by_their_median() {
    let values = [9.0, 1.0, 2.0].map(|value| (Row::Puts1, Kind::Redis, value));
    assert_eq!(results(&values).median(Row::Puts1, Kind::Redis), Some(2.0));
    assert_eq!(quantile(&[], 0.5), None);
    assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), Some(2.0));
    assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.95), Some(4.0));
}

#[test]
fn tables_leave_out_what_nobody_has_and_mark_what_one_lacks() {
    let mut results = results(&[
        (Row::Puts64, Kind::Keelson, 15_462.4),
        (Row::Puts64, Kind::Redis, 7_731.2),
        (Row::Switchover, Kind::Keelson, 21.04),
        (Row::Switchover, Kind::Keelson, 30.0),
    ]);
    results.add(Row::Disk, Kind::Keelson, Sample::with_latencies(8_000.0, (0.1, 0.25)));
    let expected = "\
|  | Keelson | Redis |
| --- | ---: | ---: |
| puts, 64 clients | 15,462/s | 7,731/s |
| gap of a planned switchover | 21.0 ms, p95 30.0 of 2 | – |
| fdatasync of 4 KiB, 1 writer, no system | 8,000/s | – |

| p50 / p99, ms | Keelson | Redis |
| --- | ---: | ---: |
| fdatasync of 4 KiB, 1 writer, no system | 0.10 / 0.25 | – |

| times better | Keelson : Redis |
| --- | ---: |
| puts, 64 clients | 2.00 |
";
    assert_eq!(results.tables(), expected);
}

#[test]
fn a_gap_without_time_to_find_out_is_a_bound_and_so_is_its_ratio() {
    let mut results = Results::default();
    for row in [Row::Switchover, Row::MemberKilled] {
        results.add(row, Kind::Keelson, Sample::new(40.0));
        results.add(row, Kind::Postgres, Sample::new(20.0));
    }
    let text = results.tables();
    for line in [
        "| gap of a planned switchover | 40.0 ms, p95 40.0 of 1 | 20.0 ms, p95 20.0 of 1 |",
        "| gap of a planned switchover | 0.50 |",
        "| 40.0 ms, p95 40.0 of 1 | ≥ 20.0 ms, p95 20.0 of 1 |",
        "| gap after kill -9 of the active member | ≥ 0.50 |",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let rows = results.json()["results"].take();
    let bounds = rows.as_array().unwrap().iter().filter(|row| row["is_lower_bound"] == true);
    assert_eq!(bounds.count(), 1);
}

#[test]
fn without_a_peer_there_are_no_ratios() {
    let text = results(&[(Row::Puts1, Kind::Keelson, 1.0)]).tables();
    assert!(!text.contains("times better"), "{text}");
    assert_eq!(pairs(&[Kind::Postgres, Kind::Etcd]), []);
    let both = [Kind::Keelson, Kind::KeelsonPlain, Kind::Etcd];
    let expected = [(Kind::Keelson, Kind::Etcd), (Kind::KeelsonPlain, Kind::Etcd)];
    assert_eq!(pairs(&both), expected);
}

#[test]
fn json_has_samples_medians_and_ratios() {
    let data = results(&[(Row::Puts1, Kind::Keelson, 3.0), (Row::Puts1, Kind::Etcd, 2.0)]).json();
    assert_eq!(data["results"][0]["keelson_times_better"], Value::Null);
    assert_eq!(data["results"][1]["system"], "etcd");
    assert_eq!(data["results"][1]["keelson_times_better"], 1.5);
    assert_eq!(data["results"][1]["samples"][0]["value"], 2.0);
}

#[test]
fn numbers_have_three_digits_or_groups_of_three() {
    let cases = [(0.126, "0.1"), (99.94, "99.9"), (100.4, "100"), (1_234_567.0, "1,234,567")];
    for (value, text) in cases {
        assert_eq!(number(value), text);
    }
}
