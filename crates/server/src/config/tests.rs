//! Checks of the configuration: every refusal, the defaults, the sample and the explanation.

use std::time::Duration;

use super::*;

const NEEDED: &str = "name = 'm1'\ndata_dir = 'data'\n";
const TLS: &str = "[tls]\nca = 'ca.pem'\ncert = 'm1.pem'\nkey = '/keys/m1.key'\n";

fn parse(more: &str) -> Result<Config, Vec<String>> {
    Config::parse(Path::new("/etc/keelson/m1.toml"), &format!("{NEEDED}{more}{TLS}"))
}

#[track_caller]
fn refused(more: &str, expected: &str) {
    let problems = parse(more).unwrap_err().join("; ");
    assert!(problems.contains(expected), "{problems:?} lacks {expected:?}");
}

#[test]
fn defaults_hold_and_paths_start_at_the_file() {
    let config = parse("").unwrap();
    assert_eq!(config.data_dir(), Path::new("/etc/keelson/data"));
    assert_eq!(config.log_dir(), config.data_dir());
    assert_eq!(config.run_dir(), config.data_dir());
    assert_eq!(config.tls().ca, Path::new("/etc/keelson/ca.pem"));
    assert_eq!(config.tls().key, Path::new("/keys/m1.key"));
    assert_eq!(config.advertise_control(), "127.0.0.1:7400");
    assert_eq!((config.profile(), config.log_level()), (Profile::Lan, "info"));
    assert!(config.log_file().is_none() && config.unknown_keys().is_empty());
}

#[test]
fn what_is_wrong_is_named_with_its_value() {
    refused("site = 'a/b'\n", "site = \"a/b\"");
    refused("control_address = '0.0.0.0:7400'\n", "advertise_control = \"0.0.0.0:7400\"");
    refused("data_address = '127.0.0.1:0'\n", "advertise_data");
    refused("data_address = '127.0.0.1:7400'\n", "both \"127.0.0.1:7400\"");
    refused("control_address = 'nonsense'\n", "control_address = \"nonsense\"");
    refused("profile = 'moon'\n", "profile = \"moon\"");
    refused("site = 7\n", "site = 7: must be text, but is integer");
    assert!(parse("control_address = '0.0.0.0:7400'\nadvertise_control = 'h:7400'\n").is_ok());
    let none = Config::parse(Path::new("x"), "").unwrap_err();
    let needed = ["name", "data_dir", "tls.ca", "tls.cert", "tls.key"];
    assert_eq!(none, needed.map(|key| format!("{key} is missing")));
    let syntax = Config::parse(Path::new("x"), "name = \n").unwrap_err();
    assert!(syntax.len() == 1 && syntax[0].contains("line 1"), "{syntax:?}");
}

#[test]
fn metrics_are_off_or_local_or_protected() {
    assert_eq!(parse("").unwrap().metrics_address(), None);
    let at = |address: &str| parse(&format!("metrics_address = '{address}'\n")).unwrap();
    let local = at("127.0.0.1:7402");
    assert_eq!(
        (local.metrics_address(), local.metrics_are_local()),
        (Some("127.0.0.1:7402"), true)
    );
    assert!(at("[::1]:7402").metrics_are_local() && !at("0.0.0.0:7402").metrics_are_local());
    refused("metrics_address = '127.0.0.1:7401'\n", "metrics_address and data_address are both");
    refused("metrics_address = 'nonsense'\n", "metrics_address = \"nonsense\"");
}

#[test]
fn all_problems_are_shown_at_once() {
    let problems = parse("site = '-'\nprofile = 'x'\n").unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn unknown_keys_are_listed_and_do_not_stop_a_start() {
    let text = format!("{NEEDED}colour = 'red'\n{TLS}cipher = 'x'\n[web]\nport = 1\n");
    let config = Config::parse(Path::new("x"), &text).unwrap();
    assert_eq!(config.unknown_keys(), ["colour", "tls.cipher", "web"]);
}

#[test]
fn the_sample_parses_with_and_without_its_comments() {
    let text = sample();
    let config = Config::parse(Path::new("/x/keelson.toml"), &text).unwrap();
    assert_eq!((config.name().as_str(), config.profile()), ("m1", Profile::Lan));
    let assigned = |line: &str| line.trim_start_matches("# ").contains(" = \"");
    let full: Vec<_> = text
        .lines()
        .map(|line| if assigned(line) { line.trim_start_matches("# ") } else { line })
        .collect();
    let config = Config::parse(Path::new("/x/keelson.toml"), &full.join("\n")).unwrap();
    assert!(config.log_file().is_some() && config.unknown_keys().is_empty());
    let written = full.join("\n").parse::<toml::Table>().unwrap();
    let count = |table: &toml::Table| table.len();
    let tables: Vec<_> = written.values().filter_map(|v| v.as_table()).map(count).collect();
    let keys = count(&written) - tables.len() + tables.iter().sum::<usize>();
    assert_eq!(keys, FIELDS.len(), "every field is in the sample");
}

/// `keelson config explain --sample >deploy/keelson.toml` writes it anew.
#[test]
fn the_sample_in_deploy_is_what_the_documentation_of_the_keys_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/keelson.toml");
    assert_eq!(std::fs::read_to_string(path).unwrap(), sample());
}

