//! Searches: words, phrases, fields, ranges; in an order that is equal on all copies.
//!
//! Scores are those of BM25 with figures that all copies share at one log end: numbers of records
//! that are there, never of those that a copy's files still hold though they were deleted, and one
//! assumed length of a text.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use tantivy::collector::Count;
use tantivy::query::{
    Bm25StatisticsProvider, BooleanQuery, Occur, Query as EngineQuery, QueryParser,
    QueryParserError, RangeQuery, TermQuery,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::snippet::SnippetGenerator;
use tantivy::{Searcher, Term};

use crate::collect::Ranked;
use crate::document::Content;
use crate::error::{CatalogError, guarded};
use crate::index::Catalog;
use crate::schema::{FIELDS, words};

/// Most matches that one search returns.
const LIMIT_MAX: usize = 1_000;
/// Longest question, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;
/// Tokens that a text is taken to have.
const TOKENS_PER_TEXT: u64 = 64;
/// Characters of a fragment.
const FRAGMENT_CHARS: usize = 160;
/// Fragments of one match.
const FRAGMENTS_MAX: usize = 4;

/// In which order matches come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The best first, equal ones by key.
    #[default]
    Relevance,
    /// By key.
    Key,
}

/// A search.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Words (all must be there), `"a phrase"`, `field:word`, `field.path:word`,
    /// `field:[from TO to]`, `field:{from TO *]`, `AND`, `OR`, `NOT`, parentheses. `*` is
    /// everything.
    pub text: String,
    /// Only records whose keys begin so.
    pub prefix: Vec<u8>,
    /// Matches to return, at most 1,000.
    pub limit: usize,
    /// Their order.
    pub order: Order,
}

/// A match.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Of the record.
    pub key: Vec<u8>,
    /// How well it matches; 0 when ordered by key.
    pub score: f32,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// The first ones.
    pub hits: Vec<Hit>,
    /// How many there are.
    pub total: u64,
}

/// A piece of a text that shows what matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Path of the field.
    pub field: String,
    /// The piece.
    pub text: String,
    /// Where in it the words are, in bytes.
    pub matches: Vec<Range<usize>>,
}

/// Why a search was not made.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The question cannot be read.
    #[error("{0}")]
    Question(String),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Catalog {
    /// Searches what the last [`Self::reload`] saw.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn search(&self, query: &Query) -> Result<Results, QueryError> {
        if !(1..=LIMIT_MAX).contains(&query.limit) {
            return Err(QueryError::Question(format!("the limit is 1 to {LIMIT_MAX} matches")));
        }
        let parsed = self.parse(&query.text)?;
        let parsed = self.under(parsed, &query.prefix);
        let collector = Ranked { limit: query.limit, order: query.order };
        let searcher = &self.searcher;
        let figures = Figures { searcher };
        let (matches, total) = guarded("searching", || {
            let found = searcher.search_with_statistics_provider(&*parsed, &collector, &figures);
            found.map_err(CatalogError::from)
        })?;
        let hits = matches.into_iter().map(|found| Hit { key: found.key, score: found.score });
        Ok(Results { hits: hits.collect(), total })
    }

    /// Pieces of a value that show why it matches a question; `fields` as for the writer.
    ///
    /// # Errors
    /// The question cannot be read.
    pub fn fragments(
        &self,
        text: &str,
        value: &[u8],
        fields: &[String],
    ) -> Result<Vec<Fragment>, QueryError> {
        let mut asked = Asked::default();
        self.parse(text)?.query_terms(&mut |term, _| asked.add(term, self.fields.text));
        let content = Content::read(value).only(fields);
        let mut fragments = Vec::new();
        for (path, text) in content.texts() {
            let terms = asked.in_field(&path);
            if terms.is_empty() {
                continue;
            }
            let generator = SnippetGenerator::new(terms, words(), self.fields.text, FRAGMENT_CHARS);
            let snippet = generator.snippet(text);
            if !snippet.highlighted().is_empty() {
                fragments.push(Fragment {
                    field: path,
                    text: snippet.fragment().to_owned(),
                    matches: snippet.highlighted().to_vec(),
                });
            }
            if fragments.len() == FRAGMENTS_MAX {
                break;
            }
        }
        Ok(fragments)
    }

    fn parse(&self, text: &str) -> Result<Box<dyn EngineQuery>, QueryError> {
        if text.len() > TEXT_BYTES_MAX {
            let why = format!("a question has at most {TEXT_BYTES_MAX} bytes");
            return Err(QueryError::Question(why));
        }
        if text.trim().is_empty() {
            return Err(QueryError::Question("an empty question; * finds everything".into()));
        }
        let mut parser = QueryParser::for_index(&self.index, vec![self.fields.text]);
        parser.set_conjunction_by_default();
        parser.parse_query(&translate(text)).map_err(|error| QueryError::Question(explain(&error)))
    }

    fn under(&self, query: Box<dyn EngineQuery>, prefix: &[u8]) -> Box<dyn EngineQuery> {
        if prefix.is_empty() {
            return query;
        }
        let term = |key: &[u8]| Term::from_field_bytes(self.fields.key, key);
        let upper = match behind(prefix) {
            Some(key) => Bound::Excluded(term(&key)),
            None => Bound::Unbounded,
        };
        let range = RangeQuery::new(Bound::Included(term(prefix)), upper);
        // The range restricts and adds nothing to the score.
        let range = tantivy::query::ConstScoreQuery::new(Box::new(range), 0.0);
        Box::new(BooleanQuery::new(vec![(Occur::Must, query), (Occur::Must, Box::new(range))]))
    }
}

