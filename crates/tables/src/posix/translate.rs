//! The tree of a pattern in the syntax of the `regex` crate.

use std::fmt::Write;

use super::Flags;
use super::parse::{Assert, Node, Set};

/// A pattern that fits where this one does; none for what the `regex` crate cannot express.
pub(super) fn to_regex(node: &Node, flags: Flags) -> Option<String> {
    let mut text = String::new();
    write(node, flags, &mut text)?;
    Some(text)
}

fn write(node: &Node, flags: Flags, text: &mut String) -> Option<()> {
    match node {
        Node::Empty => text.push_str("(?:)"),
        Node::Set(set) => write_set(set, text),
        Node::Assert(assert) => text.push_str(match assert {
            Assert::LineStart if flags.lines => "(?m:^)",
            Assert::LineEnd if flags.lines => "(?m:$)",
            Assert::LineStart | Assert::BufferStart => "\\A",
            Assert::LineEnd | Assert::BufferEnd => "\\z",
            Assert::WordStart => "\\b{start}",
            Assert::WordEnd => "\\b{end}",
            Assert::WordEdge => "\\b",
            Assert::NoWordEdge => "\\B",
        }),
        Node::Back(_) => return None,
        Node::Group(_, inner) => write_group(inner, flags, text)?,
        Node::Cat(nodes) => {
            for node in nodes {
                write(node, flags, text)?;
            }
        }
        Node::Alt(nodes) => {
            for (number, node) in nodes.iter().enumerate() {
                text.push_str(if number == 0 { "(?:" } else { "|" });
                write(node, flags, text)?;
            }
            text.push(')');
        }
        Node::Repeat { node, min, max } => {
            write_group(node, flags, text)?;
            // Writing to a String does not fail.
            let _ = match max {
                Some(max) => write!(text, "{{{min},{max}}}"),
                None => write!(text, "{{{min},}}"),
            };
        }
    }
    Some(())
}

fn write_group(node: &Node, flags: Flags, text: &mut String) -> Option<()> {
    text.push_str("(?:");
    write(node, flags, text)?;
    text.push(')');
    Some(())
}

fn write_set(set: &Set, text: &mut String) {
    text.push('[');
    let mut at = 0;
    while at < 256 {
        if !set[at] {
            at += 1;
            continue;
        }
        let from = at;
        while at < 256 && set[at] {
            at += 1;
        }
        // Writing to a String does not fail.
        let _ = write!(text, "\\x{from:02x}-\\x{:02x}", at - 1);
    }
    if text.ends_with('[') {
        // No byte at all.
        text.push_str("a&&b");
    }
    text.push(']');
}
