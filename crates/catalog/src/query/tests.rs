//! Searches over small catalogs, and that two copies with other files answer alike.

use keelson_types::{Epoch, LogEnd, Position};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::CatalogWriter;

fn end(offset: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, offset) }
}

fn put(writer: &mut CatalogWriter, key: &str, value: &serde_json::Value) {
    writer.put(key.as_bytes(), value.to_string().as_bytes()).expect("put");
}

fn packages(directory: &TempDir) -> Catalog {
    let mut catalog = Catalog::create(&directory.path().join("catalog")).expect("made");
    let mut writer = catalog.writer(Vec::new()).expect("a writer");
    for (key, name, version, size, text) in [
        ("pkg/curl", "curl", "7.88.1", 315, "command line tool for transferring data with URLs"),
        ("pkg/git", "git", "2.39.5", 7_260, "fast, scalable, distributed revision control system"),
        ("pkg/wget", "wget", "1.21.3", 984, "retrieves files from the web, a tool for data"),
        ("web/così", "così", "1.0", 1, "opera buffa"),
    ] {
        let value = json!({
            "name": name, "version": version, "size": size, "description": text,
            "built": "2026-03-02T10:00:00Z", "maintainer": { "team": format!("{name} team") },
        });
        put(&mut writer, key, &value);
    }
    writer.put(b"note", b"a plain note about curl").expect("put");
    writer.put(b"raw", b"\xff\x00\xfe").expect("put");
    writer.commit(end(100)).expect("committed");
    writer.close().expect("closed");
    catalog.reload().expect("reloads");
    catalog
}

fn ask(catalog: &Catalog, text: &str) -> Vec<String> {
    let query = Query { text: text.into(), limit: 10, order: Order::Key, ..Query::default() };
    let found = catalog.search(&query).expect(text);
    found.hits.iter().map(|hit| String::from_utf8_lossy(&hit.key).into_owned()).collect()
}

#[test]
fn words_phrases_fields_and_ranges() {
    let directory = TempDir::new().expect("a directory");
    let catalog = packages(&directory);
    for (text, wanted) in [
        ("tool", vec!["pkg/curl", "pkg/wget"]),
        ("tool URLs", vec!["pkg/curl"]),
        ("TOOL AND NOT urls", vec!["pkg/wget"]),
        ("tool NOT urls", vec!["pkg/wget"]),
        ("tool -urls", vec!["pkg/wget"]),
        ("git OR wget", vec!["pkg/git", "pkg/wget"]),
        ("\"line tool\"", vec!["pkg/curl"]),
        ("\"tool line\"", vec![]),
        ("name:curl", vec!["pkg/curl"]),
        ("curl", vec!["note", "pkg/curl"]),
        ("description:curl", vec![]),
        ("maintainer.team:git", vec!["pkg/git"]),
        ("size:315", vec!["pkg/curl"]),
        ("size:[900 TO 10000]", vec!["pkg/git", "pkg/wget"]),
        ("size:{984 TO *}", vec!["pkg/git"]),
        ("built:[2026-01-01T00:00:00Z TO 2026-12-31T00:00:00Z] AND cosi", vec!["web/così"]),
        ("cosi", vec!["web/così"]),
        ("text:note", vec!["note"]),
        ("absent", vec![]),
    ] {
        assert_eq!(ask(&catalog, text), wanted, "{text}");
    }
    assert_eq!(ask(&catalog, "*").len(), 6);
    let query = Query { text: "*".into(), prefix: b"pkg/".to_vec(), limit: 2, ..Query::default() };
    let found = catalog.search(&query).expect("found");
    assert_eq!((found.hits.len(), found.total), (2, 3));
}

#[test]
fn fields_are_told_from_text() {
    for (text, wanted) in [
        ("curl", "curl"),
        ("name:curl", "_fields.name:curl"),
        ("(a.b:x OR -c:[1 TO 2])", "(_fields.a.b:x OR -_fields.c:[1 TO 2])"),
        ("\"a name:x\" y:\"z:1\"", "\"a name:x\" _fields.y:\"z:1\""),
        ("d:[2026-01-01T00:00:00Z TO *]", "_fields.d:[2026-01-01T00:00:00Z TO *]"),
        ("a AND NOT b:c", "a NOT _fields.b:c"),
        ("12:30", "12:30"),
    ] {
        assert_eq!(translate(text), wanted);
    }
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let directory = TempDir::new().expect("a directory");
    let catalog = packages(&directory);
    let long = "x".repeat(5_000);
    for (text, limit) in [("", 1), ("  ", 1), ("a AND", 1), ("(a", 1), ("a", 0), ("a", 1_001)]
        .into_iter()
        .chain([(long.as_str(), 1)])
    {
        let query = Query { text: text.into(), limit, ..Query::default() };
        let refused = catalog.search(&query);
        assert!(matches!(refused, Err(QueryError::Question(_))), "{text}: {refused:?}");
    }
}

#[test]
fn fragments_show_what_matched_and_where() {
    let directory = TempDir::new().expect("a directory");
    let catalog = packages(&directory);
    let value = json!({ "name": "curl", "description": "a tool. Così, un TOOL." }).to_string();
    let shown = |text: &str| {
        let fragments = catalog.fragments(text, value.as_bytes(), &[]).expect("fragments");
        let cut = |f: &Fragment| f.matches.iter().map(|at| f.text[at.clone()].to_owned()).collect();
        fragments.iter().map(|f| (f.field.clone(), cut(f))).collect::<Vec<(String, Vec<String>)>>()
    };
    let tools = ["tool", "TOOL"].map(str::to_owned).to_vec();
    assert_eq!(shown("tool"), [("description".to_owned(), tools)]);
    assert_eq!(shown("name:curl"), [("name".to_owned(), vec!["curl".to_owned()])]);
    assert_eq!(shown("cosi"), [("description".to_owned(), vec!["Così".to_owned()])]);
    assert_eq!(shown("nothing"), []);
}

