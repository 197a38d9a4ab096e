//! Replies as values, and the fixed reply texts of the server in one place.
//!
//! The texts equal Postfix's: log readers and people's eyes know them.

use std::borrow::Cow;
use std::fmt;

use mail::status::EnhancedCode;

/// One SMTP reply (RFC 5321 section 4.2): a code, an enhanced status code (RFC 3463) and a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The three digits, 200 to 599.
    pub code: u16,
    /// The enhanced status code; replies to HELO, EHLO and DATA have none.
    pub enhanced: Option<EnhancedCode>,
    /// The text after the codes; `\n` separates the lines of a reply of several lines.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced status code.
    pub fn new(code: u16, enhanced: EnhancedCode, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply {
            code,
            enhanced: Some(enhanced),
            text: text.into(),
        }
    }

    /// A reply without an enhanced status code.
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply {
            code,
            enhanced: None,
            text: text.into(),
        }
    }

    /// Reads `554 5.7.1 Relay access denied` (as access tables and policy servers give it).
    /// The enhanced code may be missing. `None` unless it begins with a code from 200 to 599.
    pub fn parse(text: &str) -> Option<Reply> {
        let (code, rest) = split_code(text)?;
        let (enhanced, rest) = split_enhanced(code, rest);
        Some(Reply {
            code,
            enhanced,
            text: Cow::Owned(rest.to_owned()),
        })
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4xx: to be tried again.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx: not to be tried again.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Appends the reply as it goes over the wire, every line ended by CR LF.
    /// Control characters in the text become `?`: a reply can never break into two.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let code = [
            b'0' + (self.code / 100 % 10) as u8,
            b'0' + (self.code / 10 % 10) as u8,
            b'0' + (self.code % 10) as u8,
        ];
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.extend_from_slice(&code);
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(enhanced.to_string().as_bytes());
                out.push(b' ');
            }
            out.extend(
                line.bytes()
                    .map(|b| if b.is_ascii_control() { b'?' } else { b }),
            );
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The reply as it goes over the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + 16);
        self.write_to(&mut out);
        out
    }
}

/// The reply in one line as logs show it: `554 5.7.1 text`; the lines of the text are joined by spaces.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.text.split('\n') {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

/// Splits `250-text` or `250 text` or `250` into code and text.
pub(crate) fn split_code(line: &str) -> Option<(u16, &str)> {
    let digits = line.get(..3)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let code: u16 = digits.parse().ok()?;
    let rest = &line[3..];
    let rest = match rest.as_bytes().first() {
        None => rest,
        Some(b' ' | b'-') => &rest[1..],
        Some(_) => return None,
    };
    (200..600).contains(&code).then_some((code, rest))
}

/// Splits `5.1.1 text`; an enhanced code whose class is not the code's first digit counts as text (RFC 3463 section 2).
pub(crate) fn split_enhanced(code: u16, text: &str) -> (Option<EnhancedCode>, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word.parse::<EnhancedCode>() {
        Ok(enhanced) if u16::from(enhanced.class) == code / 100 => {
            (Some(enhanced), rest.trim_start())
        }
        _ => (None, text),
    }
}

const fn fixed(code: u16, class: u8, subject: u16, detail: u16, text: &'static str) -> Reply {
    Reply {
        code,
        enhanced: Some(EnhancedCode::new(class, subject, detail)),
        text: Cow::Borrowed(text),
    }
}

const fn fixed_plain(code: u16, text: &'static str) -> Reply {
    Reply {
        code,
        enhanced: None,
        text: Cow::Borrowed(text),
    }
}

/// A milter wants the connection closed.
pub const MILTER_SHUTDOWN: Reply = fixed(421, 4, 7, 0, "Server closing connection");
/// A milter's answer cannot be passed on.
pub const MILTER_UNAVAILABLE: Reply = fixed(451, 4, 7, 1, "Service unavailable - try again later");
/// RSET, NOOP, and the end of a message whose receiver gave no text of his own.
pub const OK: Reply = fixed(250, 2, 0, 0, "Ok");
/// MAIL.
pub const SENDER_OK: Reply = fixed(250, 2, 1, 0, "Ok");
/// RCPT.
pub const RECIPIENT_OK: Reply = fixed(250, 2, 1, 5, "Ok");
/// QUIT.
pub const BYE: Reply = fixed(221, 2, 0, 0, "Bye");
/// DATA.
pub const START_DATA: Reply = fixed_plain(354, "End data with <CR><LF>.<CR><LF>");

