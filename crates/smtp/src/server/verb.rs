//! The verbs of the server, and how often each was used.

/// A command of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    Xclient,
    Xforward,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Etrn,
    Quit,
    Unknown,
}

/// All verbs in the order of the log line, with their names there.
const VERBS: [(Verb, &str); 17] = [
    (Verb::Helo, "HELO"),
    (Verb::Ehlo, "EHLO"),
    (Verb::Lhlo, "LHLO"),
    (Verb::Xclient, "XCLIENT"),
    (Verb::Xforward, "XFORWARD"),
    (Verb::StartTls, "STARTTLS"),
    (Verb::Auth, "AUTH"),
    (Verb::Mail, "MAIL"),
    (Verb::Rcpt, "RCPT"),
    (Verb::Data, "DATA"),
    (Verb::Bdat, "BDAT"),
    (Verb::Rset, "RSET"),
    (Verb::Noop, "NOOP"),
    (Verb::Vrfy, "VRFY"),
    (Verb::Etrn, "ETRN"),
    (Verb::Quit, "QUIT"),
    (Verb::Unknown, "UNKNOWN"),
];

impl Verb {
    /// The verb of that name, in any case.
    pub fn of(word: &str) -> Verb {
        let known = VERBS
            .iter()
            .find(|(verb, name)| *verb != Verb::Unknown && name.eq_ignore_ascii_case(word));
        known.map_or(Verb::Unknown, |(verb, _)| *verb)
    }

    /// The name in capitals.
    pub fn name(self) -> &'static str {
        VERBS[self as usize].1
    }

    /// Allowed before STARTTLS where TLS is required (RFC 3207 section 4); what is no command has
    /// its own reply.
    pub fn is_allowed_in_the_clear(self) -> bool {
        matches!(
            self,
            Verb::Helo
                | Verb::Ehlo
                | Verb::Lhlo
                | Verb::StartTls
                | Verb::Noop
                | Verb::Quit
                | Verb::Xclient
                | Verb::Xforward
                | Verb::Unknown
        )
    }

    /// Nothing may be sent ahead behind it (RFC 2920 section 3.1).
    pub fn ends_a_group(self) -> bool {
        matches!(
            self,
            Verb::Helo | Verb::Ehlo | Verb::Lhlo | Verb::Data | Verb::Vrfy | Verb::Noop
        )
    }

    /// Costs the server work and brings no mail: counts towards `smtpd_junk_command_limit`.
    pub fn is_junk(self) -> bool {
        matches!(
            self,
            Verb::Helo
                | Verb::Ehlo
                | Verb::Lhlo
                | Verb::Rset
                | Verb::Noop
                | Verb::Vrfy
                | Verb::Etrn
        )
    }
}

/// How many commands were given, and how many of them succeeded.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    given: [u32; VERBS.len()],
    good: [u32; VERBS.len()],
}

impl Counters {
    pub fn given(&mut self, verb: Verb) {
        self.given[verb as usize] += 1;
    }

    pub fn good(&mut self, verb: Verb) {
        self.good[verb as usize] += 1;
    }

    /// `ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4`.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        let mut entry = |name: &str, good: u32, given: u32| {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&name.to_ascii_lowercase());
            out.push('=');
            if good != given || given == 0 {
                out.push_str(&format!("{good}/"));
            }
            out.push_str(&given.to_string());
        };
        for (verb, name) in VERBS {
            let i = verb as usize;
            if self.given[i] > 0 {
                entry(name, self.good[i], self.given[i]);
            }
        }
        entry("commands", self.good.iter().sum(), self.given.iter().sum());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (i, (verb, _)) in VERBS.iter().enumerate() {
            assert_eq!(*verb as usize, i);
        }
        assert_eq!(Verb::of("mail"), Verb::Mail);
        assert_eq!(Verb::of("unknown"), Verb::Unknown);
    }

    #[test]
    fn summary_is_postfixs() {
        let mut counters = Counters::default();
        assert_eq!(counters.summary(), "commands=0/0");
        counters.given(Verb::Rcpt);
        counters.given(Verb::Rcpt);
        counters.good(Verb::Rcpt);
        counters.given(Verb::Unknown);
        assert_eq!(counters.summary(), "rcpt=1/2 unknown=0/1 commands=1/3");
    }
}