/// The members of `deploy/compose.yaml` are configured as it expects them.
#[test]
fn the_members_in_deploy_are_configured_alike() {
    for (member, site) in [("m1", "north"), ("m2", "north"), ("m3", "south"), ("m4", "south")] {
        let path = format!("../../deploy/compose/{member}.toml");
        let config = Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        assert_eq!((config.name().as_str(), config.site().as_str()), (member, site));
        assert_eq!(config.advertise_control(), format!("{member}:7400"));
        assert_eq!(config.console_address(), Some("0.0.0.0:7404"));
        let key = format!("/etc/keelson/identity/{member}.key");
        assert_eq!(config.tls().key, Path::new(&key));
        assert!(config.unknown_keys().is_empty());
    }
}

#[test]
fn the_audit_is_bounded_by_default_and_as_told() {
    let with = |lines: &str| Config::parse(Path::new("/x"), &format!("{NEEDED}{TLS}{lines}"));
    let kept = |lines: &str| with(lines).map(|config| config.audit());
    let usual = kept("").unwrap();
    assert_eq!((usual.file_bytes, usual.files), (16 << 20, 8));
    let told = kept("\n[audit]\nfile_size = '64 KiB'\nfiles = '2'\n").unwrap();
    assert_eq!((told.file_bytes, told.files), (64 << 10, 2));
    for wrong in ["file_size = '1 KiB'", "file_size = 'much'", "files = '0'", "files = '-1'"] {
        assert_eq!(kept(&format!("\n[audit]\n{wrong}\n")).unwrap_err().len(), 1, "{wrong}");
    }
}

#[test]
fn traces_are_off_or_go_where_and_how_they_are_told() {
    let with = |lines: &str| {
        let text = format!("{NEEDED}{TLS}\n[telemetry]\n{lines}\n");
        Config::parse(Path::new("/etc/keelson/m1.toml"), &text)
    };
    assert_eq!(parse("").unwrap().telemetry(), None);
    assert_eq!(with("endpoint = ''\nsampling_ratio = '0.5'").unwrap().telemetry(), None);
    let usual = with("endpoint = 'http://collector:4317'").unwrap();
    let usual = usual.telemetry().unwrap();
    assert_eq!((usual.endpoint(), usual.sampling_ratio()), ("http://collector:4317", 1.0));
    assert_eq!((usual.export_timeout(), usual.ca()), (Duration::from_secs(10), None));
    let told = with(
        "endpoint = 'https://10.0.0.1:4317/'\nsampling_ratio = '0.125'\n\
        export_timeout = '250ms'\nca = 'collector.pem'",
    )
    .unwrap();
    let told = told.telemetry().unwrap();
    assert_eq!((told.sampling_ratio(), told.export_timeout()), (0.125, Duration::from_millis(250)));
    assert_eq!(told.ca(), Some(Path::new("/etc/keelson/collector.pem")));
    let own = with("endpoint = 'https://10.0.0.1:4317'").unwrap();
    assert_eq!(own.telemetry().unwrap().ca(), Some(Path::new("/etc/keelson/ca.pem")));
    for wrong in [
        "endpoint = 'collector:4317'",
        "endpoint = 'http://collector'",
        "endpoint = 'http://collector:4317/v1/traces'",
        "endpoint = 'http://collector:4317?x=y'",
        "endpoint = 'http://user@collector:4317'",
        "endpoint = 'ftp://collector:4317'",
        "endpoint = 'http://collector:0'",
        "sampling_ratio = '1.5'",
        "sampling_ratio = '-0.1'",
        "sampling_ratio = 'NaN'",
        "sampling_ratio = 'all'",
        "export_timeout = '1ms'",
        "export_timeout = '2m'",
        "export_timeout = 'soon'",
    ] {
        let problems = with(wrong).unwrap_err();
        let (key, value) = wrong.split_once(" = ").unwrap();
        let named = format!("telemetry.{key} = {}", value.replace('\'', "\""));
        assert!(problems.len() == 1 && problems[0].starts_with(&named), "{wrong}: {problems:?}");
    }
}

#[test]
fn a_check_looks_at_the_authority_of_the_collector() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m1.toml");
    let lines = "telemetry.endpoint = 'https://c:4317'\ntelemetry.ca = 'collector.pem'\n";
    std::fs::write(&path, format!("{NEEDED}{lines}{TLS}")).unwrap();
    for file in ["ca.pem", "m1.pem"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    let message = check(&path).unwrap_err().message;
    assert!(message.contains("collector.pem cannot be read"), "{message}");
    std::fs::write(dir.path().join("collector.pem"), "").unwrap();
    let message = check(&path).unwrap_err().message;
    assert!(!message.contains("collector.pem"), "{message}");
}