/// HELO, EHLO and LHLO without a name.
pub const HELO_SYNTAX: Reply = fixed_plain(501, "Syntax: HELO hostname");
/// See [`HELO_SYNTAX`].
pub const EHLO_SYNTAX: Reply = fixed_plain(501, "Syntax: EHLO hostname");
/// See [`HELO_SYNTAX`].
pub const LHLO_SYNTAX: Reply = fixed_plain(501, "Syntax: LHLO hostname");
/// MAIL before HELO where `smtpd_helo_required`.
pub const HELO_FIRST: Reply = fixed(503, 5, 5, 1, "Error: send HELO/EHLO first");
/// The same in LMTP.
pub const LHLO_FIRST: Reply = fixed(503, 5, 5, 1, "Error: send LHLO first");

/// MAIL inside a transaction.
pub const NESTED_MAIL: Reply = fixed(503, 5, 5, 1, "Error: nested MAIL command");
/// MAIL that is not `MAIL FROM:<address>`.
pub const MAIL_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: MAIL FROM:<address>");
/// A sender that cannot be read.
pub const BAD_SENDER: Reply = fixed(501, 5, 1, 7, "Bad sender address syntax");
/// `SIZE=` that is not a number.
pub const BAD_SIZE: Reply = fixed(501, 5, 5, 4, "Bad message size syntax");
/// `SIZE=` above `message_size_limit`.
pub const TOO_LARGE: Reply = fixed(552, 5, 3, 4, "Message size exceeds fixed limit");
/// `SIZE=` that no file system holds.
pub const TOO_LARGE_FOR_ANY: Reply = fixed(
    552,
    5,
    3,
    4,
    "Message size exceeds file system imposed limit",
);
/// `RET=`.
pub const BAD_RET: Reply = fixed(501, 5, 5, 4, "Bad RET parameter syntax");
/// `ENVID=`.
pub const BAD_ENVID: Reply = fixed(501, 5, 5, 4, "Bad ENVID parameter syntax");
/// `AUTH=`.
pub const BAD_AUTH: Reply = fixed(501, 5, 5, 4, "Bad AUTH parameter syntax");
/// A non-ASCII address without SMTPUTF8 where `strict_smtputf8`.
pub const NEED_SMTPUTF8: Reply = fixed(
    553,
    5,
    6,
    7,
    "Must declare SMTPUTF8 to send unicode address",
);

/// RCPT or DATA outside a transaction.
pub const NEED_MAIL: Reply = fixed(503, 5, 5, 1, "Error: need MAIL command");
/// RCPT that is not `RCPT TO:<address>`.
pub const RCPT_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: RCPT TO:<address>");
/// A recipient that cannot be read.
pub const BAD_RECIPIENT: Reply = fixed(501, 5, 1, 3, "Bad recipient address syntax");
/// `NOTIFY=`.
pub const BAD_NOTIFY: Reply = fixed(501, 5, 5, 4, "Error: Bad NOTIFY parameter syntax");
/// `ORCPT=`.
pub const BAD_ORCPT: Reply = fixed(501, 5, 5, 4, "Error: Bad ORCPT parameter syntax");
/// More than `smtpd_recipient_limit`.
pub const TOO_MANY_RECIPIENTS: Reply = fixed(452, 4, 5, 3, "Error: too many recipients");

/// DATA with an argument.
pub const DATA_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: DATA");
/// DATA before any RCPT.
pub const NEED_RCPT: Reply = fixed(503, 5, 5, 1, "Error: need RCPT command");
/// DATA when every RCPT was refused.
pub const NO_VALID_RECIPIENTS: Reply = fixed(554, 5, 5, 1, "Error: no valid recipients");
/// The content grew beyond `message_size_limit`.
pub const MESSAGE_TOO_BIG: Reply = fixed(552, 5, 3, 4, "Error: message file too big");

