//! A file as the rules see it: its lines, and which of them are test code.
//!
//! Test code is recognized by place (a `tests` folder, a file `tests.rs`) or as an inline module
//! under `#[cfg(test)]`, whose end is the closing brace at its own indentation, as rustfmt leaves
//! it.

/// One text file of the tree.
pub(super) struct SourceFile {
    /// Path from the root, with `/`.
    pub(super) path: String,
    /// Lines without their ends.
    pub(super) lines: Vec<String>,
    /// For each line, whether it is test code.
    pub(super) is_test: Vec<bool>,
}

impl SourceFile {
    pub(super) fn new(path: &str, text: &str) -> SourceFile {
        let lines: Vec<String> = text.lines().map(str::to_string).collect();
        let is_test = match is_test_path(path) {
            true => vec![true; lines.len()],
            false => mark_inline_tests(&lines),
        };
        SourceFile { path: path.to_string(), lines, is_test }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(super) fn is_test_file(&self) -> bool {
        is_test_path(&self.path)
    }

    /// Lines with their numbers, counted from 1, and whether they are test code.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let lines = self.lines.iter().zip(&self.is_test).enumerate();
        lines.map(|(index, (line, is_test))| (index + 1, line.as_str(), *is_test))
    }
}

fn is_test_path(path: &str) -> bool {
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    parts.contains(&"tests") || name == "tests.rs" || name.ends_with("_tests.rs")
}

fn mark_inline_tests(lines: &[String]) -> Vec<bool> {
    let mut marks = vec![false; lines.len()];
    let mut index = 0;
    while index < lines.len() {
        let end =
            if lines[index].trim() == "#[cfg(test)]" { item_end(lines, index) } else { index };
        if lines[index].trim() == "#[cfg(test)]" {
            marks[index..=end].fill(true);
        }
        index = end + 1;
    }
    marks
}

/// The last line of the item whose first attribute stands at `start`.
fn item_end(lines: &[String], start: usize) -> usize {
    let indent = lines[start].len() - lines[start].trim_start().len();
    let closing = format!("{}}}", &lines[start][..indent]);
    let head = (start + 1..lines.len()).find(|index| {
        let line = lines[*index].trim_end();
        line.ends_with('{') || line.ends_with(';') || line.ends_with('}')
    });
    let Some(head) = head else { return start };
    if !lines[head].trim_end().ends_with('{') {
        return head;
    }
    (head + 1..lines.len()).find(|index| lines[*index] == closing).unwrap_or(lines.len() - 1)
}
