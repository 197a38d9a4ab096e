//! `cidr:` tables (cidr_table(5)) and the networks they and `mynetworks` are made of.

use std::net::IpAddr;

use crate::error::TableError;
use crate::{lines, simple};

/// A network: an address and how many leading bits of it count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `1.2.3.0/24`, `1.2.3.4`, `2001:db8::/32`, each also with brackets around the address
    /// (`[::1]/128`, `[::1/128]`). Bits of the host part must be zero.
    pub fn parse(text: &str) -> Result<Network, String> {
        let plain = text.replace(['[', ']'], "");
        let (address, bits) = match plain.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (plain.as_str(), None),
        };
        let bad = || format!("bad net/mask pattern: \"{text}\"");
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = match bits {
            None => width,
            Some(bits) => bits
                .parse()
                .ok()
                .filter(|&bits| bits <= width)
                .ok_or_else(bad)?,
        };
        let network = Network {
            address: masked(address, bits),
            bits,
        };
        if network.address != address {
            return Err(format!(
                "non-null host address bits in \"{text}\", perhaps you should use \"{}/{bits}\" instead",
                network.address
            ));
        }
        Ok(network)
    }

    /// A pattern of a `cidr:` table: as [`Network::parse`], with the error texts of cidr_table(5).
    fn pattern(text: &str) -> Result<Network, String> {
        let (address, mask) = match text.strip_prefix('[') {
            None => match text.split_once('/') {
                Some((address, mask)) => (address, Some(mask)),
                None => (text, None),
            },
            Some(inner) => {
                let missing = || format!("missing ']' character after \"{text}\"");
                let (inner, after) = inner.split_once(']').ok_or_else(missing)?;
                match (after.strip_prefix('/'), inner.split_once('/')) {
                    (Some(mask), _) => (inner, Some(mask)),
                    (None, _) if !after.is_empty() => {
                        return Err(format!("garbage after \"[{inner}]\""));
                    }
                    (None, Some((address, mask))) => (address, Some(mask)),
                    (None, None) => (inner, None),
                }
            }
        };
        let text = match mask {
            Some(mask) => format!("{address}/{mask}"),
            None => address.to_string(),
        };
        let bits = match mask {
            None => None,
            Some(mask) if !mask.is_empty() && mask.bytes().all(|b| b.is_ascii_digit()) => {
                Some(mask.parse().unwrap_or(u32::MAX))
            }
            Some(_) => return Err(format!("bad mask value in \"{text}\"")),
        };
        let address: IpAddr = address.parse().map_err(|_| match mask {
            Some(_) => format!("bad network value in \"{text}\""),
            None => format!("bad address pattern: \"{text}\""),
        })?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            Some(bits) => u8::try_from(bits)
                .ok()
                .filter(|&bits| bits <= width)
                .ok_or_else(|| format!("bad mask length in \"{text}\""))?,
        };
        let network = Network {
            address: masked(address, bits),
            bits,
        };
        if network.address != address {
            return Err(format!(
                "non-null host address bits in \"{text}\", perhaps you should use \"{}/{bits}\" instead",
                network.address
            ));
        }
        Ok(network)
    }

    /// Whether a rule for this network fits: a negated one needs an address of the same family, and an IPv4 address
    /// that is mapped into IPv6 is an IPv6 address here.
    fn fits(&self, address: IpAddr, negated: bool) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && (masked(address, self.bits) == self.address) != negated
    }

    /// Whether the address lies in the network. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.bits) == self.address
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// A `cidr:` table in memory.
#[derive(Debug)]
pub(crate) struct CidrTable {
    rules: Vec<Rule>,
}

#[derive(Debug)]
enum Rule {
    Match {
        network: Network,
        negated: bool,
        value: String,
    },
    /// Where to go on when the condition does not hold.
    If {
        network: Network,
        negated: bool,
        end: usize,
    },
    Endif,
}

impl CidrTable {
    pub fn load(spec: &str, path: &str) -> Result<CidrTable, TableError> {
        let source = simple::source(spec, path, "cidr")?;
        let (table, problems) = CidrTable::parse(&source, path);
        for problem in problems {
            tracing::warn!("{problem}");
        }
        Ok(table)
    }

    fn parse(source: &[u8], path: &str) -> (CidrTable, Vec<String>) {
        let mut rules = Vec::new();
        let mut problems = Vec::new();
        let mut open = Vec::new();
        let (lines, stray) = lines::logical(source);
        problems.extend(stray.map(|stray| format!("{path}: {stray}")));
        for line in lines {
            let text = lines::shown(&line.bytes);
            match parse_rule(text.trim_ascii(), !open.is_empty()) {
                Ok(rule) => {
                    match rule {
                        Rule::If { .. } => open.push((rules.len(), line.number)),
                        Rule::Endif => close(&mut rules, open.pop().map(|(at, _)| at)),
                        Rule::Match { .. } => {}
                    }
                    rules.push(rule);
                }
                Err(problem) => problems.push(format!(
                    "cidr map {path}, line {}: {problem}: skipping this rule",
                    line.number
                )),
            }
        }
        for (at, line) in open.into_iter().rev() {
            problems.push(format!(
                "cidr map {path}, line {line}: IF has no matching ENDIF"
            ));
            close(&mut rules, Some(at));
        }
        (CidrTable { rules }, problems)
    }

