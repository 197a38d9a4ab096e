//! The milter protocol on the wire: a length, a letter, the data. Commands are put together, replies taken apart.

/// Of a longer reply nothing is read.
pub const LONGEST: usize = 16 * 1024 * 1024;

/// A reply, apart from the one to the negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Continue,
    Accept,
    Discard,
    Reject,
    TempFail,
    Shutdown,
    /// `SMFIR_CONN_FAIL`: what the milter depends on is down.
    ConnectionFailed,
    /// No more body chunks are wanted.
    Skip,
    Progress,
    /// A whole SMTP reply, CR LF between its lines.
    Code(String),
    Edit(Edit),
}

/// A change that a milter wants at the end of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    AddHeader {
        name: String,
        value: Vec<u8>,
    },
    InsertHeader {
        index: u32,
        name: String,
        value: Vec<u8>,
    },
    /// An empty value deletes.
    ChangeHeader {
        index: u32,
        name: String,
        value: Vec<u8>,
    },
    AddRecipient {
        address: String,
        parameters: String,
    },
    DeleteRecipient {
        address: String,
    },
    ChangeSender {
        address: String,
        parameters: String,
    },
    /// A piece of the new body, its lines ended by CR LF.
    ReplaceBody(Vec<u8>),
    Quarantine {
        reason: String,
    },
}

/// A packet with this letter and data, length in front.
pub fn write(out: &mut Vec<u8>, letter: u8, parts: &[&[u8]]) {
    let length: usize = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    // Parts are header lines and pieces of 64 KiB, so the length fits.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.push(letter);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Text as the protocol has it: ended by NUL, and none inside.
pub fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = text.iter().copied().filter(|&byte| byte != 0).collect();
    bytes.push(0);
    bytes
}

/// Takes a reply apart. `None`: it is none that the protocol has.
pub fn parse(letter: u8, data: &[u8]) -> Option<Reply> {
    let plain = |reply: Reply| data.is_empty().then_some(reply);
    match letter {
        b'c' => plain(Reply::Continue),
        b'a' => plain(Reply::Accept),
        b'd' => plain(Reply::Discard),
        b'r' => plain(Reply::Reject),
        b't' => plain(Reply::TempFail),
        b'4' => plain(Reply::Shutdown),
        b'f' => plain(Reply::ConnectionFailed),
        b's' => plain(Reply::Skip),
        b'p' => plain(Reply::Progress),
        b'y' => Some(Reply::Code(text(trimmed(data)))),
        _ => parse_edit(letter, data).map(Reply::Edit),
    }
}

fn parse_edit(letter: u8, data: &[u8]) -> Option<Edit> {
    Some(match letter {
        b'h' => {
            let (name, value) = name_and_value(data)?;
            Edit::AddHeader { name, value }
        }
        b'i' => {
            let (index, rest) = number(data)?;
            let (name, value) = name_and_value(rest)?;
            Edit::InsertHeader { index, name, value }
        }
        b'm' => {
            let (index, rest) = number(data)?;
            let (name, value) = name_and_value(rest)?;
            Edit::ChangeHeader { index, name, value }
        }
        b'+' => Edit::AddRecipient {
            address: text(trimmed(data)),
            parameters: String::new(),
        },
        b'2' => {
            let (address, parameters) = address_and_parameters(data)?;
            Edit::AddRecipient {
                address,
                parameters,
            }
        }
        b'-' => Edit::DeleteRecipient {
            address: text(trimmed(data)),
        },
        b'e' => {
            let (address, parameters) = address_and_parameters(data)?;
            Edit::ChangeSender {
                address,
                parameters,
            }
        }
        b'b' => Edit::ReplaceBody(data.to_vec()),
        b'q' => Edit::Quarantine {
            reason: text(trimmed(data)),
        },
        _ => return None,
    })
}

/// The data up to the first NUL.
fn trimmed(data: &[u8]) -> &[u8] {
    let end = data.iter().position(|&byte| byte == 0);
    &data[..end.unwrap_or(data.len())]
}