#[test]
fn the_console_has_an_address_of_its_own() {
    let with = |lines: &str| Config::parse(Path::new("x"), &format!("{NEEDED}{lines}{TLS}"));
    let console = |lines: &str| with(lines).unwrap().console_address().map(str::to_owned);
    assert_eq!(console(""), None);
    let own = "console_address = '127.0.0.1:7404'\n";
    assert_eq!(console(own).as_deref(), Some("127.0.0.1:7404"));
    for taken in [
        "console_address = '127.0.0.1:7400'\n".to_owned(),
        "console_address = '127.0.0.1:7401'\n".to_owned(),
        format!("{own}metrics_address = '127.0.0.1:7404'\n"),
        "console_address = 'nowhere'\n".to_owned(),
    ] {
        assert_eq!(with(&taken).unwrap_err().len(), 1, "{taken}");
    }
}

#[test]
fn every_field_is_explained() {
    let text = explain();
    for field in FIELDS {
        assert!(text.contains(field.key) && text.contains(field.meaning), "{}", field.key);
    }
}

#[test]
fn a_check_is_strict() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m1.toml");
    assert_eq!(check(&path).unwrap_err().code, "bad_configuration");
    std::fs::write(&path, format!("{NEEDED}colour = 'red'\n{TLS}")).unwrap();
    assert!(check(&path).unwrap_err().message.contains("colour"));
    std::fs::write(&path, format!("{NEEDED}{TLS}")).unwrap();
    let missing = check(&path).unwrap_err();
    assert_eq!(missing.code, "bad_configuration");
    assert!(missing.message.contains("3 problems:"), "{}", missing.message);
    for file in ["ca.pem", "m1.pem"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    assert_eq!(check(&path).unwrap_err().code, "tls_file_missing");
}

#[test]
fn a_check_names_every_problem_of_the_file_its_keys_and_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m1.toml");
    let text = "data_dir = 7\nsite = 'a/b'\nprofile = 'moon'\ncolour = 'red'\n\
        data_quota = 'much'\nlog_quota = '127 MiB'\n\
        control_address = '0.0.0.0:7400'\n[tls]\nca = 'ca.pem'\ncert = 'm1.pem'\n\
        key = 'm1.key'\ncipher = 'x'\n[log]\nlevel = 'a=b=c'\n";
    std::fs::write(&path, text).unwrap();
    let problem = check(&path).unwrap_err();
    assert_eq!(problem.code, "bad_configuration");
    let expected = [
        "name is missing",
        "data_dir = 7",
        "site = \"a/b\"",
        "profile = \"moon\"",
        "unknown keys: colour, tls.cipher",
        "advertise_control = \"0.0.0.0:7400\"",
        "ca.pem cannot be read",
        "m1.pem cannot be read",
        "m1.key cannot be read",
        "log.level = \"a=b=c\"",
        "data_quota = \"much\" is no size",
        "log_quota = \"127 MiB\" is less than 128 MiB",
    ];
    for expected in expected {
        assert!(problem.message.contains(expected), "{expected:?} is not in {}", problem.message);
    }
    assert!(problem.message.contains("12 problems:"), "{}", problem.message);
}

#[test]
fn quotas_are_sizes_and_there_are_none_by_default() {
    let config = parse("data_quota = '2 GiB'\nlog_quota = '128MiB'\n").unwrap();
    let quotas = (config.data_quota_bytes(), config.log_quota_bytes());
    assert_eq!(quotas, (Some(2 << 30), Some(128 << 20)));
    assert_eq!(parse("").unwrap().log_quota_bytes(), None);
}

#[test]
fn volumes_are_directories_apart() {
    let config = parse("volumes = 'a, b/../b/c'\nspare_volumes = '/s/'\n").unwrap();
    let base = config.path().parent().unwrap();
    assert_eq!(config.volumes().spares, [Path::new("/s")]);
    assert_eq!(config.volumes().volumes[0], base.join("a"));
    assert!(parse("").unwrap().volumes().volumes.is_empty(), "none by default");
    for (lines, word) in [
        ("spare_volumes = '/s'\n", "spare_volumes needs volumes"),
        ("volumes = '/a, /b'\nspare_volumes = '/a'\n", "named twice"),
        ("volumes = '/a, /a/b'\n", "inside one another"),
        ("volumes = '/a'\nlog_dir = '/l'\n", "store and log of a copy together"),
    ] {
        let problems = parse(lines).unwrap_err().join("; ");
        assert!(problems.contains(word), "{word:?} is not in {problems}");
    }
}

#[test]
fn a_certificate_of_another_member_is_refused() {
    let own = |role, name: &str| keelson_net::PeerIdentity {
        name: name.into(),
        role,
        ..Default::default()
    };
    let config = parse("").unwrap();
    let check =
        |own: &keelson_net::PeerIdentity| check_certificate(config.tls(), config.name(), own);
    assert!(check(&own(keelson_net::Role::Member, "m1")).is_ok());
    for own in [own(keelson_net::Role::Member, "m2"), own(keelson_net::Role::Admin, "m1")] {
        assert_eq!(check(&own).unwrap_err().code, "bad_certificate");
    }
}
