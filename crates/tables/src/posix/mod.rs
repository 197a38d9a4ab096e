//! POSIX regular expressions as glibc's regcomp(3) and regexec(3) understand them in the C locale: `regexp:` tables.
//!
//! Bytes, not characters. Extended or basic syntax with GNU's additions (`\w`, `\<`, `\b`, back references, …). The match
//! is the leftmost, of these the longest, and among the ways to get that one the first alternative wins, as in glibc (not
//! the longest group from the left, as POSIX has it). [`parse`] makes a tree, [`program`] a program for a
//! backtracking machine that remembers where it has failed; the `regex` crate answers beforehand whether and where there is
//! a match, which it does much faster, but without the longest one and without back references.

mod machine;
mod parse;
mod program;
mod translate;

use program::Program;

/// How a pattern is read and matched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flags {
    /// Extended syntax; basic otherwise.
    pub extended: bool,
    pub ignore_case: bool,
    /// `^` and `$` also fit at line ends, and `.` and `[^…]` do not take a newline.
    pub lines: bool,
}

/// From where to where a group fitted, `None` when it had no part in the match.
pub(crate) type Groups = Vec<Option<(usize, usize)>>;

/// The machine gave up: only back references can make a match so laborious.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooHard;

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Posix {
    program: Program,
    /// Finds the start; not there for patterns with back references.
    filter: Option<regex::bytes::Regex>,
}

