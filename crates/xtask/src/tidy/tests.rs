//! Sees every rule of tidy fire on a bad snippet, and stay silent on the good one beside it.

use super::*;

/// Findings of one snippet as `rule:line`, in table order.
fn found(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    check_file(&SourceFile::new(path, text), &mut findings);
    findings.iter().map(|finding| format!("{}:{}", finding.rule, finding.line)).collect()
}

/// Checks a body of a module that is otherwise in order; lines count from the body's first.
fn check(body: &str, expected: &[&str]) {
    check_at("crates/x/src/a.rs", body, expected);
}

fn check_at(path: &str, body: &str, expected: &[&str]) {
    let text = format!("//! Owns x.\n{body}\n");
    let expected: Vec<String> = expected.iter().map(|finding| finding.to_string()).collect();
    assert_eq!(found(path, &text), expected, "in {path}:\n{text}");
}

/// Joins halves, so that tidy does not find the bad snippet in this file.
fn join(first: &str, second: &str) -> String {
    format!("{first}{second}")
}

#[test]
fn module_doc_is_the_first_line() {
    check("fn a() {}", &[]);
    assert_eq!(found("crates/x/src/a.rs", "fn a() {}\n"), ["module-doc:1"]);
    assert_eq!(found("crates/x/src/a.rs", ""), ["module-doc:1"]);
    let empty = join("//! Place", "holder.\n");
    assert_eq!(found("crates/x/src/a.rs", &empty), ["module-doc:1"]);
}

#[test]
fn long_files_warn_then_fail_without_their_tests() {
    let severity = |lines: usize, tests: usize| {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // t\n".repeat(tests));
        let text = format!("//! Owns x.\n{}{tests}", "// l\n".repeat(lines));
        let mut findings = Vec::new();
        check_file(&SourceFile::new("crates/x/src/a.rs", &text), &mut findings);
        findings.iter().map(|f| (f.rule, f.severity)).collect::<Vec<_>>()
    };
    assert_eq!(severity(599, 0), []);
    assert_eq!(severity(600, 0), [("file-length", Severity::Warning)]);
    assert_eq!(severity(999, 150), [("file-length", Severity::Warning)]);
    assert_eq!(severity(1_000, 0), [("file-length", Severity::Error)]);
    assert_eq!(severity(10, 198), [("test-length", Severity::Warning)]);
    assert_eq!(severity(10, 398), [("test-length", Severity::Error)]);
}

#[test]
fn lines_are_counted_in_characters() {
    check(&format!("// {}", "é".repeat(97)), &[]);
    check(&format!("// {}", "é".repeat(98)), &["line-length:2"]);
}

#[test]
fn unfinished_marks_are_found_as_words() {
    for (first, second) in [
        ("// FIX", "ME later"),
        ("// XX", "X"),
        ("// a HA", "CK"),
        ("to", "do!()"),
        ("let x = unimple", "mented!(\"x\");"),
        ("db", "g!(x);"),
        ("#[ign", "ore = \"slow\"]"),
    ] {
        check(&join(first, second), &["forbidden-word:2"]);
    }
    check("let name = \"XXXXXX\"; let hack = HACKS;", &[]);
}

#[test]
fn value_of_matches_must_be_used() {
    check("fn a() {\n    matches!(x, Some(1));\n}", &["lone-matches:3"]);
    check("fn a() {\n    matches!(\n        x,\n        Some(1),\n    );\n}", &["lone-matches:3"]);
    check("fn a() {\n    matches!(x, Some(1))\n}", &[]);
    check("fn a() {\n    let b =\n        matches!(x, Some(1));\n}", &[]);
    check("fn a() {\n    assert!(matches!(x, Some(1)));\n}", &[]);
}

#[test]
fn tests_do_not_sleep() {
    let sleep = join("std::thread::sle", "ep(d);");
    let inline = format!("#[cfg(test)]\nmod tests {{\n    {sleep}\n}}\nfn b() {{\n    {sleep}\n}}");
    check(&inline, &["sleep-in-test:4"]);
    check_at("tests/src/a.rs", &sleep, &["sleep-in-test:2"]);
    check_at("crates/x/tests/a.rs", &sleep, &["sleep-in-test:2"]);
    check_at("crates/x/src/a/tests.rs", &sleep, &["sleep-in-test:2"]);
    check_at("tests/a.rs", &join("use tokio::time::sle", "ep;"), &["sleep-in-test:2"]);
    check_at("tests/a.rs", &join("sle", "ep(d).await;"), &["sleep-in-test:2"]);
    check_at("tests/a.rs", &join("world.sle", "ep(d);"), &[]);
}

