//! The fields of the index and how text becomes words.

use tantivy::Index;
use tantivy::schema::{
    BytesOptions, Field, IndexRecordOption, JsonObjectOptions, Schema, TextFieldIndexing,
    TextOptions,
};
use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer, Token,
    TokenStream, Tokenizer,
};

/// The key of a record, as it is.
pub(crate) const KEY: &str = "_key";
/// Every text of a value.
const TEXT: &str = "_text";
/// The fields of a value, under their paths.
pub(crate) const FIELDS: &str = "_fields";

const WORDS: &str = "words";
const HEAD: &str = "head";

/// Longer words are not indexed, in bytes.
const WORD_BYTES_MAX: usize = 128;
/// So much of each text takes part in ranges, in bytes.
const HEAD_BYTES: usize = 64;

/// The fields, to name them without looking for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub(crate) key: Field,
    pub(crate) text: Field,
    pub(crate) fields: Field,
}

pub(crate) fn schema() -> Schema {
    let mut schema = Schema::builder();
    schema.add_bytes_field(KEY, BytesOptions::default().set_indexed().set_fast());
    let words = || {
        TextFieldIndexing::default()
            .set_tokenizer(WORDS)
            .set_index_option(IndexRecordOption::WithFreqsAndPositions)
    };
    schema.add_text_field(TEXT, TextOptions::default().set_indexing_options(words()));
    let fields = JsonObjectOptions::default()
        .set_indexing_options(words())
        .set_expand_dots_enabled()
        .set_fast(HEAD);
    schema.add_json_field(FIELDS, fields);
    schema.build()
}

impl Fields {
    /// Nothing if the index has other fields.
    pub(crate) fn of(index: &Index) -> Option<Self> {
        let schema = index.schema();
        let field = |name| schema.get_field(name).ok();
        Some(Self { key: field(KEY)?, text: field(TEXT)?, fields: field(FIELDS)? })
    }
}

/// Teaches an index the tokenizers that its schema names.
pub(crate) fn register_tokenizers(index: &Index) {
    index.tokenizers().register(WORDS, words());
    index.fast_field_tokenizer().register(HEAD, TextAnalyzer::from(Head::default()));
}

/// Words in lower case, without accents.
pub(crate) fn words() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .build()
}

/// The beginning of a text as one token: what ranges compare.
#[derive(Clone, Default)]
struct Head {
    token: Token,
}

struct HeadStream<'a> {
    token: &'a mut Token,
    done: bool,
}

impl Tokenizer for Head {
    type TokenStream<'a> = HeadStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> HeadStream<'a> {
        self.token.reset();
        self.token.text.push_str(&text[..text.floor_char_boundary(HEAD_BYTES)]);
        self.token.offset_to = self.token.text.len();
        HeadStream { token: &mut self.token, done: false }
    }
}

impl TokenStream for HeadStream<'_> {
    fn advance(&mut self) -> bool {
        !std::mem::replace(&mut self.done, true)
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_without_accents() {
        let mut words = words();
        let mut stream = words.token_stream("Così fan TUTTE, 1790!");
        let mut found = Vec::new();
        while stream.advance() {
            found.push(stream.token().text.clone());
        }
        assert_eq!(found, ["cosi", "fan", "tutte", "1790"]);
    }

    #[test]
    fn only_the_head_of_a_text_takes_part_in_ranges() {
        let mut head = TextAnalyzer::from(Head::default());
        let long = "é".repeat(100);
        let mut stream = head.token_stream(&long);
        assert!(stream.advance());
        assert_eq!(stream.token().text, "é".repeat(HEAD_BYTES / 2));
        assert!(!stream.advance());
    }
}
