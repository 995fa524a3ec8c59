//! What the attributes say when they are put where they do not belong.

#[test]
fn misuse_is_refused_in_words() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
