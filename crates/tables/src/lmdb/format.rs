//! LMDB's file format (version 1, 64-bit little endian machines): meta pages, tree pages, nodes.
//!
//! Nothing here is taken on trust: every offset that a page holds is checked against the page, so that a
//! damaged file gives an error. Numbers that say how much fits a page are those of LMDB itself, which
//! must be able to change what we wrote.

use std::fmt;

/// The size of pages in files that we make.
pub(super) const PAGE_SIZE: usize = 4096;
/// The longest key that LMDB takes as Debian and upstream build it.
pub(super) const MAX_KEY: usize = 511;
/// The bytes in front of a page's node offsets.
pub(super) const HEADER: usize = 16;
/// The bytes in front of a node's key.
pub(super) const NODE: usize = 8;
/// "No page": the root of an empty tree.
pub(super) const NO_PAGE: u64 = u64::MAX;
/// Deeper trees than this are loops of damaged pages.
pub(super) const MAX_DEPTH: usize = 32;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;

/// The node's value is on overflow pages.
pub(super) const BIG: u16 = 0x01;
/// Keys of the tree of free pages are integers.
const INTEGER_KEY: u16 = 0x08;
/// The environment is a file, not a folder.
const NO_SUBDIR: u16 = 0x4000;
const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// Magic to transaction number, behind the page's header.
const META_LENGTH: usize = 136;

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// LMDB's own words.
    NotLmdb,
    Version(u32),
    /// Sorted duplicates, reversed keys: nothing that lookup tables have.
    Flags(u16),
    Page(u64),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::NotLmdb => f.write_str("MDB_INVALID: File is not an LMDB file"),
            Damage::Version(version) => write!(
                f,
                "MDB_VERSION_MISMATCH: the file has format version {version}, not {VERSION}"
            ),
            Damage::Flags(flags) => write!(
                f,
                "MDB_INCOMPATIBLE: the database has flags {flags:#x}, which lookup tables do not"
            ),
            Damage::Page(number) => write!(
                f,
                "MDB_CORRUPTED: page {number} is damaged or cut off; build the table again"
            ),
        }
    }
}

impl From<Damage> for std::io::Error {
    fn from(damage: Damage) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, damage.to_string())
    }
}

/// A tree: its root, and counts that LMDB keeps beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tree {
    pub flags: u16,
    pub depth: u16,
    pub branches: u64,
    pub leaves: u64,
    pub overflows: u64,
    pub entries: u64,
    pub root: u64,
}

impl Tree {
    pub(super) const EMPTY: Tree = Tree {
        flags: 0,
        depth: 0,
        branches: 0,
        leaves: 0,
        overflows: 0,
        entries: 0,
        root: NO_PAGE,
    };

    fn decode(bytes: &[u8]) -> Tree {
        Tree {
            flags: u16_at(bytes, 4),
            depth: u16_at(bytes, 6),
            branches: u64_at(bytes, 8),
            leaves: u64_at(bytes, 16),
            overflows: u64_at(bytes, 24),
            entries: u64_at(bytes, 32),
            root: u64_at(bytes, 40),
        }
    }

    fn encode(&self, pad: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&pad.to_le_bytes());
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&self.depth.to_le_bytes());
        for number in [
            self.branches,
            self.leaves,
            self.overflows,
            self.entries,
            self.root,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// One of the two meta pages; the one with the higher transaction number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub page_size: usize,
    pub map_size: u64,
    pub free: Tree,
    pub main: Tree,
    pub last_page: u64,
    pub transaction: u64,
}

impl Meta {
    /// What the first bytes of the file say; `HEADER + META_LENGTH` bytes do.
    pub(super) const SIZE: usize = HEADER + META_LENGTH;

    /// The state of a new file.
    pub(super) fn new(map_size: u64) -> Meta {
        Meta {
            page_size: PAGE_SIZE,
            map_size,
            free: Tree {
                flags: INTEGER_KEY | NO_SUBDIR,
                ..Tree::EMPTY
            },
            main: Tree::EMPTY,
            last_page: 1,
            transaction: 0,
        }
    }

