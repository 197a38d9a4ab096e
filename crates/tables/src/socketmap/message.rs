//! What stands in the netstrings: requests and replies.

/// One lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Which table; the part before the first blank.
    pub name: &'a [u8],
    /// The key, blanks and all.
    pub key: &'a [u8],
}

impl<'a> Request<'a> {
    /// `None` where there is no blank, or nothing before it.
    pub fn parse(content: &'a [u8]) -> Option<Request<'a>> {
        let blank = content.iter().position(|&byte| byte == b' ')?;
        (blank > 0).then(|| Request {
            name: &content[..blank],
            key: &content[blank + 1..],
        })
    }

    /// `name SP key`, to be framed.
    pub fn encode(&self) -> Vec<u8> {
        [self.name, b" ", self.key].concat()
    }
}

/// The first word of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Found; the text is the value.
    Ok,
    NotFound,
    /// Failed for now; the text is the reason, as with the next two.
    Temp,
    /// Took too long.
    Timeout,
    /// Will fail again.
    Perm,
}

impl Status {
    const ALL: [Status; 5] = [
        Status::Ok,
        Status::NotFound,
        Status::Temp,
        Status::Timeout,
        Status::Perm,
    ];

    /// As it stands in the reply.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::NotFound => "NOTFOUND",
            Status::Temp => "TEMP",
            Status::Timeout => "TIMEOUT",
            Status::Perm => "PERM",
        }
    }
}

/// The answer to one lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: Status,
    /// The value, or the reason; may be empty.
    pub text: Vec<u8>,
}

impl Reply {
    pub fn new(status: Status, text: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            text: text.into(),
        }
    }

    /// `None` when the first word is none of ours. The blank may be missing when no text follows:
    /// Postfix' client does not insist either.
    pub fn parse(content: &[u8]) -> Option<Reply> {
        let end = content.iter().position(|&byte| byte == b' ');
        let (word, text) = match end {
            Some(end) => (&content[..end], &content[end + 1..]),
            None => (content, &b""[..]),
        };
        let status = Status::ALL
            .into_iter()
            .find(|status| status.word().as_bytes() == word)?;
        Some(Reply::new(status, text))
    }

    /// `status SP text`, to be framed.
    pub fn encode(&self) -> Vec<u8> {
        [self.status.word().as_bytes(), b" ", &self.text].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        for (content, expected) in [
            ("name key", Some(("name", "key"))),
            ("name  two  blanks ", Some(("name", " two  blanks "))),
            ("name ", Some(("name", ""))),
            ("name", None),
            (" key", None),
            ("", None),
        ] {
            let expected = expected.map(|(name, key): (&str, &str)| Request {
                name: name.as_bytes(),
                key: key.as_bytes(),
            });
            let request = Request::parse(content.as_bytes());
            assert_eq!(request, expected, "{content:?}");
            if let Some(request) = request {
                assert_eq!(request.encode(), content.as_bytes());
            }
        }
    }

    #[test]
    fn replies() {
        for (content, expected) in [
            ("OK a b", Some((Status::Ok, "a b"))),
            ("OK ", Some((Status::Ok, ""))),
            ("NOTFOUND ", Some((Status::NotFound, ""))),
            ("NOTFOUND", Some((Status::NotFound, ""))),
            ("TEMP down", Some((Status::Temp, "down"))),
            ("TIMEOUT late", Some((Status::Timeout, "late"))),
            ("PERM no", Some((Status::Perm, "no"))),
            ("ok a", None),
            ("OKAY a", None),
            ("", None),
        ] {
            let expected = expected.map(|(status, text): (_, &str)| Reply::new(status, text));
            assert_eq!(Reply::parse(content.as_bytes()), expected, "{content:?}");
        }
        let value = [0u8, 255, b' ', b'\n'];
        let reply = Reply::new(Status::Ok, value);
        assert_eq!(Reply::parse(&reply.encode()), Some(reply));
    }
}