/// RSET with an argument.
pub const RSET_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: RSET");
/// VRFY without an address.
pub const VRFY_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: VRFY address");
/// The same where SMTPUTF8 is offered.
pub const VRFY_SYNTAX_UTF8: Reply = fixed(501, 5, 5, 4, "Syntax: VRFY address [SMTPUTF8]");
/// `disable_vrfy_command`.
pub const VRFY_DISABLED: Reply = fixed(502, 5, 5, 1, "VRFY command is disabled");
/// ETRN without a domain.
pub const ETRN_SYNTAX: Reply = fixed_plain(500, "Syntax: ETRN domain");
/// ETRN with what is no domain.
pub const ETRN_BAD_DOMAIN: Reply = fixed_plain(501, "Error: invalid parameter syntax");
/// ETRN inside a transaction.
pub const ETRN_IN_TRANSACTION: Reply = fixed_plain(503, "Error: MAIL transaction in progress");
/// ETRN.
pub const ETRN_STARTED: Reply = fixed_plain(250, "Queuing started");
/// Two `AUTH=` in one MAIL.
pub const MULTIPLE_AUTH: Reply = fixed(503, 5, 5, 4, "Error: multiple AUTH= options");
/// STARTTLS with an argument.
pub const STARTTLS_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: STARTTLS");
/// STARTTLS: the handshake may begin.
pub const READY_FOR_TLS: Reply = fixed(220, 2, 0, 0, "Ready to start TLS");
/// STARTTLS under TLS.
pub const TLS_ACTIVE: Reply = fixed(554, 5, 5, 1, "Error: TLS already active");
/// STARTTLS while there is no certificate.
pub const TLS_UNAVAILABLE: Reply = fixed(454, 4, 7, 0, "TLS not available due to local problem");
/// Commands before STARTTLS where TLS is required.
pub const STARTTLS_FIRST: Reply = fixed(530, 5, 7, 0, "Must issue a STARTTLS command first");
/// AUTH without a mechanism, or with too much behind it.
pub const AUTH_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: AUTH mechanism");
/// AUTH: the password was right.
pub const AUTHENTICATED: Reply = fixed(235, 2, 7, 0, "Authentication successful");
/// AUTH for the second time.
pub const ALREADY_AUTHENTICATED: Reply = fixed(503, 5, 5, 1, "Error: already authenticated");
/// AUTH between MAIL and the end of the message.
pub const AUTH_IN_TRANSACTION: Reply = fixed(503, 5, 5, 1, "Error: MAIL transaction in progress");
/// `*` in the place of a response.
pub const AUTH_ABORTED: Reply = fixed(501, 5, 7, 0, "Authentication aborted");
/// A response above `smtpd_sasl_response_limit`.
pub const AUTH_TOO_LONG: Reply = fixed(500, 5, 5, 6, "SASL response limit exceeded");
/// STARTTLS and BDAT while we do not offer them.
pub const NOT_IMPLEMENTED: Reply = fixed(502, 5, 5, 1, "Error: command not implemented");
/// AUTH while we do not offer it.
pub const NO_AUTHENTICATION: Reply = fixed(503, 5, 5, 1, "Error: authentication not enabled");
/// XCLIENT and XFORWARD.
pub const NOT_AUTHORIZED: Reply = fixed(550, 5, 7, 0, "Error: insufficient authorization");
/// XCLIENT without attributes.
pub const XCLIENT_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: XCLIENT attribute=value...");
/// XFORWARD without attributes.
pub const XFORWARD_SYNTAX: Reply = fixed(501, 5, 5, 4, "Syntax: XFORWARD attribute=value...");
/// XCLIENT or XFORWARD with something else.
pub const ATTRIBUTE_EXPECTED: Reply = fixed(501, 5, 5, 4, "Error: attribute=value expected");
/// Text sent ahead where `smtpd_forbid_unauth_pipelining`.
pub const NOT_SYNCHRONIZED: Reply = fixed(554, 5, 5, 0, "Error: SMTP protocol synchronization");

/// A verb that we do not have.
pub const UNKNOWN_COMMAND: Reply = fixed(500, 5, 5, 2, "Error: command not recognized");
/// An empty line.
pub const BAD_SYNTAX: Reply = fixed(500, 5, 5, 2, "Error: bad syntax");
/// A command that is not UTF-8.
pub const BAD_UTF8: Reply = fixed(500, 5, 5, 2, "Error: bad UTF-8 syntax");
/// A verb of `smtpd_forbidden_commands`, or a line that looks like a message header.
pub const FORBIDDEN_COMMAND: Reply = fixed(221, 2, 7, 0, "Error: I can break rules, too. Goodbye.");
/// A question was left unanswered: a bug of the caller, answered so that nothing is lost or let through.
pub const UNANSWERED: Reply = fixed(451, 4, 3, 0, "Error: internal software error");

