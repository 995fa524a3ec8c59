//! What programs of authors say that they did on workers, and how long it took: spans of `tracing`. Pure.

use serde::{Deserialize, Serialize};

use crate::ring::{Entry, Page, Ring};
use crate::text::begins;

/// A span of an author's that has ended, and what it is of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthorSpan {
    /// Its number in its process, from 1.
    pub number: u64,
    /// What no other span has: a random number.
    pub id: u64,
    /// The span of an author's that it is in; 0: none.
    pub parent: u64,
    /// What its author calls it.
    pub name: String,
    /// The part of the program that it is of.
    pub target: String,
    /// When it began, by its process's clock: nanoseconds since 1970.
    pub from: u64,
    /// How long it took, in nanoseconds.
    pub took: u64,
    /// The worker.
    pub worker: Option<u32>,
    /// The number of the query, in hexadecimal digits.
    pub query: String,
    /// The stage.
    pub stage: Option<u32>,
    /// The task, and which attempt.
    pub task: Option<(u32, u32)>,
    /// The UDF's registered name, and the number of the replica.
    pub udf: Option<(String, u32)>,
    /// Its fields: some of them, if there are many.
    pub fields: Vec<(String, SpanValue)>,
}

/// What a field of a span says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanValue {
    /// A text, or anything as its `Debug` or `Display` has it.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Any other that JSON has: not an infinite one.
    Float(f64),
    /// Yes or no.
    Bool(bool),
}

/// Some spans of a process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpanPage {
    /// The spans, in the order in which they ended.
    pub spans: Vec<AuthorSpan>,
    /// After this number more may follow.
    pub next: u64,
    /// Spans that were forgotten between what was asked for and `next`.
    pub missed: u64,
}

/// The last spans of a process.
#[derive(Debug)]
pub struct SpanRing(Ring<AuthorSpan>);

/// Bytes of a name, and of a text.
const NAME: usize = 128;
const TEXT: usize = 512;
/// Fields of a span.
const FIELDS: usize = 16;

impl SpanValue {
    /// A number; as a text if JSON has none such.
    pub fn float(number: f64) -> Self {
        if number.is_finite() { Self::Float(number) } else { Self::Text(number.to_string()) }
    }

    /// A text, of which too much is cut off.
    pub fn text(text: &str) -> Self {
        Self::Text(begins(text, TEXT))
    }
}

impl AuthorSpan {
    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let udf = self.udf.as_ref().map_or(0, |(udf, _)| udf.len());
        let field = |(name, value): &(String, SpanValue)| {
            let text = if let SpanValue::Text(text) = value { text.len() } else { 0 };
            size_of::<(String, SpanValue)>() + name.len() + text
        };
        let fields: usize = self.fields.iter().map(field).sum();
        size_of::<Self>() + self.name.len() + self.target.len() + self.query.len() + udf + fields
    }
}

impl Entry for AuthorSpan {
    fn number(&self) -> u64 {
        self.number
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }
}

impl SpanRing {
    /// One that takes so many bytes at most.
    pub fn new(bytes: usize) -> Self {
        Self(Ring::new(bytes))
    }

    /// Takes in a span that has ended, and forgets the oldest for which there is no room any more.
    pub fn push(&mut self, mut span: AuthorSpan) {
        span.fields.truncate(FIELDS);
        self.0.push(|number| AuthorSpan {
            number,
            name: begins(&span.name, NAME),
            target: begins(&span.target, NAME),
            udf: span.udf.map(|(udf, rank)| (begins(&udf, NAME), rank)),
            ..span
        });
    }

    /// So many spans were forgotten before they came here.
    pub fn miss(&mut self, spans: u64) {
        self.0.miss(spans);
    }

    /// All spans, and how many were forgotten: the ring begins anew.
    pub fn take(&mut self) -> (Vec<AuthorSpan>, u64) {
        self.0.take()
    }

    /// The spans after a number, the oldest first: so many bytes at most.
    pub fn page(&self, after: u64, bytes: usize) -> SpanPage {
        let Page { entries, next, missed } = self.0.page(after, |_| true, usize::MAX, bytes);
        SpanPage { spans: entries, next, missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_span_says_it_takes_a_bounded_part_of_its_ring() {
        let mut ring = SpanRing::new(64 << 10);
        let long = "x".repeat(1 << 20);
        let fields = (0..1000).map(|n| (n.to_string(), SpanValue::text(&long))).collect();
        let udf = Some((long.clone(), 1));
        ring.push(AuthorSpan { name: long.clone(), target: long, udf, fields, ..AuthorSpan::default() });
        let page = ring.page(0, 1 << 20);
        assert_eq!((page.spans.len(), page.spans[0].fields.len(), page.next, page.missed), (1, FIELDS, 1, 0));
        assert!(page.spans[0].bytes() < 16 << 10, "{}", page.spans[0].bytes());
    }

    #[test]
    fn every_number_comes_back_from_its_json() {
        for number in [0.1, f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let value = SpanValue::float(number);
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(serde_json::from_str::<SpanValue>(&json).unwrap(), value);
        }
        assert_eq!(SpanValue::float(f64::NAN), SpanValue::text("NaN"));
    }
}
