//! Wraps comments that are longer than a line may be, since the stable rustfmt leaves them alone.
//!
//! Only whole-line comments are touched, and of those only the ones that are too long: what does
//! not fit moves to the front of the next line of the same paragraph, or to a new line. Lists keep
//! their indentation; fenced code, tables and words without a blank stay as they are.

use super::rules::LINE_CHARS_MAX;

/// The same text with no comment line longer than the limit, where a blank allows it.
pub(super) fn wrap_comments(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    let mut fenced = false;
    let mut index = 0;
    while index < lines.len() {
        if let Some((prefix, body)) = comment(&lines[index]) {
            if body.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if !fenced && !body.trim_start().starts_with('|') {
                let (prefix, body) = (prefix.to_string(), body.to_string());
                wrap_at(&mut lines, index, &prefix, &body);
            }
        } else {
            fenced = false;
        }
        index += 1;
    }
    let mut wrapped = lines.join("\n");
    if text.ends_with('\n') {
        wrapped.push('\n');
    }
    wrapped
}

/// Shortens line `index` if it is too long, and hands the rest to the line after it.
fn wrap_at(lines: &mut Vec<String>, index: usize, prefix: &str, body: &str) {
    let Some(cut) = cut_at(&lines[index], prefix.len() + hanging(body)) else { return };
    let rest = lines[index][cut..].trim_start().to_string();
    lines[index] = lines[index][..cut].trim_end().to_string();
    let indent = " ".repeat(hanging(body));
    let next = lines.get(index + 1).and_then(|line| comment(line));
    let continued = next
        .filter(|(next_prefix, next_body)| {
            let start = next_body.trim_start();
            let same_depth = next_body.len() - start.len() == indent.len();
            *next_prefix == prefix && same_depth && !starts_block(start)
        })
        .map(|(_, next_body)| next_body.trim_start().to_string());
    match continued {
        Some(next_body) => lines[index + 1] = format!("{prefix}{indent}{rest} {next_body}"),
        None => lines.insert(index + 1, format!("{prefix}{indent}{rest}")),
    }
}

/// Splits a whole-line comment into indentation with marker and blank, and its text.
fn comment(line: &str) -> Option<(&str, &str)> {
    let start = line.len() - line.trim_start().len();
    let marker = ["//! ", "/// ", "// "].into_iter().find(|m| line[start..].starts_with(m))?;
    Some(line.split_at(start + marker.len()))
}

/// The blank at which a line is cut, beyond `from`; none if it fits or cannot be cut.
fn cut_at(line: &str, from: usize) -> Option<usize> {
    let (limit, _) = line.char_indices().nth(LINE_CHARS_MAX)?;
    // A blank directly at the limit leaves a line of exactly the permitted length.
    let blanks = line.match_indices(' ').map(|(at, _)| at);
    blanks.take_while(|at| *at <= limit).filter(|at| *at > from).last()
}

/// How far the continuation of a text is indented: below the text of a list item.
fn hanging(body: &str) -> usize {
    let start = body.trim_start();
    let indent = body.len() - start.len();
    let marker = if start.starts_with("- ") || start.starts_with("* ") { 2 } else { 0 };
    indent + marker
}

/// Whether a text begins something of its own and so cannot take the rest of the line before it.
fn starts_block(start: &str) -> bool {
    let numbered = start.split_once(['.', ')']).is_some_and(|(number, _)| {
        !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
    });
    let marks = ["- ", "* ", "#", "|", "```", ">", "SAFETY:"];
    start.is_empty() || numbered || marks.iter().any(|mark| start.starts_with(mark))
}
