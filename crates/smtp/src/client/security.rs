//! STARTTLS (RFC 3207) and AUTH (RFC 4954) from the client's side: between the server's greeting and the first message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use mail::status::EnhancedCode;

use super::reader::Heard;
use super::session::{Awaited, Session, code_of};
use crate::server::Secret;

/// How a session is to be protected, and as whom to log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Whether to begin TLS.
    pub tls: TlsWish,
    /// Log in where the server offers AUTH.
    pub login: Option<Login>,
}

/// Whether to begin TLS with STARTTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsWish {
    /// Never.
    #[default]
    No,
    /// Where the server offers it.
    May,
    /// No message goes out without.
    Must,
}

/// A user's name and password, and the mechanisms that may be used with them, the best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// While the connection is not encrypted.
    pub in_the_clear: Vec<Mechanism>,
    /// Once it is.
    pub under_tls: Vec<Mechanism>,
    /// `smtp_sasl_auth_soft_bounce`: a login that is refused for good may yet work later.
    pub soft_bounce: bool,
}

/// The SASL mechanisms we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 2195: the password does not cross the wire.
    CramMd5,
    /// RFC 4616.
    Plain,
    /// As PLAIN, in two steps; never standardized, and widely used.
    Login,
}

impl Mechanism {
    /// All, the best first.
    pub const ALL: [Mechanism; 3] = [Mechanism::CramMd5, Mechanism::Plain, Mechanism::Login];

    /// Its name in EHLO and AUTH.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::CramMd5 => "CRAM-MD5",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// Whether it shows the password to whoever reads along.
    pub fn is_plaintext(self) -> bool {
        self != Mechanism::CramMd5
    }
}

/// AUTH in the middle.
pub(super) struct Exchange {
    mechanism: Mechanism,
    /// Challenges that were answered.
    answered: usize,
}

const NO_MECHANISM: EnhancedCode = EnhancedCode::new(4, 7, 0);
const NOT_OFFERED: EnhancedCode = EnhancedCode::new(4, 7, 4);
/// A server that asks on and on is no server.
const MOST_CHALLENGES: usize = 4;

impl Session {
    /// What this session is to do before its first message.
    pub fn secure(&mut self, security: Security) {
        self.security = security;
    }

    /// The server offers STARTTLS, or did before TLS began.
    pub fn offers_starttls(&self) -> bool {
        self.starttls_offered
    }

    /// The handshake has succeeded, after [`super::Step::StartTls`] or before the first step.
    ///
    /// RFC 3207 section 4.2: what the server said before is forgotten.
    pub fn tls_established(&mut self) {
        self.encrypted = true;
        self.reader.clear();
        self.output.clear();
        if std::mem::take(&mut self.tls_due) {
            self.offer = Default::default();
            self.say_hello(Awaited::Ehlo);
        }
    }

    /// The handshake has failed, or the certificate is not good enough: nothing more is said.
    pub fn tls_failed(&mut self, dsn: EnhancedCode, text: &str) {
        self.break_off(dsn, text.to_owned());
    }

    /// After EHLO: TLS first, then AUTH, then the message.
    pub(super) fn make_secure(&mut self) {
        self.starttls_offered |= self.offer.starttls;
        match self.security.tls {
            TlsWish::May | TlsWish::Must if !self.encrypted && self.offer.starttls => {
                self.output.extend_from_slice(b"STARTTLS\r\n");
                self.awaited.push_back(Awaited::StartTls);
            }
            TlsWish::Must if !self.encrypted => {
                let server = &self.server;
                let text = format!("TLS is required, but was not offered by host {server}");
                self.break_off(NOT_OFFERED, text);
            }
            _ => self.log_in(),
        }
    }

    pub(super) fn starttls_answered(&mut self, heard: &Heard) {
        if heard.reply.is_positive() {
            self.tls_due = true;
        } else if self.security.tls == TlsWish::Must {
            let dsn = EnhancedCode {
                class: 4,
                ..code_of(&heard.reply)
            };
            let text = format!(
                "TLS is required, but host {} refused to start TLS: {}",
                self.server, heard.raw
            );
            self.break_off(dsn, text);
        } else {
            self.log_in();
        }
    }

    fn log_in(&mut self) {
        let Some(login) = &self.security.login else {
            return self.begin_messages();
        };
        if self.offer.auth.is_empty() {
            // Whoever needs a login will say so to MAIL.
            return self.begin_messages();
        }
        let allowed = match self.encrypted {
            true => &login.under_tls,
            false => &login.in_the_clear,
        };
        let offered = |mechanism: &&Mechanism| {
            let mut names = self.offer.auth.iter();
            names.any(|name| name.eq_ignore_ascii_case(mechanism.name()))
        };
        let Some(&mechanism) = allowed.iter().find(offered) else {
            let text = format!(
                "SASL authentication failed; cannot authenticate to server {}: no mechanism available",
                self.server
            );
            return self.break_off(NO_MECHANISM, text);
        };
        let mut line = format!("AUTH {}", mechanism.name());
        if mechanism == Mechanism::Plain {
            let response = format!("\0{}\0{}", login.user, login.password.expose());
            line.push(' ');
            line.push_str(&BASE64.encode(response));
        }
        line.push_str("\r\n");
        self.output.extend_from_slice(line.as_bytes());
        self.exchange = Some(Exchange {
            mechanism,
            answered: 0,
        });
        self.awaited.push_back(Awaited::Auth);
    }

    pub(super) fn auth_answered(&mut self, heard: &Heard) {
        if heard.reply.is_positive() {
            self.exchange = None;
            return self.begin_messages();
        }
        let answer = match heard.reply.code {
            334 => self.respond(&heard.reply.text),
            _ => None,
        };
        if let Some(answer) = answer {
            self.output.extend_from_slice(answer.as_bytes());
            self.output.extend_from_slice(b"\r\n");
            return self.awaited.push_back(Awaited::Auth);
        }
        let soft = self.security.login.as_ref();
        let mut dsn = code_of(&heard.reply);
        if soft.is_none_or(|login| login.soft_bounce) || !heard.reply.is_permanent() {
            dsn.class = 4;
        }
        let text = format!(
            "SASL authentication failed; server {} said: {}",
            self.server, heard.raw
        );
        self.break_off(dsn, text);
    }

    /// The line that answers a challenge; `None` for one that makes no sense.
    fn respond(&mut self, challenge: &str) -> Option<String> {
        let login = self.security.login.as_ref()?;
        let exchange = self.exchange.as_mut()?;
        let step = exchange.answered;
        exchange.answered += 1;
        if step >= MOST_CHALLENGES {
            return None;
        }
        let password = login.password.expose();
        let plain = match (exchange.mechanism, step) {
            (Mechanism::CramMd5, 0) => {
                let challenge = BASE64.decode(challenge.trim()).ok()?;
                let mut mac = Hmac::<md5::Md5>::new_from_slice(password.as_bytes()).ok()?;
                mac.update(&challenge);
                let digest = mac.finalize().into_bytes();
                let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{} {digits}", login.user)
            }
            (Mechanism::Plain, 0) => format!("\0{}\0{password}", login.user),
            (Mechanism::Login, 0) => login.user.clone(),
            (Mechanism::Login, 1) => password.to_owned(),
            _ => return None,
        };
        Some(BASE64.encode(plain))
    }
}
