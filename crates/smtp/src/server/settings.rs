//! What a server session needs to know, as plain values. The defaults are Postfix's.

use std::time::Duration;

use crate::Protocol;

/// The settings of all sessions of one listener; behind each field stands the main.cf parameter.
#[derive(Clone, Debug)]
pub struct Settings {
    /// SMTP, or LMTP as an LMTP server.
    pub protocol: Protocol,
    /// `myhostname`.
    pub hostname: String,
    /// `smtpd_banner`, expanded, without the code 220.
    pub banner: String,
    /// `message_size_limit` in bytes; 0: no limit.
    pub message_size_limit: u64,
    /// Unknown commands are asked about.
    pub ask_unknown: bool,
    /// `line_length_limit`: longer command lines are cut.
    pub line_length_limit: usize,
    /// `smtpd_recipient_limit`; 0: no limit.
    pub recipient_limit: usize,
    /// `smtpd_recipient_overshoot_limit`: recipients above the limit that do not yet count as errors.
    pub recipient_overshoot_limit: usize,
    /// `smtpd_soft_error_limit`: from then on each error costs `error_sleep_time`.
    pub soft_error_limit: usize,
    /// `smtpd_hard_error_limit`: 421.
    pub hard_error_limit: usize,
    /// `smtpd_error_sleep_time`.
    pub error_sleep_time: Duration,
    /// `smtpd_junk_command_limit`: NOOP, RSET, VRFY, … beyond it count as errors.
    pub junk_command_limit: usize,
    /// `smtpd_timeout`.
    pub timeout: Duration,
    /// `smtpd_per_request_deadline`: the timeout is for a whole request, not for each read.
    pub per_request_deadline: bool,
    /// `smtpd_min_data_rate`, bytes a second, with `per_request_deadline` and during DATA.
    pub min_data_rate: u64,
    /// `smtpd_helo_required`.
    pub helo_required: bool,
    /// `strict_rfc821_envelopes`: addresses must stand in `<>` and have no comments.
    pub strict_rfc821_envelopes: bool,
    /// `disable_vrfy_command`.
    pub disable_vrfy_command: bool,
    /// `smtputf8_enable`.
    pub smtputf8_enable: bool,
    /// `strict_smtputf8`.
    pub strict_smtputf8: bool,
    /// `inet_protocols` has IPv6: XCLIENT may name such an address.
    pub ipv6: bool,
    /// `allow_min_user`: recipients may begin with `-`.
    pub allow_min_user: bool,
    /// `resolve_null_domain`: `user@` is taken as `user@$myhostname`.
    pub resolve_null_domain: bool,
    /// `resolve_numeric_domain`: `user@1.2.3.4` is taken as `user@[1.2.3.4]`.
    pub resolve_numeric_domain: bool,
    /// `smtpd_discard_ehlo_keywords`.
    pub discard_ehlo_keywords: Vec<Keyword>,
    /// `smtpd_forbidden_commands`: the words of the list, in any case.
    pub forbidden_commands: Vec<String>,
    /// The list's default entry `regexp:{{/^[^A-Z]/ Bogus}}`: commands that do not begin with a letter.
    pub forbid_leading_non_letter: bool,
    /// `cleanup_replace_stray_cr_lf` (Postfix 3.9): a CR inside a line of the message becomes a blank,
    /// so that no next hop takes it for a line end.
    pub replace_stray_cr: bool,
    /// `smtpd_noop_commands`.
    pub noop_commands: Vec<String>,
    /// `smtpd_forbid_bare_newline` (`smtpd_forbid_bare_newline_exclusions` is decided by the caller).
    pub forbid_bare_newline: BareNewline,
    /// `smtpd_forbid_bare_newline_reject_code`.
    pub forbid_bare_newline_reject_code: u16,
    /// `smtpd_forbid_unauth_pipelining`: text sent ahead of the replies to
    /// EHLO and DATA ends the session with 554 (off in Postfix 3.7, on since 3.9).
    pub forbid_unauth_pipelining: bool,
    /// `smtpd_tls_security_level`.
    pub tls: TlsLevel,
    /// There is a certificate: STARTTLS can be answered with more than 454.
    pub tls_ready: bool,
    /// `smtpd_tls_auth_only`.
    pub tls_auth_only: bool,
    /// `smtpd_sasl_auth_enable`.
    pub sasl: bool,
    /// `broken_sasl_auth_clients`: `AUTH=` in the EHLO reply, too.
    pub broken_sasl_auth_clients: bool,
    /// Some `smtpd_client_…_rate_limit` is set: [`super::Question::Count`] is asked.
    pub count_commands: bool,
    /// `smtpd_sasl_response_limit`: bytes in one response of the client during AUTH.
    pub sasl_response_limit: usize,
}

