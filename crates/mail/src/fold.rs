//! Case folding of lookup keys, as Postfix folds them: full Unicode folding (ß becomes ss).

use std::borrow::Cow;

use icu_casemap::CaseMapper;

/// The folded form of `text`. ASCII text, nearly all there is, costs one scan.
pub fn fold(text: &str) -> Cow<'_, str> {
    if !text.is_ascii() {
        return Cow::Owned(CaseMapper::new().fold_string(text).into_owned());
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    Cow::Borrowed(text)
}

/// Whether two texts differ in case alone.
pub fn same(left: &str, right: &str) -> bool {
    if left.is_ascii() && right.is_ascii() {
        return left.eq_ignore_ascii_case(right);
    }
    fold(left) == fold(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn folds_like_postfix() {
        for (text, folded) in [
            ("john@example.org", "john@example.org"),
            ("JOHN@Example.ORG", "john@example.org"),
            ("JÖRG@BÜCHER.example", "jörg@bücher.example"),
            ("straße", "strasse"),
            ("ΣΑΣ", "σασ"),
        ] {
            assert_eq!(fold(text), folded);
            assert!(same(text, folded));
        }
        assert!(!same("a", "b"));
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(text in ".*") {
            let once = fold(&text).into_owned();
            prop_assert_eq!(fold(&once).into_owned(), once);
        }
    }
}
