//! Netstrings (<http://cr.yp.to/proto/netstrings.txt>): `length:bytes,`, cut out of a stream as it
//! comes in. What is kept never exceeds what has arrived, nor the limit.

/// Why a stream of bytes is no row of netstrings. Nothing after it can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is missing, or is no decimal number before a colon. Leading zeros are taken, as
    /// Postfix takes them.
    #[error("malformed netstring length")]
    Length,
    /// The length is above the limit. Known before the content is read.
    #[error("netstring longer than {limit} bytes")]
    TooLong { limit: usize },
    /// Something else than a comma behind the content.
    #[error("netstring without a comma at its end")]
    Comma,
}

/// Cuts netstrings out of a stream. After an error it gives that error for ever.
#[derive(Debug)]
pub struct Frames {
    limit: usize,
    state: State,
    content: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In the digits; `None` before the first.
    Length(Option<usize>),
    /// So many bytes of content are to come.
    Content(usize),
    Comma,
    Broken(FrameError),
}

impl Frames {
    /// Netstrings whose content has at most `limit` bytes.
    pub fn new(limit: usize) -> Frames {
        Frames {
            limit,
            state: State::Length(None),
            content: Vec::new(),
        }
    }

    /// Takes bytes from the front of `input` until a netstring is complete, and gives its content;
    /// `None` when all of `input` was taken and more is needed.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        loop {
            match self.step(input) {
                Ok(Step::Complete) => return Ok(Some(std::mem::take(&mut self.content))),
                Ok(Step::Hungry) => return Ok(None),
                Ok(Step::Onward) => {}
                Err(error) => {
                    self.state = State::Broken(error);
                    self.content = Vec::new();
                    return Err(error);
                }
            }
        }
    }

    /// Whether the stream stands between two netstrings, where it may end.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Length(None))
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Step, FrameError> {
        if let State::Broken(error) = self.state {
            return Err(error);
        }
        if let State::Content(missing) = self.state {
            let (now, later) = input.split_at(missing.min(input.len()));
            self.content.extend_from_slice(now);
            *input = later;
            let missing = missing - now.len();
            if missing > 0 {
                self.state = State::Content(missing);
                return Ok(Step::Hungry);
            }
            self.state = State::Comma;
        }
        let Some((&byte, rest)) = input.split_first() else {
            return Ok(Step::Hungry);
        };
        *input = rest;
        match (self.state, byte) {
            (State::Comma, b',') => {
                self.state = State::Length(None);
                Ok(Step::Complete)
            }
            (State::Comma, _) => Err(FrameError::Comma),
            (State::Length(Some(length)), b':') => {
                self.state = State::Content(length);
                Ok(Step::Onward)
            }
            (State::Length(so_far), digit @ b'0'..=b'9') => {
                self.state = State::Length(Some(self.longer(so_far, digit)?));
                Ok(Step::Onward)
            }
            _ => Err(FrameError::Length),
        }
    }

    fn longer(&self, so_far: Option<usize>, digit: u8) -> Result<usize, FrameError> {
        let limit = self.limit;
        let length = so_far.unwrap_or(0).saturating_mul(10);
        let length = length.saturating_add(usize::from(digit - b'0'));
        if length > limit {
            return Err(FrameError::TooLong { limit });
        }
        Ok(length)
    }
}

enum Step {
    Complete,
    Hungry,
    Onward,
}

/// The content as a netstring.
pub fn frame(content: &[u8]) -> Vec<u8> {
    let mut framed = format!("{}:", content.len()).into_bytes();
    framed.reserve_exact(content.len() + 1);
    framed.extend_from_slice(content);
    framed.push(b',');
    framed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(limit: usize, mut input: &[u8]) -> (Vec<Vec<u8>>, Option<FrameError>) {
        let mut frames = Frames::new(limit);
        let mut found = Vec::new();
        loop {
            match frames.next(&mut input) {
                Ok(Some(content)) => found.push(content),
                Ok(None) => return (found, None),
                Err(error) => {
                    assert_eq!(
                        frames.next(&mut &b"1:a,"[..]),
                        Err(error),
                        "it stays broken"
                    );
                    return (found, Some(error));
                }
            }
        }
    }

    #[test]
    fn netstrings() {
        let limit = FrameError::TooLong { limit: 12 };
        for (input, contents, error) in [
            ("", vec![], None),
            ("0:,", vec![""], None),
            ("3:abc,", vec!["abc"], None),
            ("3:a,c,5:NUL\0x,", vec!["a,c", "NUL\0x"], None),
            ("12:hello world!,1:", vec!["hello world!"], None),
            ("13:", vec![], Some(limit)),
            ("99999999999999999999999999999999", vec![], Some(limit)),
            ("3:abc;", vec![], Some(FrameError::Comma)),
            ("1:a,3:abcd", vec!["a"], Some(FrameError::Comma)),
            (":", vec![], Some(FrameError::Length)),
            (",", vec![], Some(FrameError::Length)),
            ("-1:a,", vec![], Some(FrameError::Length)),
            (" 1:a,", vec![], Some(FrameError::Length)),
            ("1 :a,", vec![], Some(FrameError::Length)),
            ("0001:a,", vec!["a"], None),
            ("GET / HTTP/1.1\r\n", vec![], Some(FrameError::Length)),
        ] {
            let contents: Vec<Vec<u8>> = contents.iter().map(|c| c.as_bytes().to_vec()).collect();
            assert_eq!(all(12, input.as_bytes()), (contents, error), "{input:?}");
        }
    }

    #[test]
    fn a_promised_length_takes_no_memory() {
        let mut frames = Frames::new(1 << 40);
        assert_eq!(frames.next(&mut &b"1000000000:ab"[..]), Ok(None));
        assert!(frames.content.capacity() < 100);
        assert!(!frames.is_between());
    }

    proptest! {
        #[test]
        fn what_is_framed_comes_back_however_it_is_cut(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1usize..20,
        ) {
            let stream: Vec<u8> = contents.iter().flat_map(|content| frame(content)).collect();
            let mut frames = Frames::new(40);
            let mut found = Vec::new();
            for mut piece in stream.chunks(cut) {
                while let Some(content) = frames.next(&mut piece).expect("well formed") {
                    found.push(content);
                }
            }
            prop_assert_eq!(found, contents);
            prop_assert!(frames.is_between());
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (found, _) = all(20, &bytes);
            prop_assert!(found.iter().map(Vec::len).sum::<usize>() <= bytes.len());
        }
    }
}