/// `421` when the error limit is reached.
pub fn too_many_errors(hostname: &str) -> Reply {
    Reply::new(
        421,
        EnhancedCode::new(4, 7, 0),
        format!("{hostname} Error: too many errors"),
    )
}

/// `421` when the client is silent for too long.
pub fn timeout_exceeded(hostname: &str) -> Reply {
    Reply::new(
        421,
        EnhancedCode::new(4, 4, 2),
        format!("{hostname} Error: timeout exceeded"),
    )
}

/// `421` when the server goes down.
pub fn shutting_down(hostname: &str) -> Reply {
    Reply::new(
        421,
        EnhancedCode::new(4, 3, 2),
        format!("{hostname} Service shutting down"),
    )
}

/// A milter refuses the client when it connects.
pub fn milter_refuses_client(hostname: &str) -> Reply {
    Reply::plain(554, format!("{hostname} ESMTP not accepting connections"))
}

/// EHLO of a client that a milter refuses.
pub fn bare_ehlo(hostname: &str) -> Reply {
    Reply::plain(250, format!("{hostname}\nENHANCEDSTATUSCODES"))
}

/// A milter wants the connection closed when the client connects.
pub fn milter_closes(hostname: &str) -> Reply {
    let text = format!("{hostname} Service unavailable - try again later");
    Reply::plain(421, text)
}

/// A MAIL or RCPT parameter that we do not have.
pub fn unsupported_option(option: &str) -> Reply {
    Reply::new(
        555,
        EnhancedCode::new(5, 5, 4),
        format!("Unsupported option: {option}"),
    )
}

/// ETRN for a domain that is not in `fast_flush_domains`.
pub fn etrn_unavailable(domain: &str) -> Reply {
    Reply::plain(459, format!("<{domain}>: service unavailable"))
}

/// AUTH: the challenge of the mechanism, base64.
pub fn challenge(base64: &str) -> Reply {
    Reply::plain(334, base64.to_owned())
}

/// AUTH: wrong password, unknown user, unknown mechanism.
pub fn auth_failed(reason: &str) -> Reply {
    Reply::new(
        535,
        EnhancedCode::new(5, 7, 8),
        format!("Error: authentication failed: {reason}"),
    )
}

/// AUTH: nobody could be asked.
pub fn auth_unavailable(reason: &str) -> Reply {
    Reply::new(
        454,
        EnhancedCode::new(4, 7, 0),
        format!("Temporary authentication failure: {reason}"),
    )
}

/// `smtpd_tls_req_ccert`: no certificate, or one that nobody known has signed.
pub fn client_certificate(hostname: &str, problem: &str) -> Reply {
    Reply::new(
        421,
        EnhancedCode::new(4, 7, 1),
        format!("{hostname} Error: {problem}"),
    )
}

/// An attribute of XCLIENT or XFORWARD that does not exist.
pub fn bad_attribute(verb: &str, name: &str) -> Reply {
    let name: String = name.chars().take(100).collect();
    Reply::new(
        501,
        EnhancedCode::new(5, 5, 4),
        format!("Bad {verb} attribute name: {name}"),
    )
}

/// An attribute of XCLIENT or XFORWARD whose value is nonsense.
pub fn bad_value(name: &str, value: &str) -> Reply {
    let value: String = value.chars().take(100).collect();
    Reply::new(
        501,
        EnhancedCode::new(5, 5, 4),
        format!("Bad {name} syntax: {value}"),
    )
}

/// Every command but QUIT after the client was refused when it connected.
pub fn access_denied(client: &str) -> Reply {
    Reply::new(
        503,
        EnhancedCode::new(5, 7, 0),
        format!("Error: access denied for {client}"),
    )
}

/// A line that ends in LF without CR, where `smtpd_forbid_bare_newline = reject`.
pub fn bare_newline(code: u16, hostname: &str) -> Reply {
    Reply::new(
        code,
        EnhancedCode::new(5, 5, 2),
        format!("{hostname} Error: bare <LF> received"),
    )
}
