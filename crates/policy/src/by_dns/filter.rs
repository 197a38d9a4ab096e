//! Which answers of a DNS list count: `d.d.d.d`, where each `d` is a number or `[…]` with numbers and ranges between `;`.

/// Four sets of octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter([Vec<(u8, u8)>; 4]);

impl Filter {
    /// What is behind the `=`; the mistake, if it is none.
    pub fn parse(text: &str) -> Result<Filter, String> {
        let mut sets: Vec<Vec<(u8, u8)>> = Vec::new();
        let mut rest = text;
        loop {
            let (set, tail) = match rest.strip_prefix('[') {
                Some(inner) => {
                    let (inside, tail) = inner
                        .split_once(']')
                        .ok_or_else(|| format!("no ] in \"{text}\""))?;
                    let ranges = inside.split(';').map(|range| ranged(range, text));
                    (ranges.collect::<Result<_, _>>()?, tail)
                }
                None => {
                    let end = rest.find('.').unwrap_or(rest.len());
                    let number = octet(&rest[..end], text)?;
                    (vec![(number, number)], &rest[end..])
                }
            };
            sets.push(set);
            match tail.strip_prefix('.') {
                Some(more) => rest = more,
                None if tail.is_empty() => break,
                None => return Err(format!("\"{tail}\" is too much in \"{text}\"")),
            }
        }
        let sets = sets
            .try_into()
            .map_err(|_| format!("\"{text}\" has not four parts"))?;
        Ok(Filter(sets))
    }

    pub fn matches(&self, octets: [u8; 4]) -> bool {
        let Filter(sets) = self;
        sets.iter().zip(octets).all(|(set, octet)| {
            set.iter()
                .any(|(first, last)| (*first..=*last).contains(&octet))
        })
    }
}

fn ranged(range: &str, text: &str) -> Result<(u8, u8), String> {
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    let (first, last) = (octet(first, text)?, octet(last, text)?);
    match first <= last {
        true => Ok((first, last)),
        false => Err(format!("{range} goes backwards in \"{text}\"")),
    }
}

fn octet(number: &str, text: &str) -> Result<u8, String> {
    number
        .parse()
        .map_err(|_| format!("\"{number}\" is no number from 0 to 255 in \"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for (text, address, matches) in [
            ("127.0.0.2", [127, 0, 0, 2], true),
            ("127.0.0.2", [127, 0, 0, 3], false),
            ("127.0.0.[2..11;14]", [127, 0, 0, 11], true),
            ("127.0.0.[2..11;14]", [127, 0, 0, 12], false),
            ("127.0.0.[2..11;14]", [127, 0, 0, 14], true),
            ("127.0.[1;3].[0..255]", [127, 0, 3, 77], true),
            ("127.0.[1;3].[0..255]", [127, 0, 2, 77], false),
        ] {
            let filter = Filter::parse(text).expect("a filter");
            assert_eq!(filter.matches(address), matches, "{text} {address:?}");
        }
        for text in [
            "",
            "127.0.0",
            "127.0.0.1.2",
            "127.0.0.[3..1]",
            "127.0.0.[1",
            "127.0.0.256",
            "127.0.0.[1]x",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }
}