/// The question as the engine reads it: fields of values lie under one field of the index, and what
/// people write as `a AND NOT b` is `a NOT b`.
fn translate(text: &str) -> String {
    let (mut translated, mut rest) = (String::with_capacity(text.len() + 16), text);
    let (mut quoted, mut ranges, mut at_start) = (false, 0_usize, true);
    while let Some(letter) = rest.chars().next() {
        if at_start && !quoted && ranges == 0 {
            if let Some(behind) = rest.strip_prefix("AND NOT ") {
                (translated, rest) = (translated + "NOT ", behind);
                continue;
            }
            let name = &rest[..field_name_bytes(rest)];
            if !name.is_empty() {
                translated += &format!("{FIELDS}.{name}:");
                rest = &rest[name.len() + 1..];
                at_start = false;
                continue;
            }
        }
        match letter {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => ranges += 1,
            ']' | '}' if !quoted => ranges = ranges.saturating_sub(1),
            _ => {}
        }
        at_start = letter.is_whitespace() || matches!(letter, '(' | '+' | '-');
        translated.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    translated
}

/// Length of the field's name if `text` begins with `name:`.
fn field_name_bytes(text: &str) -> usize {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '@' | '/' | '$');
    let end = text.find(|c| !inner(c)).unwrap_or(text.len());
    let named =
        text[end..].starts_with(':') && text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    if named { end } else { 0 }
}

/// The first key behind all that begin with `prefix`.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key)
}

fn explain(error: &QueryParserError) -> String {
    match error {
        QueryParserError::SyntaxError(at) => format!("the question cannot be read: {at}"),
        other => other.to_string(),
    }
}

/// The words of a question: those asked of every text, and those asked of one field.
#[derive(Default)]
struct Asked {
    anywhere: BTreeMap<String, f32>,
    in_fields: BTreeMap<String, BTreeMap<String, f32>>,
}

impl Asked {
    fn add(&mut self, term: &Term, text: Field) {
        if term.field() == text {
            if let Some(word) = term.value().as_str() {
                self.anywhere.insert(word.to_owned(), 1.0);
            }
        } else if let (Some(path), Some(word)) = (term.get_json_path(), json_word(term)) {
            // Parts of a path are parted by this byte.
            let path = path.replace('\u{1}', ".");
            self.in_fields.entry(path).or_default().insert(word, 1.0);
        }
    }

    fn in_field(&self, path: &str) -> BTreeMap<String, f32> {
        let mut terms = self.anywhere.clone();
        terms.extend(self.in_fields.get(path).cloned().unwrap_or_default());
        terms
    }
}

/// The word of a term in a field of JSON: path, zero, kind, word.
fn json_word(term: &Term) -> Option<String> {
    let bytes = term.serialized_value_bytes();
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let (kind, word) = bytes.get(end + 1..)?.split_first()?;
    (*kind == b's').then(|| String::from_utf8(word.to_vec()).ok())?
}

/// See the module page.
struct Figures<'a> {
    searcher: &'a Searcher,
}

impl Bm25StatisticsProvider for Figures<'_> {
    fn total_num_tokens(&self, _: Field) -> tantivy::Result<u64> {
        Ok(self.searcher.num_docs() * TOKENS_PER_TEXT)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.searcher.num_docs())
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let deleted = self.searcher.segment_readers().iter().any(|segment| segment.has_deletes());
        if !deleted {
            return self.searcher.doc_freq(term);
        }
        let query = TermQuery::new(term.clone(), IndexRecordOption::Basic);
        Ok(self.searcher.search(&query, &Count)? as u64)
    }
}

#[cfg(test)]
mod tests;
