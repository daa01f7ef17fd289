//! Queries, dates and places as people type them: a value or an error, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(query) = ocelli_index::Query::parse(text) {
        assert!(!query.terms.is_empty());
        assert!(query.terms.iter().all(|term| term.weight.is_finite() && !term.text.is_empty()));
    }
    if let Ok((begin, end)) = ocelli_index::parse_date(text) {
        assert!(begin < end);
    }
    let _ = text.parse::<ocelli_index::Near>();
});
