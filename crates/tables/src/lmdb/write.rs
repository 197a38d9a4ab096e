//! Changing an LMDB file: all entries are read, changed in memory, and written as a new tree into pages
//! that the current one does not use; the last write, of one meta page, makes them count.
//!
//! A crash leaves the old state or the new one. The locks are those of Postfix: a writer waits for all
//! others, then lets readers in again, who see the old state until the meta page is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};

use super::format::{
    BIG, BRANCH, HEADER, LEAF, MAX_KEY, Meta, NO_PAGE, NODE, OVERFLOW, PAGE_SIZE, Tree, header,
    node_max, overflow_pages,
};
use super::read::{Snapshot, current_meta};

/// Keys and values of a file, to be changed and written back.
pub struct LmdbEditor {
    place: Place,
    map_size: u64,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

enum Place {
    /// Locked until this value is dropped.
    Existing(File),
    New(Beside),
}

/// A new file, written beside its place and then renamed, so that no one sees half of it.
struct Beside {
    path: PathBuf,
    file: File,
    /// Its name until then; `None` when it has got its own.
    beside: Option<PathBuf>,
}

/// Whether the entries that are there stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Entries,
    Nothing,
}

/// LMDB does not take this key: it is empty or longer than 511 bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct BadKeySize;

/// LMDB's own words for [`BadKeySize`].
pub const BAD_KEY_SIZE: &str =
    "MDB_BAD_VALSIZE: Unsupported size of key/DB name/data, or wrong DUPFIXED size";

impl LmdbEditor {
    /// Opens the file for change, or prepares a new one that [`LmdbEditor::commit`] puts in its place. Waits for
    /// other writers.
    pub fn open(path: &Path, keep: Keep, map_size: u64, mode: u32) -> io::Result<LmdbEditor> {
        let Some(file) = open_locked(path)? else {
            return Ok(LmdbEditor {
                place: Place::New(Beside::create(path, mode)?),
                map_size,
                entries: BTreeMap::new(),
            });
        };
        let mut entries = BTreeMap::new();
        if file.metadata()?.len() > 0 {
            let meta = current_meta(&file)?;
            if keep == Keep::Entries {
                entries.extend(Snapshot { file: &file, meta }.entries()?);
            }
        }
        Ok(LmdbEditor {
            place: Place::Existing(file),
            map_size,
            entries,
        })
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.entries.contains_key(key)
    }

    /// Sets the value of a key, new or not.
    pub fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), BadKeySize> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(BadKeySize);
        }
        self.entries.insert(key, value);
        Ok(())
    }

    /// Whether there was such a key.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        self.entries.remove(key).is_some()
    }

    /// Makes the changes count, all at once.
    pub fn commit(self) -> io::Result<()> {
        match self.place {
            Place::Existing(file) => write(&file, &self.entries, self.map_size),
            Place::New(new) => {
                write(&new.file, &self.entries, self.map_size)?;
                new.rename()
            }
        }
    }
}

/// The file, locked as Postfix does; `None` where there is none.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        lock(&file, nix::libc::F_WRLCK)?;
        lock(&file, nix::libc::F_RDLCK)?;
        // Another writer may have put a new file there while we waited.
        let (ours, there) = (file.metadata()?, std::fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(Some(file));
        }
    }
}

fn lock(file: &File, kind: nix::libc::c_int) -> io::Result<()> {
    let whole = nix::libc::flock {
        // The constants are smaller than the field.
        l_type: kind as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLKW(&whole))?;
    Ok(())
}

impl Beside {
    fn create(path: &Path, mode: u32) -> io::Result<Beside> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".new{}", std::process::id()));
        let beside = PathBuf::from(beside);
        // One of an earlier process with this number, which was killed.
        let _ = std::fs::remove_file(&beside);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        Ok(Beside {
            path: path.to_path_buf(),
            file,
            beside: Some(beside),
        })
    }

    fn rename(mut self) -> io::Result<()> {
        if let Some(beside) = &self.beside {
            std::fs::rename(beside, &self.path)?;
            self.beside = None;
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // What led here is the error to tell.
            let _ = std::fs::remove_file(beside);
        }
    }
}