fn split_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = data.iter().position(|&byte| byte == 0)?;
    Some((&data[..end], &data[end + 1..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(data: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = data.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn name_and_value(data: &[u8]) -> Option<(String, Vec<u8>)> {
    let (name, value) = split_string(data)?;
    Some((text(name), trimmed(value).to_vec()))
}

fn address_and_parameters(data: &[u8]) -> Option<(String, String)> {
    match split_string(data) {
        Some((address, parameters)) => Some((text(address), text(trimmed(parameters)))),
        None => Some((text(data), String::new())),
    }
}

/// What a milter answers to the negotiation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    pub version: u32,
    /// What it may want to change.
    pub actions: u32,
    /// Steps that it does not want to see or to answer.
    pub steps: u32,
    /// The macros that it wants at a stage, by the stage's number.
    pub macros: Vec<(u32, String)>,
}

/// Takes the answer to the negotiation apart.
pub fn parse_negotiation(data: &[u8]) -> Option<Negotiated> {
    let (version, rest) = number(data)?;
    let (actions, rest) = number(rest)?;
    let (steps, mut rest) = number(rest)?;
    let mut macros = Vec::new();
    while !rest.is_empty() {
        let (stage, behind) = number(rest)?;
        let (names, behind) = split_string(behind)?;
        macros.push((stage, text(names)));
        rest = behind;
    }
    Some(Negotiated {
        version,
        actions,
        steps,
        macros,
    })
}

/// The reply as smtpd may send it: `ddd text`, every line with the code of the first, a class of 4 or 5.
pub fn is_valid_code(reply: &str) -> bool {
    let lines: Vec<&str> = reply.split("\r\n").collect();
    let code = reply.get(..3).unwrap_or_default();
    let good = |line: &str| {
        let bytes = line.as_bytes();
        bytes.len() > 3
            && line.starts_with(code)
            && (bytes[3] == b' ' || bytes[3] == b'-')
            && bytes
                .get(4)
                .is_none_or(|&class| !class.is_ascii_digit() || class == bytes[0])
    };
    let class = code.as_bytes().first();
    code.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(class, Some(b'4' | b'5'))
        && lines.iter().all(|line| good(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_apart() {
        for (letter, data, expected) in [
            (b'c', &b""[..], Some(Reply::Continue)),
            (b'c', b"x", None),
            (b'z', b"", None),
            (
                b'y',
                b"550 5.7.1 no\0",
                Some(Reply::Code("550 5.7.1 no".into())),
            ),
            (
                b'h',
                b"X\0a\n b\0",
                Some(Reply::Edit(Edit::AddHeader {
                    name: "X".into(),
                    value: b"a\n b".to_vec(),
                })),
            ),
            (b'h', b"X", None),
            (
                b'm',
                b"\0\0\0\x02X\0\0",
                Some(Reply::Edit(Edit::ChangeHeader {
                    index: 2,
                    name: "X".into(),
                    value: Vec::new(),
                })),
            ),
            (b'i', b"\0\0\0", None),
            (
                b'2',
                b"<a@b>\0NOTIFY=NEVER\0",
                Some(Reply::Edit(Edit::AddRecipient {
                    address: "<a@b>".into(),
                    parameters: "NOTIFY=NEVER".into(),
                })),
            ),
            (
                b'b',
                b"a\0b",
                Some(Reply::Edit(Edit::ReplaceBody(b"a\0b".to_vec()))),
            ),
        ] {
            assert_eq!(parse(letter, data), expected, "{} {data:?}", letter as char);
        }
    }

    #[test]
    fn negotiations_are_taken_apart() {
        let mut data = [6u32, 0x1ff, 0x80].map(u32::to_be_bytes).concat();
        data.extend_from_slice(b"\0\0\0\x03i {rcpt_addr}\0");
        let found = parse_negotiation(&data).expect("it is well formed");
        assert_eq!((found.version, found.steps), (6, 0x80));
        assert_eq!(found.macros, [(3, "i {rcpt_addr}".to_owned())]);
        for length in 0..data.len() {
            let cut = parse_negotiation(&data[..length]);
            assert_eq!(cut.is_some(), length == 12, "{length} bytes");
        }
    }

    #[test]
    fn only_refusals_are_replies() {
        for (reply, good) in [
            ("550 5.7.1 no", true),
            ("451-4.3.0 a\r\n451 4.3.0 b", true),
            ("451-4.3.0 a\r\n551 4.3.0 b", false),
            ("250 ok", false),
            ("550", false),
            ("550 4.7.1 no", false),
            ("5x0 no", false),
            ("", false),
            ("550\u{e9} no", false),
        ] {
            assert_eq!(is_valid_code(reply), good, "{reply}");
        }
    }
}
