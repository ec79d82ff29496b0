//! Tests of `tls`.

use super::*;
use crate::certs::{Authority, CertRequest, Validity};
use std::fs;
use tempfile::TempDir;

struct Files {
    dir: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test", Validity::days(10)).unwrap();
        let files = Self { dir, authority };
        fs::write(files.paths().ca, files.authority.cert_pem()).unwrap();
        files.issue(&CertRequest::member("m1", &[]));
        files
    }

    fn paths(&self) -> TlsFiles {
        let path = |name: &str| self.dir.path().join(name);
        TlsFiles { ca: path("ca.pem"), cert: path("m1.pem"), key: path("m1.key") }
    }

    fn issue(&self, request: &CertRequest) {
        let issued = self.authority.issue(request).unwrap();
        fs::write(self.paths().cert, issued.cert_pem).unwrap();
        fs::write(self.paths().key, issued.key_pem).unwrap();
    }

    #[track_caller]
    fn check(&self, code: &str) {
        let error = self.paths().load().unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.hint().is_empty());
    }
}

fn shifted(from_hours: i64, to_hours: i64) -> Validity {
    let at = |hours: i64| {
        let distance = Duration::from_secs(hours.unsigned_abs() * 3600);
        let now = SystemTime::now();
        if hours < 0 { now - distance } else { now + distance }
    };
    Validity { not_before: at(from_hours), not_after: at(to_hours) }
}

#[test]
fn good_files_load() {
    let files = Files::new();
    let identity = files.paths().load().unwrap();
    assert_eq!(identity.own().to_string(), "m1 (member)");
    assert!(identity.not_after() > SystemTime::now());
}

#[test]
fn missing_and_malformed_files_are_named() {
    let files = Files::new();
    fs::write(files.paths().key, "nonsense").unwrap();
    files.check("tls_file_malformed");
    fs::write(files.paths().cert, "").unwrap();
    files.check("tls_file_malformed");
    fs::remove_file(files.paths().cert).unwrap();
    files.check("tls_file_missing");
    fs::remove_file(files.paths().ca).unwrap();
    let error = files.paths().load().unwrap_err().to_string();
    assert!(error.contains("authority") && error.contains("ca.pem"), "{error}");
}

#[test]
fn dates_are_checked() {
    let files = Files::new();
    files.issue(&CertRequest::member("m1", &[]).valid(shifted(-2, -1)));
    files.check("certificate_expired");
    files.issue(&CertRequest::member("m1", &[]).valid(shifted(1, 2)));
    files.check("certificate_not_yet_valid");
}

#[test]
fn key_and_authority_must_belong_to_the_certificate() {
    let files = Files::new();
    let other = files.authority.issue(&CertRequest::member("m1", &[])).unwrap();
    fs::write(files.paths().key, other.key_pem).unwrap();
    files.check("tls_key_mismatch");
    files.issue(&CertRequest::member("m1", &[]));
    let foreign = Authority::create("foreign", Validity::days(1)).unwrap();
    fs::write(files.paths().ca, foreign.cert_pem()).unwrap();
    files.check("certificate_wrong_authority");
}

#[test]
fn a_store_follows_its_files_and_keeps_what_works() {
    let files = Files::new();
    let store = TlsStore::open(files.paths()).unwrap();
    files.issue(&CertRequest::member("renewed", &[]));
    store.reload().unwrap();
    assert_eq!(store.current().own().name, "renewed");
    fs::write(files.paths().cert, "half a file").unwrap();
    assert_eq!(store.reload().unwrap_err().code(), "tls_file_malformed");
    assert_eq!(store.current().own().name, "renewed");
}

#[test]
fn a_change_is_noticed_at_the_next_look() {
    let files = Files::new();
    let store = TlsStore::open(files.paths()).unwrap();
    files.issue(&CertRequest::member("a-longer-name", &[]));
    let mut state = store.state.lock().unwrap();
    store.look(&mut state);
    assert_eq!(state.identity.own().name, "a-longer-name");
}

#[test]
fn files_that_were_wrong_are_read_again_until_they_are_right() {
    let files = Files::new();
    let store = TlsStore::open(files.paths()).unwrap();
    let request = CertRequest::member("renewed", &[]);
    let (issued, other) = (&files.authority, &files.authority);
    let (issued, other) = (issued.issue(&request).unwrap(), other.issue(&request).unwrap());
    let modified = SystemTime::now();
    let write_key = |pem: &str| {
        fs::write(files.paths().key, pem).unwrap();
        // Whoever copies files in a hurry leaves no trace of it in the stamps.
        let file = fs::File::options().write(true).open(files.paths().key).unwrap();
        file.set_modified(modified).unwrap();
    };
    assert_eq!(issued.key_pem.len(), other.key_pem.len(), "or the stamp tells");
    fs::write(files.paths().cert, &issued.cert_pem).unwrap();
    write_key(&other.key_pem);
    let mut state = store.state.lock().unwrap();
    store.look(&mut state);
    assert_eq!(state.identity.own().name, "m1", "the key does not belong to it");
    write_key(&issued.key_pem);
    store.look(&mut state);
    assert_eq!(state.identity.own().name, "renewed");
}