    /// The value of the first rule that fits the address; nothing for a key that is no address.
    pub fn lookup(&self, key: &str) -> Option<String> {
        let address: IpAddr = key.parse().ok()?;
        let mut at = 0;
        while let Some(rule) = self.rules.get(at) {
            at += 1;
            match rule {
                Rule::Match {
                    network,
                    negated,
                    value,
                } if network.fits(address, *negated) => {
                    return Some(value.clone());
                }
                Rule::If {
                    network,
                    negated,
                    end,
                } if !network.fits(address, *negated) => at = *end,
                _ => {}
            }
        }
        None
    }
}

fn close(rules: &mut [Rule], opened: Option<usize>) {
    let next = rules.len();
    if let Some(Rule::If { end, .. }) = opened.and_then(|at| rules.get_mut(at)) {
        *end = next;
    }
}

fn parse_rule(text: &str, inside: bool) -> Result<Rule, String> {
    if let Some(rest) = keyword(text, "endif") {
        return match (rest.trim_ascii().is_empty(), inside) {
            (false, _) => Err("garbage after ENDIF".to_string()),
            (true, false) => Err("ENDIF without IF".to_string()),
            (true, true) => Ok(Rule::Endif),
        };
    }
    let condition = keyword(text, "if");
    let mut pattern = condition.unwrap_or(text).trim_ascii_start();
    let mut negated = false;
    while let Some(rest) = pattern.strip_prefix('!') {
        negated = !negated;
        pattern = rest.trim_ascii_start();
    }
    if condition.is_some() {
        return Ok(Rule::If {
            network: network(pattern)?,
            negated,
            end: usize::MAX,
        });
    }
    let end = pattern
        .find(|c: char| c.is_ascii_whitespace())
        .unwrap_or(pattern.len());
    let (pattern, value) = (&pattern[..end], pattern[end..].trim_ascii());
    let network = network(pattern)?;
    if value.is_empty() {
        return Err("no lookup result".to_string());
    }
    Ok(Rule::Match {
        network,
        negated,
        value: value.to_string(),
    })
}

fn network(pattern: &str) -> Result<Network, String> {
    match pattern.is_empty() {
        true => Err("no address pattern".to_string()),
        false => Network::pattern(pattern),
    }
}

/// What follows `word`, when the line begins with it in any case and no letter or digit follows.
fn keyword<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = line.split_at_checked(word.len())?;
    let whole = !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    (head.eq_ignore_ascii_case(word) && whole).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn networks() {
        for (network, address, inside) in [
            ("127.0.0.0/8", "127.9.9.9", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("[::1]/128", "::1", true),
            ("[2001:db8::]/32", "2001:db8:1::1", true),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("0.0.0.0/0", "::1", false),
            ("192.168.1.1", "192.168.1.1", true),
        ] {
            let parsed = Network::parse(network).unwrap();
            assert_eq!(
                parsed.contains(address.parse().unwrap()),
                inside,
                "{network} {address}"
            );
        }
        for bad in ["192.168.1.1/24", "1.2.3", "1.2.3.4/33", "x", ""] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn first_rule_wins_and_conditions_nest() {
        let (table, problems) = CidrTable::parse(
            b"# c\nif 10.0.0.0/8\n10.1.0.0/16 one\n!10.2.0.0/16 not two\nendif\n192.168.1.1/24 bad\n2001:db8::/32 six\n",
            "t",
        );
        assert_eq!(problems.len(), 1);
        for (key, value) in [
            ("10.1.2.3", Some("one")),
            ("10.2.0.1", None),
            ("10.3.0.1", Some("not two")),
            ("11.0.0.1", None),
            ("2001:db8::5", Some("six")),
            ("name", None),
        ] {
            assert_eq!(table.lookup(key).as_deref(), value, "{key}");
        }
    }

    proptest! {
        #[test]
        fn any_file_is_read(
            source in "(!|if |endif|[0-9a-f]{1,4}|[.:/]|[\\[\\]]| |\n|10.0.0.0/8 x|::1 y){0,40}",
            key in "[0-9a-f.:]{0,20}",
        ) {
            let (table, _) = CidrTable::parse(source.as_bytes(), "t");
            let _ = table.lookup(&key);
            let _ = table.lookup("10.1.1.1");
        }
    }
}
