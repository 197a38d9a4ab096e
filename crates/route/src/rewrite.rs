//! Rewriting to canonical form, as trivial-rewrite(8) does it for addresses in envelopes.

use mail::token::{Token, addresses, external, internal, scan};

/// The rules of rewriting. Each field is the main.cf parameter of its name.
#[derive(Clone, Debug, Default)]
pub struct Rewriter {
    /// `swap_bangpath`: site!user becomes user@site.
    pub swap_bangpath: bool,
    /// `allow_percent_hack`: user%domain becomes user@domain.
    pub percent_hack: bool,
    /// `myorigin` where `append_at_myorigin` is on.
    pub origin: Option<String>,
    /// `mydomain` where `append_dot_mydomain` is on.
    pub domain: Option<String>,
    /// `resolve_dequoted_address`: look for routing operators inside a quoted local part.
    pub resolve_dequoted: bool,
    /// `resolve_null_domain`: `user@` is `user`.
    pub resolve_null_domain: bool,
}

impl Rewriter {
    /// The canonical form of an address in internal form.
    pub fn canonical(&self, address: &str) -> String {
        let quoted = mail::address::quote_local(address);
        let tokens: Vec<Token> = scan(&quoted)
            .into_iter()
            .filter(|token| !matches!(token, Token::Comment(_)))
            .collect();
        internal(&self.canonical_tokens(tokens))
    }

    /// The addresses of a list in external form, each in canonical internal form. An empty text
    /// or `<>` is the empty address.
    pub fn canonical_list(&self, list: &str) -> Vec<String> {
        if list.is_empty() || list == "<>" {
            return vec![String::new()];
        }
        addresses(list)
            .into_iter()
            .map(|tokens| {
                let canonical = self.canonical_tokens(scan(&external(&tokens)));
                mail::address::unquote_local(&external(&canonical))
            })
            .collect()
    }

    pub(crate) fn canonical_tokens(&self, mut tokens: Vec<Token>) -> Vec<Token> {
        match tokens.as_slice() {
            [] => return tokens,
            [Token::Quoted(text)] if text.is_empty() => return tokens,
            [Token::Op('@')] => return vec![Token::Quoted(String::new())],
            _ => {}
        }
        // A source route, @a,@b:user@domain, counts for nothing (RFC 5321 appendix C).
        if tokens[0].is_op('@')
            && let Some(colon) = position(&tokens, ':')
            && colon + 1 < tokens.len()
        {
            tokens.drain(..=colon);
        }
        if last_position(&tokens, '@').is_none() {
            self.add_domain(&mut tokens);
        }
        if let (Some(domain), Some(at)) = (&self.domain, last_position(&tokens, '@'))
            && at + 1 < tokens.len()
            && !tokens[at..]
                .iter()
                .any(|t| matches!(t, Token::Literal(_)) || t.is_op('.'))
        {
            tokens.push(Token::Op('.'));
            tokens.extend(scan(domain));
        }
        strip_trailing_dot(&mut tokens);
        tokens
    }

    /// Gives an address without `@` its domain.
    fn add_domain(&self, tokens: &mut Vec<Token>) {
        if self.swap_bangpath
            && let Some(bang) = position(tokens, '!')
        {
            let user = tokens.split_off(bang + 1);
            tokens.pop();
            let site = std::mem::replace(tokens, user);
            tokens.push(Token::Op('@'));
            tokens.extend(site);
        } else if self.percent_hack
            && let Some(percent) = last_position(tokens, '%')
        {
            tokens[percent] = Token::Op('@');
        } else if let Some(origin) = &self.origin {
            tokens.push(Token::Op('@'));
            tokens.extend(scan(origin));
        }
    }
}

/// `john@example.org.` is `john@example.org`; `..` and `@.` stay, so that they are reported.
pub(crate) fn strip_trailing_dot(tokens: &mut Vec<Token>) {
    if let [.., before, Token::Op('.')] = tokens.as_slice()
        && !before.is_op('.')
        && !before.is_op('@')
    {
        tokens.pop();
    }
}

pub(crate) fn position(tokens: &[Token], op: char) -> Option<usize> {
    tokens.iter().position(|token| token.is_op(op))
}

pub(crate) fn last_position(tokens: &[Token], op: char) -> Option<usize> {
    tokens.iter().rposition(|token| token.is_op(op))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriter() -> Rewriter {
        Rewriter {
            swap_bangpath: true,
            percent_hack: true,
            origin: Some("host.example".into()),
            domain: Some("dot.example".into()),
            resolve_dequoted: true,
            resolve_null_domain: false,
        }
    }

    #[test]
    fn rewrites_to_canonical_form() {
        for (address, expected) in [
            ("john@example.org", "john@example.org"),
            ("john", "john@host.example"),
            ("john@host", "john@host.dot.example"),
            ("john@", "john@"),
            ("john@example.org.", "john@example.org"),
            ("john@example.org..", "john@example.org.."),
            ("john%b.example", "john@b.example"),
            ("john%c.example@b.example", "john%c.example@b.example"),
            ("a.example!john", "john@a.example"),
            ("a!b!john", "b!john@a.dot.example"),
            (
                "@relay.example:john@example.org",
                "@relay.example:john@example.org",
            ),
            ("a b@example.org", "a b@example.org"),
            ("john@[192.0.2.1]", "john@[192.0.2.1]"),
            ("", ""),
        ] {
            assert_eq!(rewriter().canonical(address), expected, "{address}");
        }
    }

    #[test]
    fn rewrites_lists_of_destinations() {
        let list = |text| rewriter().canonical_list(text);
        assert_eq!(
            list("john, jane@b.example"),
            ["john@host.example", "jane@b.example"]
        );
        assert_eq!(list("<@relay.example:john@b.example>"), ["john@b.example"]);
        assert_eq!(list("\"|/bin/cat arg\""), ["|/bin/cat arg@host.example"]);
        assert_eq!(list("<>"), [""]);
        assert_eq!(list(" "), [""; 0]);
        assert_eq!(list("a@b@c.example"), ["a@b@c.example"]);
    }
}