#[test]
fn modules_have_no_mod_rs() {
    check_at("crates/x/src/a/mod.rs", "", &["mod-rs:1"]);
}

#[test]
fn paths_of_one_machine_are_found_in_any_text() {
    let home = join("/ro", "ot/.cargo");
    check(&format!("let p = \"{home}\";"), &["machine-path:2"]);
    assert_eq!(found("README.md", &format!("see `{}x`", join("/wo", "rk/"))), ["machine-path:1"]);
    assert_eq!(found("README.md", &format!("see {{dir}}{home}")), Vec::<String>::new());
}

#[test]
fn tree_needs_design_pages_and_equal_bans() {
    let mut files = vec![SourceFile::new(".clippy.toml", "too-many-lines-threshold = 70\n")];
    files.extend(
        DESIGN_PAGES
            .iter()
            .map(|name| SourceFile::new(&format!("crates/{name}/DESIGN.md"), "# x\n\na\nb\nc\n")),
    );
    files.extend(
        PURE_CRATES.iter().map(|name| SourceFile::new(&pure_clippy_path(name), PURE_CLIPPY)),
    );
    let rules = |files: &[SourceFile]| {
        let mut findings = Vec::new();
        check_tree(files, &mut findings);
        findings.iter().map(|f| format!("{} {}", f.rule, f.path)).collect::<Vec<_>>()
    };
    assert_eq!(rules(&files), Vec::<String>::new());

    let page = files.remove(1);
    assert_eq!(rules(&files), [format!("design-page {}", page.path)]);
    files.push(page);

    files.retain(|file| file.path != "crates/env/clippy.toml");
    files.push(SourceFile::new("crates/env/clippy.toml", "disallowed-types = []\n"));
    assert_eq!(rules(&files), ["pure-clippy crates/env/clippy.toml"]);

    files[0] = SourceFile::new(".clippy.toml", "cognitive-complexity-threshold = 9\n");
    let expected =
        ["pure-clippy crates/env/clippy.toml", "pure-clippy crates/xtask/data/pure-clippy.toml"];
    assert_eq!(rules(&files), expected);
}

/// Wraps `text` and compares; `~` stands for 20 letters, so that the lines here stay short.
fn check_wrap(text: &str, expected: &str) {
    let long = |text: &str| text.replace('~', &"x".repeat(20));
    assert_eq!(wrap::wrap_comments(&long(text)), long(expected));
    assert_eq!(
        wrap::wrap_comments(&long(expected)),
        long(expected),
        "a second run changes nothing"
    );
}

#[test]
fn long_comments_flow_into_their_paragraph() {
    check_wrap("/// ~ ~ ~ ~ ~ a\n/// b\nfn f() {}\n", "/// ~ ~ ~ ~\n/// ~ a b\nfn f() {}\n");
    check_wrap("    // ~ ~ ~ ~ ~\n    f();\n", "    // ~ ~ ~ ~\n    // ~\n    f();\n");
    check_wrap("//! ~ ~ ~ ~ ~\n//!\n//! b\n", "//! ~ ~ ~ ~\n//! ~\n//!\n//! b\n");
    check_wrap("/// - ~ ~ ~ ~ ~\n/// - b\n", "/// - ~ ~ ~ ~\n///   ~\n/// - b\n");
    check_wrap("/// ~ ~ ~ ~ ~\n/// 1. b\n", "/// ~ ~ ~ ~\n/// ~\n/// 1. b\n");
    check_wrap("/// - ~ ~ ~ ~ ~\n///   b\n", "/// - ~ ~ ~ ~\n///   ~ b\n");
}

#[test]
fn code_tables_and_single_words_are_not_wrapped() {
    for text in [
        "/// ```\n/// ~ ~ ~ ~ ~\n/// ```\n",
        "//! | ~ ~ ~ ~ ~ |\n",
        "/// ~~~~~~\n",
        "f(~, ~, ~, ~, ~);\n",
    ] {
        check_wrap(text, text);
    }
}