/// `smtpd_tls_security_level`: whether clients may, or must, begin TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TlsLevel {
    /// `none`.
    #[default]
    None,
    /// `may`.
    May,
    /// `encrypt`: most commands are refused before STARTTLS.
    Encrypt,
}

/// `smtpd_forbid_bare_newline`: what a line that ends in LF without CR means in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum BareNewline {
    /// `no`, `note`: a line end; yet, unlike in Postfix, never the end of the message.
    No,
    /// `yes`, `normalize`: as `No`, which already cannot be smuggled through.
    #[default]
    Normalize,
    /// `reject`: the message is refused, and so is a command.
    Reject,
}

/// The keywords of the EHLO reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Keyword {
    Pipelining,
    Size,
    Vrfy,
    Etrn,
    StartTls,
    Auth,
    Xclient,
    Xforward,
    EnhancedStatusCodes,
    EightBitMime,
    Dsn,
    SmtpUtf8,
}

impl Keyword {
    /// All of them in the order of the EHLO reply.
    pub const ALL: [Keyword; 12] = [
        Keyword::Pipelining,
        Keyword::Size,
        Keyword::Vrfy,
        Keyword::Etrn,
        Keyword::StartTls,
        Keyword::Auth,
        Keyword::Xclient,
        Keyword::Xforward,
        Keyword::EnhancedStatusCodes,
        Keyword::EightBitMime,
        Keyword::Dsn,
        Keyword::SmtpUtf8,
    ];

    /// The keyword as the EHLO reply has it.
    pub const fn name(self) -> &'static str {
        match self {
            Keyword::Pipelining => "PIPELINING",
            Keyword::Size => "SIZE",
            Keyword::Vrfy => "VRFY",
            Keyword::Etrn => "ETRN",
            Keyword::StartTls => "STARTTLS",
            Keyword::Auth => "AUTH",
            Keyword::Xclient => "XCLIENT",
            Keyword::Xforward => "XFORWARD",
            Keyword::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Keyword::EightBitMime => "8BITMIME",
            Keyword::Dsn => "DSN",
            Keyword::SmtpUtf8 => "SMTPUTF8",
        }
    }

    /// The keyword of that name, in any case.
    pub fn of(name: &str) -> Option<Keyword> {
        Keyword::ALL
            .into_iter()
            .find(|k| k.name().eq_ignore_ascii_case(name))
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            protocol: Protocol::Smtp,
            hostname: "localhost".to_owned(),
            banner: "localhost ESMTP Postroom".to_owned(),
            message_size_limit: 10_240_000,
            ask_unknown: false,
            line_length_limit: 2048,
            recipient_limit: 1000,
            recipient_overshoot_limit: 1000,
            soft_error_limit: 10,
            hard_error_limit: 20,
            error_sleep_time: Duration::from_secs(1),
            junk_command_limit: 100,
            timeout: Duration::from_secs(300),
            per_request_deadline: false,
            min_data_rate: 500,
            helo_required: false,
            strict_rfc821_envelopes: false,
            disable_vrfy_command: false,
            smtputf8_enable: true,
            strict_smtputf8: false,
            allow_min_user: false,
            resolve_null_domain: false,
            ipv6: false,
            resolve_numeric_domain: false,
            discard_ehlo_keywords: Vec::new(),
            forbidden_commands: ["CONNECT", "GET", "POST"].map(str::to_owned).to_vec(),
            forbid_leading_non_letter: true,
            replace_stray_cr: true,
            noop_commands: Vec::new(),
            forbid_bare_newline: BareNewline::default(),
            forbid_bare_newline_reject_code: 550,
            forbid_unauth_pipelining: false,
            tls: TlsLevel::default(),
            tls_ready: false,
            tls_auth_only: false,
            sasl: false,
            broken_sasl_auth_clients: false,
            count_commands: false,
            sasl_response_limit: 12288,
        }
    }
}
