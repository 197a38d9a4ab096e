//! Reading an LMDB file without a lock: what was read counts when no transaction was committed meanwhile.
//!
//! LMDB writes new pages beside the old ones and then one meta page. A transaction leaves alone what the
//! one before it left, so that the meta page that was current before and after a walk of the tree vouches for the walk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::Entry;

use super::format::{Content, Damage, MAX_DEPTH, Meta, NO_PAGE, Page, Tree, overflow_pages};

/// How often a walk is repeated because transactions are being committed.
const TRIES: usize = 1000;

/// The current meta page.
pub(super) fn current_meta(file: &File) -> io::Result<Meta> {
    let mut bytes = [0; Meta::SIZE];
    read_at(file, &mut bytes, 0).map_err(|_| Damage::NotLmdb)?;
    let first = Meta::decode(&bytes)?;
    read_at(file, &mut bytes, first.page_size as u64).map_err(|_| Damage::NotLmdb)?;
    let second = Meta::decode(&bytes)?;
    Ok(if second.transaction > first.transaction {
        second
    } else {
        first
    })
}

/// Runs `walk` on the current state of the file until no transaction came in between.
pub(super) fn consistent<T>(
    file: &File,
    walk: impl Fn(&Snapshot) -> io::Result<T>,
) -> io::Result<T> {
    for _ in 0..TRIES {
        let meta = current_meta(file)?;
        let found = walk(&Snapshot { file, meta });
        if current_meta(file)?.transaction == meta.transaction {
            return found;
        }
    }
    Err(io::Error::other(
        "the database changes faster than it can be read",
    ))
}

/// The state of a file after one transaction.
pub(super) struct Snapshot<'a> {
    pub file: &'a File,
    pub meta: Meta,
}

impl Snapshot<'_> {
    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut number = self.meta.main.root;
        if number == NO_PAGE {
            return Ok(None);
        }
        for _ in 0..MAX_DEPTH {
            let bytes = self.page(number)?;
            let page = Page::new(number, &bytes)?;
            if page.is_leaf() {
                return self.find(&page, key);
            }
            number = child(&page, number, key)?;
        }
        Err(Damage::Page(number).into())
    }

    /// All keys and values, sorted by key.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.visit(&self.meta.main, &mut |visited| {
            if let Visited::Entry(key, content) = visited {
                entries.push((key.to_vec(), self.value(content)?));
            }
            Ok(())
        })?;
        Ok(entries)
    }

    /// The pages that this state needs: those of both trees, and the meta pages.
    pub(super) fn pages(&self) -> io::Result<BTreeSet<u64>> {
        let mut pages = BTreeSet::from([0, 1]);
        for tree in [&self.meta.main, &self.meta.free] {
            self.visit(tree, &mut |visited| {
                match visited {
                    Visited::Page(number) => {
                        pages.insert(number);
                    }
                    Visited::Entry(_, Content::Big { page, length }) => {
                        pages.extend(page..page + self.run(page, length)?);
                    }
                    Visited::Entry(..) => {}
                }
                Ok(())
            })?;
        }
        Ok(pages)
    }

    fn find(&self, page: &Page, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (mut low, mut high) = (0, page.len());
        while low < high {
            let middle = low.midpoint(high);
            let node = page.node(middle)?;
            match node.key.cmp(key) {
                std::cmp::Ordering::Equal => return self.value(node.content).map(Some),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    fn value(&self, content: Content) -> io::Result<Vec<u8>> {
        match content {
            Content::Value(bytes) => Ok(bytes.to_vec()),
            Content::Big { page, length } => {
                self.run(page, length)?;
                let mut bytes = vec![0; length];
                let at = page * self.meta.page_size as u64 + super::format::HEADER as u64;
                read_at(self.file, &mut bytes, at).map_err(|error| cut_off(error, page))?;
                Ok(bytes)
            }
            // A leaf has none, see `Page::node`.
            Content::Child(page) => Err(Damage::Page(page).into()),
        }
    }

    /// How many pages a value of this length takes from this page on; an error when the file is not that long.
    fn run(&self, page: u64, length: usize) -> io::Result<u64> {
        let size = self.meta.page_size;
        let pages = overflow_pages(length, size);
        let end = page
            .checked_add(pages)
            .and_then(|last| last.checked_mul(size as u64));
        match end {
            Some(end) if end <= self.file.metadata()?.len() => Ok(pages),
            _ => Err(Damage::Page(page).into()),
        }
    }

    fn page(&self, number: u64) -> io::Result<Vec<u8>> {
        if number < 2 || number > self.meta.last_page {
            return Err(Damage::Page(number).into());
        }
        let size = self.meta.page_size;
        let at = number
            .checked_mul(size as u64)
            .ok_or(Damage::Page(number))?;
        let mut bytes = vec![0; size];
        read_at(self.file, &mut bytes, at).map_err(|error| cut_off(error, number))?;
        Ok(bytes)
    }

    /// Goes through a tree from left to right.
    fn visit(&self, tree: &Tree, see: &mut dyn FnMut(Visited) -> io::Result<()>) -> io::Result<()> {
        if tree.root == NO_PAGE {
            return Ok(());
        }
        // No page is seen twice, or the file is damaged and this would take for ever.
        let mut left = self.meta.last_page;
        let mut waiting = vec![tree.root];
        while let Some(number) = waiting.pop() {
            left = left.checked_sub(1).ok_or(Damage::Page(number))?;
            see(Visited::Page(number))?;
            let bytes = self.page(number)?;
            let page = Page::new(number, &bytes)?;
            let mut children = Vec::new();
            for index in 0..page.len() {
                let node = page.node(index)?;
                match node.content {
                    Content::Child(child) => children.push(child),
                    content => see(Visited::Entry(node.key, content))?,
                }
            }
            waiting.extend(children.into_iter().rev());
        }
        Ok(())
    }
}

enum Visited<'a> {
    Page(u64),
    Entry(&'a [u8], Content<'a>),
}

/// The child that covers the key. The first key of a branch stands for everything below the second.
fn child(page: &Page, number: u64, key: &[u8]) -> io::Result<u64> {
    if page.len() == 0 {
        return Err(Damage::Page(number).into());
    }
    let (mut low, mut high) = (1, page.len());
    while low < high {
        let middle = low.midpoint(high);
        if page.node(middle)?.key <= key {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    match page.node(low - 1)?.content {
        Content::Child(child) => Ok(child),
        _ => Err(Damage::Page(number).into()),
    }
}

fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(bytes, at)
}

fn cut_off(error: io::Error, page: u64) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Damage::Page(page).into(),
        _ => error,
    }
}
