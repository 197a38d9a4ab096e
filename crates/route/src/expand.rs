//! The aliases' tree: from a recipient to its leaves (virtual(5), cleanup(8)).

use std::collections::HashSet;
use std::fmt;

use mail::fold::{fold, same};

use crate::Router;
use crate::walk::{Failure, Walk};

/// Why a recipient has no leaves.
#[derive(Clone, Debug)]
pub enum ExpandError {
    /// A table failed: try again later.
    Lookup(Failure),
    /// A table's value holds no address.
    NotAddresses {
        parameter: &'static str,
        key: String,
        value: String,
    },
    /// The tree is too deep (which a loop always is), too wide, or a name in it too long.
    Unreasonable {
        limit: Limit,
        address: String,
        path: Vec<String>,
    },
}

/// The limits on the aliases' tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `virtual_alias_recursion_limit`.
    Nesting,
    /// `virtual_alias_expansion_limit`.
    Expansion,
    /// `virtual_alias_address_length_limit`.
    Length,
}

impl Limit {
    pub fn parameter(self) -> &'static str {
        match self {
            Limit::Nesting => "virtual_alias_recursion_limit",
            Limit::Expansion => "virtual_alias_expansion_limit",
            Limit::Length => "virtual_alias_address_length_limit",
        }
    }
}

impl From<Failure> for ExpandError {
    fn from(failure: Failure) -> Self {
        ExpandError::Lookup(failure)
    }
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpandError::Lookup(failure) => failure.fmt(f),
            ExpandError::NotAddresses {
                parameter,
                key,
                value,
            } => {
                write!(
                    f,
                    "{parameter}: the value for \"{key}\" holds no address: \"{value}\""
                )
            }
            ExpandError::Unreasonable {
                limit: Limit::Nesting,
                address,
                path,
            } => write!(
                f,
                "aliases lead in a loop or nest deeper than {}: {} -> {address}",
                Limit::Nesting.parameter(),
                path.join(" -> ")
            ),
            ExpandError::Unreasonable {
                limit: Limit::Expansion,
                address,
                ..
            } => write!(
                f,
                "{address} expands to more addresses than {}",
                Limit::Expansion.parameter()
            ),
            ExpandError::Unreasonable {
                limit: Limit::Length,
                address,
                ..
            } => write!(
                f,
                "{address} leads to an address longer than {}",
                Limit::Length.parameter()
            ),
        }
    }
}

/// An address of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub address: String,
    /// The node whose alias led here; `None` at the root.
    pub parent: Option<usize>,
}

/// The tree of a recipient.
#[derive(Clone, Debug)]
pub struct Expansion {
    pub nodes: Vec<Node>,
    /// Indices into `nodes`, in the order in which Postfix would list the recipients.
    pub leaves: Vec<usize>,
}

impl Expansion {
    /// The addresses of the leaves.
    pub fn leaf_addresses(&self) -> impl Iterator<Item = &str> {
        self.leaves
            .iter()
            .map(|&leaf| self.nodes[leaf].address.as_str())
    }

    /// The addresses from the root to this node.
    pub fn path(&self, node: usize) -> Vec<String> {
        let mut path = vec![self.nodes[node].address.clone()];
        let mut at = node;
        while let Some(parent) = self.nodes[at].parent {
            path.push(self.nodes[parent].address.clone());
            at = parent;
        }
        path.reverse();
        path
    }

    fn alone(address: &str) -> Expansion {
        let root = Node {
            address: address.to_owned(),
            parent: None,
        };
        Expansion {
            nodes: vec![root],
            leaves: vec![0],
        }
    }
}

impl Router {
    /// Follows `virtual_alias_maps` from a recipient in canonical form to its leaves.
    pub async fn expand(&self, walk: &mut Walk, address: &str) -> Result<Expansion, ExpandError> {
        let mut tree = Expansion::alone(address);
        if self.virtual_alias_maps.is_empty() {
            return Ok(tree);
        }
        // An address that expanded into itself is a leaf wherever it appears again.
        let mut settled: HashSet<String> = HashSet::new();
        let mut next = 0;
        while next < tree.leaves.len() {
            if tree.leaves.len() > self.expansion_limit {
                return Err(unreasonable(&tree, Limit::Expansion, tree.leaves[next]));
            }
            self.expand_leaf(walk, &mut tree, next, &mut settled)
                .await?;
            next += 1;
        }
        Ok(tree)
    }

    /// Replaces one leaf by what its aliases give, as long as they give something; the further
    /// destinations go to the end of the list.
    async fn expand_leaf(
        &self,
        walk: &mut Walk,
        tree: &mut Expansion,
        position: usize,
        settled: &mut HashSet<String>,
    ) -> Result<(), ExpandError> {
        for depth in 0.. {
            let at = tree.leaves[position];
            let address = tree.nodes[at].address.clone();
            if settled.contains(&*fold(&address)) {
                break;
            }
            if depth >= self.recursion_limit {
                return Err(unreasonable(tree, Limit::Nesting, at));
            }
            let (name, maps) = ("virtual_alias_maps", &self.virtual_alias_maps);
            let Some(destinations) = self
                .map(walk, name, maps, &address, self.propagate.virtual_alias)
                .await?
            else {
                break;
            };
            for (index, destination) in destinations.into_iter().enumerate() {
                if destination.len() > self.address_length_limit {
                    return Err(unreasonable(tree, Limit::Length, at));
                }
                if same(&address, &destination) {
                    settled.insert(fold(&address).into_owned());
                }
                tree.nodes.push(Node {
                    address: destination,
                    parent: Some(at),
                });
                let node = tree.nodes.len() - 1;
                match index {
                    0 => tree.leaves[position] = node,
                    _ => tree.leaves.push(node),
                }
            }
        }
        Ok(())
    }
}

fn unreasonable(tree: &Expansion, limit: Limit, node: usize) -> ExpandError {
    let mut path = tree.path(node);
    // A loop repeats itself; its first turn tells all.
    if let Some(turn) = (1..path.len()).find(|&i| path[..i].contains(&path[i])) {
        path.truncate(turn + 1);
    }
    let address = path.pop().unwrap_or_default();
    ExpandError::Unreasonable {
        limit,
        address,
        path,
    }
}
