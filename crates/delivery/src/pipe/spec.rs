//! The attributes of a pipe service in master.cf: `flags=`, `user=`, `argv=` and the others.

use nix::unistd::{Group, User};

use super::macros::Argument;
use crate::command::Identity;

/// A pipe service's settings, as its line in master.cf gives them.
#[derive(Clone, Debug)]
pub struct Spec {
    pub flags: Flags,
    pub user: Identity,
    /// What stands for the null sender in `$sender` and `Return-Path:`.
    pub null_sender: String,
    pub directory: Option<String>,
    pub eol: String,
    /// Larger messages bounce.
    pub size_limit: Option<u64>,
    /// The command and its arguments; never empty.
    pub argv: Vec<Argument>,
}

/// The letters of `flags=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `B`: an empty line at the end.
    pub blank_line: bool,
    /// `D`: `Delivered-To:`, and no message twice for the same address.
    pub delivered_to: bool,
    /// `F`: a `From ` line.
    pub from_line: bool,
    /// `O`: `X-Original-To:`.
    pub original_to: bool,
    /// `R`: `Return-Path:`.
    pub return_path: bool,
    /// `X`: the command is the final destination.
    pub is_final: bool,
    /// `h`: domains in lower case.
    pub fold_domain: bool,
    /// `u`: local parts in lower case.
    pub fold_local: bool,
    /// `q`: addresses quoted as RFC 822 wants it.
    pub quote: bool,
    /// `.`: leading dots doubled.
    pub double_dots: bool,
    /// `>`: `From ` quoted.
    pub quote_from: bool,
}

/// Reads the arguments of a `pipe` service. `mail_owner` is the account that commands may not run as. The
/// error says what is wrong with the line.
pub fn parse(args: &[String], mail_owner: &str) -> Result<Spec, String> {
    let mut flags = Flags::default();
    let mut user = None;
    let mut spec = Spec {
        flags,
        user: Identity {
            name: String::new(),
            uid: 0,
            gid: 0,
        },
        null_sender: "MAILER-DAEMON".to_owned(),
        directory: None,
        eol: "\n".to_owned(),
        size_limit: None,
        argv: Vec::new(),
    };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!("bad attribute syntax: {word}; expected name=value"));
        };
        match name {
            "flags" => flags = parse_flags(value)?,
            "user" => user = Some(identity(value, mail_owner)?),
            "null_sender" => spec.null_sender = value.to_owned(),
            "directory" => spec.directory = Some(value.to_owned()),
            "eol" => spec.eol = unescape(value),
            "size" => {
                let limit = value
                    .parse()
                    .map_err(|_| format!("bad size limit: size={value}"))?;
                spec.size_limit = (limit > 0).then_some(limit);
            }
            "argv" => {
                let command = std::iter::once(value).chain(words.by_ref().map(String::as_str));
                spec.argv = command.map(Argument::parse).collect::<Result<_, _>>()?;
            }
            "chroot" => return Err("chroot= is not supported: remove it".to_owned()),
            other => return Err(format!("unknown attribute name: {other}")),
        }
    }
    if spec.argv.first().is_none_or(Argument::is_empty) {
        return Err("missing argv= command-line attribute".to_owned());
    }
    spec.flags = flags;
    spec.user = user.ok_or("missing user= command-line attribute")?;
    Ok(spec)
}

fn parse_flags(text: &str) -> Result<Flags, String> {
    let mut flags = Flags::default();
    for letter in text.chars() {
        let flag = match letter {
            'B' => &mut flags.blank_line,
            'D' => &mut flags.delivered_to,
            'F' => &mut flags.from_line,
            'O' => &mut flags.original_to,
            'R' => &mut flags.return_path,
            'X' => &mut flags.is_final,
            'h' => &mut flags.fold_domain,
            'u' => &mut flags.fold_local,
            'q' => &mut flags.quote,
            '.' => &mut flags.double_dots,
            '>' => &mut flags.quote_from,
            other => {
                tracing::warn!(prog = "pipe", "unknown flag: {other} (ignored)");
                continue;
            }
        };
        *flag = true;
    }
    Ok(flags)
}

/// `user` or `user:group`; `user:` means the user's own group.
pub fn identity(value: &str, mail_owner: &str) -> Result<Identity, String> {
    let (name, group) = value.split_once(':').unwrap_or((value, ""));
    let lookup = |error: nix::errno::Errno| format!("user={value}: {}", error.desc());
    let user = User::from_name(name).map_err(lookup)?;
    let user = user.ok_or_else(|| format!("user={value}: unknown username: {name}"))?;
    let gid = match group {
        "" => user.gid,
        group => match Group::from_name(group).map_err(lookup)? {
            Some(found) => found.gid,
            None => return Err(format!("user={value}: unknown group: {group}")),
        },
    };
    if user.uid.is_root() || gid.as_raw() == 0 {
        return Err(format!(
            "user={value}: specifies a privileged user or group; commands never run as root"
        ));
    }
    if name == mail_owner {
        return Err(format!(
            "user={value}: specifies the mail system owner {mail_owner}; use another user"
        ));
    }
    Ok(Identity {
        name: name.to_owned(),
        uid: user.uid.as_raw(),
        gid: gid.as_raw(),
    })
}

/// The backslash escapes of `eol=`: `\a \b \f \n \r \t \v \ddd \\`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('a') => out.push('\x07'),
            Some('b') => out.push('\x08'),
            Some('f') => out.push('\x0c'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\x0b'),
            Some(digit @ '0'..='7') => {
                let mut value = digit.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(next) = chars.peek().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    value = value * 8 + next;
                    chars.next();
                }
                out.extend(char::from_u32(value));
            }
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Spec, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words, "postfix")
    }

    #[test]
    fn dovecot_lda_line() {
        let spec = read("flags=DRhu user=nobody:nogroup argv=/usr/lib/dovecot/dovecot-lda -f ${sender} -d ${recipient}").unwrap();
        let expected = Flags {
            delivered_to: true,
            return_path: true,
            fold_domain: true,
            fold_local: true,
            ..Flags::default()
        };
        assert_eq!(spec.flags, expected);
        assert_eq!(spec.argv.len(), 5);
        assert_eq!(spec.user.name, "nobody");
        assert!(spec.user.uid != 0);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("user=nobody", "missing argv="),
            ("argv=/bin/true", "missing user="),
            ("user=root argv=/bin/true", "privileged"),
            (
                "user=no-such-user argv=/bin/true",
                "unknown username: no-such-user",
            ),
            (
                "user=nobody:no-such-group argv=/bin/true",
                "unknown group: no-such-group",
            ),
            (
                "colour=red argv=/bin/true",
                "unknown attribute name: colour",
            ),
            ("DRhu argv=/bin/true", "bad attribute syntax"),
            (
                "user=nobody argv=/bin/true ${colour}",
                "unknown macro name: colour",
            ),
            ("user=nobody size=x argv=/bin/true", "bad size limit"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn line_ends() {
        for (text, expected) in [
            ("\\r\\n", "\r\n"),
            ("\\012", "\n"),
            ("\\\\x", "\\x"),
            ("\\7z", "\x07z"),
        ] {
            assert_eq!(unescape(text), expected);
        }
    }
}