fn write(file: &File, entries: &BTreeMap<Vec<u8>, Vec<u8>>, map_size: u64) -> io::Result<()> {
    let length = file.metadata()?.len();
    let (current, used) = match length {
        0 => {
            let meta = Meta::new(map_size);
            for number in [0, 1] {
                let mut page = meta.encode(number);
                page.resize(PAGE_SIZE, 0);
                file.write_all_at(&page, number * PAGE_SIZE as u64)?;
            }
            (meta, Some(BTreeSet::from([0, 1])))
        }
        _ => {
            let meta = current_meta(file)?;
            let used = match (Snapshot { file, meta }).pages() {
                // No page of a damaged tree is used again, so that a table can always be built anew.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
                used => Some(used?),
            };
            (meta, used)
        }
    };
    // A damaged file may name far more pages than it has.
    let written = length / current.page_size as u64;
    let mut builder = Builder {
        file,
        page_size: current.page_size,
        free: (2..=current.last_page.min(written))
            .filter(|number| used.as_ref().is_some_and(|used| !used.contains(number)))
            .collect(),
        next: current.last_page + 1,
        tree: Tree::EMPTY,
    };
    builder.build(entries)?;
    let last_page = builder.next - 1;
    let size = (last_page + 1) * current.page_size as u64;
    let meta = Meta {
        main: builder.tree,
        // Free pages are not listed: a later build finds them by itself.
        free: Tree {
            flags: current.free.flags,
            ..Tree::EMPTY
        },
        last_page,
        transaction: current.transaction + 1,
        map_size: enough(current.map_size.max(map_size), size),
        ..current
    };
    file.sync_data()?;
    let number = meta.transaction & 1;
    file.write_all_at(&meta.encode(number), number * current.page_size as u64)?;
    file.sync_data()
}

/// Postfix doubles the limit when the data needs more.
fn enough(mut map_size: u64, size: u64) -> u64 {
    map_size = map_size.max(PAGE_SIZE as u64);
    while map_size < size {
        map_size *= 2;
    }
    map_size
}

/// Writes a tree from sorted entries, leaves first.
struct Builder<'a> {
    file: &'a File,
    page_size: usize,
    free: BTreeSet<u64>,
    next: u64,
    tree: Tree,
}

/// A page that is written already, and the first key below it.
struct Below {
    key: Vec<u8>,
    page: u64,
}