impl Posix {
    /// Compiles a pattern; the error is the text that regerror(3) has for it.
    pub fn new(pattern: &[u8], flags: Flags) -> Result<Posix, &'static str> {
        let tree = parse::parse(pattern, flags)?;
        let program = Program::new(&tree, flags)?;
        let filter = translate::to_regex(&tree.node, flags).and_then(|text| {
            regex::bytes::RegexBuilder::new(&text)
                .unicode(false)
                .build()
                .ok()
        });
        Ok(Posix { program, filter })
    }

    /// How many groups the pattern has.
    pub fn groups(&self) -> usize {
        self.program.groups
    }

    /// Whether the pattern fits anywhere.
    pub fn is_match(&self, text: &[u8]) -> Result<bool, TooHard> {
        match &self.filter {
            Some(filter) => Ok(filter.is_match(text)),
            None => Ok(self.start(text)?.is_some()),
        }
    }

    /// The whole match (0) and the groups.
    pub fn captures(&self, text: &[u8]) -> Result<Option<Groups>, TooHard> {
        let Some(start) = self.start(text)? else {
            return Ok(None);
        };
        let Some(end) = machine::longest(&self.program, text, start)? else {
            return Ok(None);
        };
        machine::groups(&self.program, text, start, end)
    }

    fn start(&self, text: &[u8]) -> Result<Option<usize>, TooHard> {
        if let Some(filter) = &self.filter {
            return Ok(filter.find(text).map(|found| found.start()));
        }
        for start in 0..=text.len() {
            if machine::longest(&self.program, text, start)?.is_some() {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flags(extended: bool) -> Flags {
        Flags {
            extended,
            ignore_case: true,
            lines: false,
        }
    }

    fn spans(pattern: &str, text: &str) -> Option<Vec<(usize, usize)>> {
        let pattern = Posix::new(pattern.as_bytes(), flags(true)).expect("a good pattern");
        let found = pattern.captures(text.as_bytes()).expect("easy");
        assert_eq!(
            found.is_some(),
            pattern.is_match(text.as_bytes()).expect("easy")
        );
        Some(found?.into_iter().flatten().collect())
    }

    // All of these were seen in glibc 2.36.
    #[test]
    fn the_longest_match_and_its_first_alternatives() {
        for (pattern, text, expected) in [
            ("a|ab", "xab", Some(vec![(1, 3)])),
            ("(a|ab)(bcd|c)?", "abcd", Some(vec![(0, 4), (0, 1), (1, 4)])),
            ("((a)|b)*", "ab", Some(vec![(0, 2), (1, 2), (0, 1)])),
            ("(()|a)+b", "aab", Some(vec![(0, 3), (1, 2), (0, 0)])),
            ("(a*)(a|ab)*", "aab", Some(vec![(0, 3), (0, 1), (1, 3)])),
            ("(a*)*", "aa", Some(vec![(0, 2), (0, 2)])),
            ("(a){2,3}", "aaaa", Some(vec![(0, 3), (2, 3)])),
            ("(^a|b$)", "xb", Some(vec![(1, 2), (1, 2)])),
            ("(.)\\1", "abb", Some(vec![(1, 3), (1, 2)])),
            ("(x)?(\\1y)", "y", None),
            ("\\d", "d", None),
            ("[A-z]", "_", None),
            ("a^b", "a^b", None),
            ("a{,3}b", "aab", Some(vec![(0, 3)])),
        ] {
            assert_eq!(spans(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn errors_have_the_texts_of_glibc() {
        for (pattern, extended, error) in [
            ("a\\", true, "Trailing backslash"),
            ("(a)\\2", true, "Invalid back reference"),
            ("a{1", true, "Unmatched \\{"),
            ("a{x}", true, "Invalid content of \\{\\}"),
            ("a{99999}", true, "Regular expression too big"),
            ("[a", true, "Unmatched [, [^, [:, [., or [="),
            ("[", true, "Invalid regular expression"),
            ("[b-a]", true, "Invalid range end"),
            ("[_-b]", true, "Invalid range end"),
            ("[[:nope:]]", true, "Invalid character class name"),
            ("[[.hyphen.]]", true, "Invalid collation character"),
            ("*a", true, "Invalid preceding regular expression"),
            ("(a", true, "Unmatched ( or \\("),
            ("\\(a", false, "Unmatched ( or \\("),
            ("a\\)", false, "Unmatched ( or \\("),
        ] {
            let found = Posix::new(pattern.as_bytes(), flags(extended)).map(|_| ());
            assert_eq!(found, Err(error), "{pattern}");
        }
    }

    #[test]
    fn basic_syntax() {
        for (pattern, text, fits) in [
            ("\\(a\\)\\1", "aa", true),
            ("a\\{2\\}", "aa", true),
            ("a{2}", "a{2}", true),
            ("a\\|b", "b", true),
            ("a+", "a+", true),
            ("ba\\+$", "baa", true),
            ("*a", "*a", true),
            ("a^b$c", "a^b$c", true),
            ("\\(^a$\\)", "a", true),
        ] {
            let pattern = Posix::new(pattern.as_bytes(), flags(false)).expect("a good pattern");
            assert_eq!(pattern.is_match(text.as_bytes()), Ok(fits), "{pattern:?}");
        }
    }

    #[test]
    fn back_references_cannot_stop_the_server() {
        let pattern = Posix::new(b"^(a*)*(a*)*\\1(a*)*c$", flags(true)).expect("a good pattern");
        assert_eq!(pattern.is_match(&[b'a'; 200]), Err(TooHard));
    }

    proptest! {
        // What the filter finds is what the machine finds without it; and no pattern or text makes either panic.
        #[test]
        fn the_filter_and_the_machine_agree(
            pattern in "([a-c.]|[*+?]|[()|]|\\[\\^?[a-c]-?[a-c]?\\]|[\\^$]|\\\\[wWsSbB<>1a]|\\{[0-3]?,?[0-3]?\\}){0,12}",
            text in "[a-cA \n]{0,12}",
            switches in 0..8u8,
        ) {
            let flags = Flags {
                extended: switches & 1 != 0,
                ignore_case: switches & 2 != 0,
                lines: switches & 4 != 0,
            };
            if let Ok(pattern) = Posix::new(pattern.as_bytes(), flags) {
                let with = pattern.captures(text.as_bytes());
                let is_match = pattern.is_match(text.as_bytes());
                prop_assert_eq!(with.as_ref().map(Option::is_some), is_match.as_ref().copied());
                let machine = Posix { filter: None, ..pattern };
                prop_assert_eq!(machine.captures(text.as_bytes()), with);
            }
        }

        #[test]
        fn any_bytes_are_a_pattern_or_an_error(
            pattern in prop::collection::vec(any::<u8>(), 0..40),
            extended in any::<bool>(),
        ) {
            let flags = Flags { extended, ignore_case: true, lines: false };
            if let Ok(pattern) = Posix::new(&pattern, flags) {
                let _ = pattern.captures(b"joe@example.org");
            }
        }
    }
}
