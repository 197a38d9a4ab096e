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

    /// Whether a rule for this network fits: a negated one needs an address of the same family.
    fn fits(&self, address: IpAddr, negated: bool) -> bool {
        address.to_canonical().is_ipv4() == self.address.is_ipv4()
            && self.contains(address) != negated
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
        let source = match crate::spec::braced(path) {
            Some(inline) => crate::pattern::inline_rules(inline).into_bytes(),
            None => simple::read(spec, path)?,
        };
        let (table, problems) = CidrTable::parse(&source);
        for problem in problems {
            tracing::warn!("cidr map {path}, {problem}");
        }
        Ok(table)
    }

    fn parse(source: &[u8]) -> (CidrTable, Vec<String>) {
        let mut rules = Vec::new();
        let mut problems = Vec::new();
        let mut open = Vec::new();
        for line in lines::logical(source) {
            let text = String::from_utf8_lossy(&line.bytes);
            match parse_rule(text.trim(), !open.is_empty()) {
                Ok(rule) => {
                    match rule {
                        Rule::If { .. } => open.push(rules.len()),
                        Rule::Endif => close(&mut rules, open.pop()),
                        Rule::Match { .. } => {}
                    }
                    rules.push(rule);
                }
                Err(problem) => {
                    problems.push(format!("line {}: {problem}: skipping this rule", line.last))
                }
            }
        }
        for at in open.into_iter().rev() {
            problems.push("line 0: IF has no matching ENDIF".to_string());
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
    let word_end = text
        .find(|c: char| c.is_ascii_whitespace())
        .unwrap_or(text.len());
    let (word, rest) = (&text[..word_end], text[word_end..].trim());
    if word.eq_ignore_ascii_case("endif") {
        return match inside {
            true => Ok(Rule::Endif),
            false => Err("ignoring ENDIF without matching IF".to_string()),
        };
    }
    let condition = word.eq_ignore_ascii_case("if");
    let pattern = if condition { rest } else { word };
    let negated = pattern.starts_with('!');
    let network = Network::parse(pattern.trim_start_matches('!').trim())?;
    if condition {
        return Ok(Rule::If {
            network,
            negated,
            end: usize::MAX,
        });
    }
    if rest.is_empty() {
        return Err(format!("no lookup result: \"{text}\""));
    }
    Ok(Rule::Match {
        network,
        negated,
        value: rest.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