impl Builder<'_> {
    fn build(&mut self, entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<()> {
        self.tree.entries = entries.len() as u64;
        let mut level = self.leaves(entries)?;
        self.tree.leaves = level.len() as u64;
        while level.len() > 1 {
            self.tree.depth += 1;
            level = self.branches(level)?;
            self.tree.branches += level.len() as u64;
        }
        if let Some(root) = level.first() {
            self.tree.depth += 1;
            self.tree.root = root.page;
        }
        debug_assert!(self.tree.root != NO_PAGE || entries.is_empty());
        Ok(())
    }

    fn leaves(&mut self, entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<Vec<Below>> {
        let mut level = Vec::new();
        let mut page = Nodes::new(self.page_size);
        let mut first = &Vec::new();
        for (key, value) in entries {
            let node = self.leaf_node(key, value)?;
            if !page.fits(&node) {
                let page = std::mem::replace(&mut page, Nodes::new(self.page_size));
                level.push(self.put(page, LEAF, first)?);
            }
            if page.nodes.is_empty() {
                first = key;
            }
            page.push(node);
        }
        if !page.nodes.is_empty() {
            level.push(self.put(page, LEAF, first)?);
        }
        Ok(level)
    }

    fn leaf_node(&mut self, key: &[u8], value: &[u8]) -> io::Result<Vec<u8>> {
        let mut node = Vec::with_capacity(NODE + key.len() + value.len());
        let length = value.len() as u32;
        let big = NODE + key.len() + value.len() > node_max(self.page_size);
        node.extend_from_slice(&length.to_le_bytes());
        node.extend_from_slice(&(if big { BIG } else { 0 }).to_le_bytes());
        // A key has at most 511 bytes.
        node.extend_from_slice(&(key.len() as u16).to_le_bytes());
        node.extend_from_slice(key);
        if big {
            node.extend_from_slice(&self.overflow(value)?.to_le_bytes());
        } else {
            node.extend_from_slice(value);
        }
        Ok(node)
    }

    fn overflow(&mut self, value: &[u8]) -> io::Result<u64> {
        let count = overflow_pages(value.len(), self.page_size);
        let first = self.allocate(count);
        self.tree.overflows += count;
        let mut bytes = header(first, OVERFLOW, 0, 0);
        // The two offsets of other pages are one number here.
        bytes[12..16].copy_from_slice(&(count as u32).to_le_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(count as usize * self.page_size, 0);
        self.file
            .write_all_at(&bytes, first * self.page_size as u64)?;
        Ok(first)
    }

    fn branches(&mut self, below: Vec<Below>) -> io::Result<Vec<Below>> {
        let mut groups: Vec<Vec<Below>> = Vec::new();
        let mut room = 0;
        for child in below {
            let size = even(NODE + child.key.len()) + 2;
            match groups.last_mut() {
                Some(group) if size <= room => {
                    room -= size;
                    group.push(child);
                }
                _ => {
                    room = self.page_size - HEADER - (NODE + 2);
                    groups.push(vec![child]);
                }
            }
        }
        even_out(&mut groups);
        let mut level = Vec::new();
        for group in groups {
            let mut page = Nodes::new(self.page_size);
            for (index, child) in group.iter().enumerate() {
                // The first key of a branch is not kept.
                let key = if index == 0 { &[][..] } else { &child.key };
                page.push(branch_node(key, child.page));
            }
            level.push(self.put(page, BRANCH, &group[0].key)?);
        }
        Ok(level)
    }

    fn put(&mut self, page: Nodes, flags: u16, first: &[u8]) -> io::Result<Below> {
        let number = self.allocate(1);
        let bytes = page.encode(number, flags);
        self.file
            .write_all_at(&bytes, number * self.page_size as u64)?;
        Ok(Below {
            key: first.to_vec(),
            page: number,
        })
    }

    /// The first of `count` pages in a row that no state in use has.
    fn allocate(&mut self, count: u64) -> u64 {
        let (mut start, mut length) = (0, 0);
        for &number in &self.free {
            if length > 0 && number == start + length {
                length += 1;
            } else {
                (start, length) = (number, 1);
            }
            if length == count {
                break;
            }
        }
        if length == count {
            for number in start..start + count {
                self.free.remove(&number);
            }
            return start;
        }
        start = self.next;
        self.next += count;
        start
    }
}

/// LMDB expects at least two children in a branch: the last group takes one from the group before it.
fn even_out(groups: &mut [Vec<Below>]) {
    if let [.., before, last] = groups
        && last.len() == 1
        && let Some(moved) = before.pop()
    {
        last.insert(0, moved);
    }
}

fn branch_node(key: &[u8], page: u64) -> Vec<u8> {
    let mut node = Vec::with_capacity(NODE + key.len());
    // 48 bits in three fields; what is above has no place, nor a disk to be on.
    node.extend_from_slice(&page.to_le_bytes()[..6]);
    node.extend_from_slice(&(key.len() as u16).to_le_bytes());
    node.extend_from_slice(key);
    node
}

/// The nodes of a page that is being filled.
struct Nodes {
    page_size: usize,
    nodes: Vec<Vec<u8>>,
    room: usize,
}

impl Nodes {
    fn new(page_size: usize) -> Nodes {
        Nodes {
            page_size,
            nodes: Vec::new(),
            room: page_size - HEADER,
        }
    }

    fn fits(&self, node: &[u8]) -> bool {
        even(node.len()) + 2 <= self.room
    }

    fn push(&mut self, node: Vec<u8>) {
        self.room -= even(node.len()) + 2;
        self.nodes.push(node);
    }

    /// Offsets follow the header, nodes fill the page from its end.
    fn encode(&self, number: u64, flags: u16) -> Vec<u8> {
        let lower = HEADER + 2 * self.nodes.len();
        let mut upper = self.page_size;
        let mut bytes = vec![0; self.page_size];
        for (index, node) in self.nodes.iter().enumerate() {
            upper -= even(node.len());
            bytes[upper..upper + node.len()].copy_from_slice(node);
            let offset = (upper as u16).to_le_bytes();
            bytes[HEADER + 2 * index..HEADER + 2 * index + 2].copy_from_slice(&offset);
        }
        let header = header(number, flags, lower as u16, upper as u16);
        bytes[..HEADER].copy_from_slice(&header);
        bytes
    }
}

fn even(size: usize) -> usize {
    size.next_multiple_of(2)
}