    pub(super) fn decode(page: &[u8]) -> Result<Meta, Damage> {
        if page.len() < Meta::SIZE || u16_at(page, 10) & META == 0 {
            return Err(Damage::NotLmdb);
        }
        let bytes = &page[HEADER..];
        if u32_at(bytes, 0) != MAGIC {
            return Err(Damage::NotLmdb);
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(Damage::Version(u32_at(bytes, 4)));
        }
        let page_size = u32_at(bytes, 24) as usize;
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return Err(Damage::NotLmdb);
        }
        let meta = Meta {
            page_size,
            map_size: u64_at(bytes, 16),
            free: Tree::decode(&bytes[24..]),
            main: Tree::decode(&bytes[72..]),
            last_page: u64_at(bytes, 120),
            transaction: u64_at(bytes, 128),
        };
        match meta.main.flags {
            0 => Ok(meta),
            flags => Err(Damage::Flags(flags)),
        }
    }

    /// The meta page with this number, 0 or 1.
    pub(super) fn encode(&self, number: u64) -> Vec<u8> {
        let mut page = header(number, META, 0, 0);
        page.extend_from_slice(&MAGIC.to_le_bytes());
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&0u64.to_le_bytes());
        page.extend_from_slice(&self.map_size.to_le_bytes());
        // A page size is at most 65536.
        self.free.encode(self.page_size as u32, &mut page);
        self.main.encode(0, &mut page);
        page.extend_from_slice(&self.last_page.to_le_bytes());
        page.extend_from_slice(&self.transaction.to_le_bytes());
        page
    }
}

/// A node of a tree page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node<'a> {
    pub key: &'a [u8],
    pub content: Content<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    Child(u64),
    Value(&'a [u8]),
    /// A value of this many bytes on overflow pages that start with this one.
    Big {
        page: u64,
        length: usize,
    },
}

/// A branch or leaf page.
pub(super) struct Page<'a> {
    number: u64,
    bytes: &'a [u8],
    leaf: bool,
}

impl<'a> Page<'a> {
    pub(super) fn new(number: u64, bytes: &'a [u8]) -> Result<Page<'a>, Damage> {
        let flags = u16_at(bytes, 10) & (BRANCH | LEAF | OVERFLOW | META);
        let page = Page {
            number,
            bytes,
            leaf: flags == LEAF,
        };
        let lower = usize::from(u16_at(bytes, 12));
        let sound = (flags == LEAF || flags == BRANCH)
            && u64_at(bytes, 0) == number
            && (HEADER..=bytes.len()).contains(&lower);
        sound.then_some(page).ok_or(Damage::Page(number))
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.leaf
    }

    pub(super) fn len(&self) -> usize {
        (usize::from(u16_at(self.bytes, 12)) - HEADER) / 2
    }

    /// The node at `index`, which is below [`Page::len`].
    pub(super) fn node(&self, index: usize) -> Result<Node<'a>, Damage> {
        let damage = || Damage::Page(self.number);
        let at = usize::from(u16_at(self.bytes, HEADER + 2 * index));
        let node = self.bytes.get(at..).ok_or_else(damage)?;
        if node.len() < NODE {
            return Err(damage());
        }
        let (low, high, flags) = (u16_at(node, 0), u16_at(node, 2), u16_at(node, 4));
        let size = usize::from(low) | usize::from(high) << 16;
        let key_end = NODE + usize::from(u16_at(node, 6));
        let key = node.get(NODE..key_end).ok_or_else(damage)?;
        let content = if !self.leaf {
            Content::Child(size as u64 | u64::from(flags) << 32)
        } else if flags == BIG {
            let bytes = node.get(key_end..key_end + 8).ok_or_else(damage)?;
            Content::Big {
                page: u64_at(bytes, 0),
                length: size,
            }
        } else if flags == 0 {
            Content::Value(node.get(key_end..key_end + size).ok_or_else(damage)?)
        } else {
            return Err(damage());
        };
        Ok(Node { key, content })
    }
}

/// How many overflow pages a value takes.
pub(super) fn overflow_pages(length: usize, page_size: usize) -> u64 {
    ((HEADER + length).div_ceil(page_size)) as u64
}

/// The largest node that stays on a leaf; two must fit a page.
pub(super) fn node_max(page_size: usize) -> usize {
    (((page_size - HEADER) / 2) & !1) - 2
}

/// A page's header. An overflow page has its number of pages where the others have two offsets.
pub(super) fn header(number: u64, flags: u16, lower: u16, upper: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE_SIZE);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&0u16.to_le_bytes());
    for field in [flags, lower, upper] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The callers have seen to it that the bytes are there; zeros stand for what is not.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut found = [0; N];
    if let Some(bytes) = bytes.get(at..at + N) {
        found.copy_from_slice(bytes);
    }
    found
}