/// Two copies at one log end answer alike, whatever their files went through: scores and ties too.
#[test]
fn answers_do_not_depend_on_how_the_files_came_about() {
    let directory = TempDir::new().expect("a directory");
    let value = |n: u32| json!({ "text": "word ".repeat(1 + n as usize % 7), "n": n });
    let mut direct = Catalog::create(&directory.path().join("direct")).expect("made");
    let mut writer = direct.writer(Vec::new()).expect("a writer");
    for n in (0_u32..200).filter(|n| !(50..80).contains(n)) {
        put(&mut writer, &format!("{n:04}"), &value(n));
    }
    writer.commit(end(9)).expect("committed");
    writer.close().expect("closed");
    let mut winding = Catalog::create(&directory.path().join("winding")).expect("made");
    let mut writer = winding.writer(Vec::new()).expect("a writer");
    for n in (0_u32..200).rev() {
        put(&mut writer, &format!("{n:04}"), &json!({ "text": "word and other words" }));
        if n % 37 == 0 {
            writer.commit(end(n.into())).expect("committed");
        }
    }
    for n in 0_u32..200 {
        put(&mut writer, &format!("{n:04}"), &value(n));
    }
    writer.delete_range(b"0050", b"0080").expect("deleted");
    writer.commit(end(9)).expect("committed");
    writer.close().expect("closed");
    for (text, order) in [("word", Order::Relevance), ("word OR n:7", Order::Relevance)]
        .into_iter()
        .chain([("*", Order::Key)])
    {
        let query = Query { text: text.into(), limit: 100, order, ..Query::default() };
        let [one, other] = [&mut direct, &mut winding].map(|catalog| {
            catalog.reload().expect("reloads");
            catalog.search(&query).expect("found")
        });
        assert_eq!(one.total, 170);
        assert_eq!(one, other, "{text}");
    }
}

#[test]
fn a_commit_says_what_it_reflects_and_a_crash_forgets_the_rest() {
    let directory = TempDir::new().expect("a directory");
    let place = directory.path().join("catalog");
    assert!(Catalog::open(&place).expect("looked").is_none());
    let catalog = packages(&directory);
    let mut writer = catalog.writer(Vec::new()).expect("a writer");
    writer.delete(b"note");
    assert!(catalog.writer(Vec::new()).is_err(), "one at a time");
    drop(writer);
    drop(catalog);
    let mut catalog = Catalog::open(&place).expect("opens").expect("is there");
    assert_eq!(catalog.reflected().expect("whole").expect("committed").end, end(100));
    assert_eq!(ask(&catalog, "note"), ["note"]);
    assert_eq!(catalog.document_count(), 6);
    let mut writer = catalog.writer(vec!["name".into()]).expect("a writer");
    put(&mut writer, "x", &json!({ "name": "xenon", "other": "hidden" }));
    writer.commit(end(200)).expect("committed");
    drop(writer);
    catalog.reload().expect("reloads");
    let reflected = catalog.reflected().expect("whole").expect("committed");
    assert_eq!((reflected.end, reflected.fields), (end(200), vec!["name".to_owned()]));
    assert_eq!(ask(&catalog, "xenon"), ["x"]);
    assert_eq!(ask(&catalog, "hidden"), Vec::<String>::new());
}

#[test]
fn a_flipped_byte_in_any_file_is_found() {
    let directory = TempDir::new().expect("a directory");
    let place = directory.path().join("catalog");
    let catalog = packages(&directory);
    assert!(catalog.verify().expect("whole") > 0);
    let answers = ask(&catalog, "tool OR size:7260 OR name:curl");
    assert_eq!(answers, ["pkg/curl", "pkg/git", "pkg/wget"]);
    drop(catalog);
    let mut files: Vec<_> = std::fs::read_dir(&place).expect("lists").flatten().collect();
    files.sort_by_key(std::fs::DirEntry::path);
    let mut unseen = Vec::new();
    for file in files {
        let (path, whole) = (file.path(), std::fs::read(file.path()).expect("reads"));
        let name = file.file_name().to_string_lossy().into_owned();
        // Locks, and the list of files that may be removed: nothing is read by them.
        if whole.is_empty() || name.starts_with('.') || name == "meta.json" {
            continue;
        }
        for at in (0..whole.len()).step_by((whole.len() / 16).max(1)) {
            let mut wrong = whole.clone();
            wrong[at] ^= 4;
            std::fs::write(&path, wrong).expect("writes");
            let checked = Catalog::open(&place).and_then(|found| {
                let catalog = found.expect("its list of files is there");
                catalog.verify().map(|_| ask(&catalog, "tool OR size:7260 OR name:curl"))
            });
            // A file's last bytes say which version wrote it: wrong, they change no answer.
            let sound = checked.as_ref().is_ok_and(|found| *found == answers);
            if !sound && !matches!(checked, Err(CatalogError::Damaged(_))) {
                unseen.push(format!("{name}:{at}: {checked:?}"));
            }
        }
        std::fs::write(&path, whole).expect("writes");
    }
    assert_eq!(unseen, Vec::<String>::new());
}
