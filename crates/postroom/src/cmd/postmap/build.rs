//! Building tables from their source texts, and adding to them (`-i`).
//!
//! `lmdb:` files are made. A `hash:` or `btree:` is read from its source as it is, so that its source is
//! checked and nothing is written; the warnings are those of Postfix.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, getegid, geteuid, getuid, setegid, seteuid, setgroups};
use tables::{
    BAD_KEY_SIZE, Keep, LmdbEditor, NoEntry, Nulls, Tables, alias_entry, base64, file_content,
    lmdb_path, map_entry, shown, source_lines,
};

use super::options::{Duplicates, Options, Tool};
use super::{Context, Fatal, edit_the_text};

/// Builds every table of the command line.
pub(super) fn build(context: &Context) -> Result<ExitCode, Fatal> {
    for spec in &context.specs {
        build_one(context, spec)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn build_one(context: &Context, spec: &str) -> Result<(), Fatal> {
    let options = context.options;
    let (kind, name) = spec.split_once(':').unwrap_or(("", spec));
    if options.incremental && matches!(kind, "hash" | "btree") {
        return Err(edit_the_text(spec));
    }
    if kind == "proxy" && !options.incremental {
        let text = "can't create maps via the proxy service";
        return Err(Fatal(text.to_string()));
    }
    let source = Source::open(options, name)?;
    let mut target = Target::open(context, kind, name, spec)?;
    if let Err(error) = source.feed(context, &mut target) {
        // What was added counts; of a new table nothing does.
        if options.incremental {
            target.finish(context)?;
        }
        return Err(error);
    }
    if options.tool == Tool::Postalias {
        target.sign(context)?;
    }
    target.finish(context)
}

/// The text that entries come from.
struct Source<'a> {
    name: &'a str,
    text: Vec<u8>,
}

impl Source<'_> {
    /// Reads the source; then this process has its owner's rights, and new files its mode.
    fn open<'a>(options: &Options, name: &'a str) -> Result<Source<'a>, Fatal> {
        let mut text = Vec::new();
        let metadata = if options.incremental {
            // What cannot be read ends the input, as with Postfix.
            let _ = std::io::stdin().lock().read_to_end(&mut text);
            None
        } else {
            let failed = |error| Fatal(format!("open {name}: {}", os_text(&error)));
            let mut file = std::fs::File::open(name).map_err(failed)?;
            let metadata = file.metadata().map_err(failed)?;
            // A folder can be opened and has no lines.
            let _ = file.read_to_end(&mut text);
            Some(metadata)
        };
        if let Some(metadata) = &metadata
            && options.as_owner
            && getuid().is_root()
        {
            become_owner(metadata.uid(), metadata.gid())?;
        }
        let mask = match metadata {
            Some(metadata) if options.source_mode => !metadata.mode() & 0o077,
            _ => 0o022,
        };
        umask(Mode::from_bits_truncate(mask));
        let name = match options.incremental {
            true => "stdin",
            false => name,
        };
        Ok(Source { name, text })
    }

    fn feed(&self, context: &Context, target: &mut Target) -> Result<(), Fatal> {
        let folding = Folding::of(context);
        let (lines, stray) = source_lines(&self.text);
        if let Some(text) = stray {
            tracing::warn!("{}: {text}", self.name);
        }
        for line in lines {
            let place = format!("{}, line {}", self.name, line.number);
            if !folding.accepts(&line.text) {
                let shown = shown(&line.text);
                tracing::warn!("{place}: non-UTF-8 input \"{shown}\" -- ignoring this line");
                continue;
            }
            match context.options.tool {
                Tool::Postmap => map_line(context.options, &place, &line.text, target)?,
                Tool::Postalias => alias_line(&place, &line.text, target)?,
            }
        }
        Ok(())
    }
}

fn map_line(options: &Options, place: &str, text: &[u8], target: &mut Target) -> Result<(), Fatal> {
    let (key, value) = match map_entry(text) {
        Ok(entry) => entry,
        Err(NoEntry::Quotes) => {
            let text = shown(text);
            tracing::warn!("{place}: unbalanced '\"' in '{text}' -- ignoring this line");
            return Ok(());
        }
        Err(_) => {
            tracing::warn!("{place}: expected format: key whitespace value");
            return Ok(());
        }
    };
    if key.ends_with(b":") {
        tracing::warn!("{place}: record is in \"key: value\" format; is this an alias file?");
    }
    if !options.files {
        return target.append(key, value);
    }
    match file_content(&String::from_utf8_lossy(value)) {
        Ok(content) => target.append(key, base64(&content).as_bytes()),
        Err(error) => {
            tracing::warn!("{place}: {error}: skipping this entry");
            Ok(())
        }
    }
}

fn alias_line(place: &str, text: &[u8], target: &mut Target) -> Result<(), Fatal> {
    match alias_entry(text) {
        Ok((key, value)) => return target.append(&key, &value),
        Err(NoEntry::Nothing) => {}
        Err(NoEntry::Domain) => tracing::warn!("{place}: name must be local"),
        Err(_) => tracing::warn!("{place}: need name:value pair"),
    }
    Ok(())
}

/// Where entries go.
struct Target<'a> {
    spec: &'a str,
    /// The table as Postfix names it in the warning of duplicates.
    shown: String,
    place: Place,
    duplicates: Duplicates,
    nulls: Nulls,
    folding: Folding,
}

enum Place {
    Lmdb(LmdbEditor),
    /// Nothing is written, and the source may be named again to look keys up.
    Checked(HashSet<Vec<u8>>),
    Fail,
}

impl Target<'_> {
    fn open<'a>(
        context: &Context,
        kind: &str,
        name: &str,
        spec: &'a str,
    ) -> Result<Target<'a>, Fatal> {
        let options = context.options;
        let mut shown = spec.to_string();
        let place = match kind {
            "lmdb" => {
                let path = lmdb_path(name);
                let keep = match options.incremental {
                    true => Keep::Entries,
                    false => Keep::Nothing,
                };
                let file = LmdbEditor::open(&path, keep, map_size(context)?, 0o644);
                let file = file.map_err(|error| {
                    let text = os_text(&error);
                    Fatal(format!("open database {}: {text}", path.display()))
                })?;
                Place::Lmdb(file)
            }
            "hash" | "btree" => {
                shown = format!("{name}.db");
                Place::Checked(HashSet::new())
            }
            "fail" => Place::Fail,
            _ if tables::TYPES.contains(&kind) => {
                return Err(Fatal(format!(
                    "unsupported dictionary type: {kind} does not support bulk-mode creation."
                )));
            }
            _ => {
                // An unknown type: what to use in its place stands in that error.
                Tables::new(&context.config).open(spec)?;
                Place::Fail
            }
        };
        Ok(Target {
            spec,
            shown,
            place,
            duplicates: options.duplicates,
            nulls: options.nulls,
            folding: Folding::of(context),
        })
    }

    fn append(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fatal> {
        let folded = self.folding.fold(key).into_owned();
        let stored = self.nulls.written(&folded);
        let known = match &mut self.place {
            Place::Lmdb(file) => file.contains(&stored),
            Place::Checked(keys) => !keys.insert(folded.clone()),
            Place::Fail => {
                let text = format!("table {}: write error: Application error", self.spec);
                return Err(Fatal(text));
            }
        };
        match self.duplicates {
            Duplicates::Warn if known => {
                let key = shown(&folded);
                tracing::warn!("{}: duplicate entry: \"{key}\"", self.shown);
                return Ok(());
            }
            Duplicates::Ignore if known => return Ok(()),
            _ => {}
        }
        if let Place::Lmdb(file) = &mut self.place {
            file.insert(stored, self.nulls.written(value))
                .map_err(|_| Fatal(format!("error updating {}: {BAD_KEY_SIZE}", self.spec)))?;
        }
        Ok(())
    }

    /// What Sendmail and NIS expect in an alias database.
    fn sign(&mut self, context: &Context) -> Result<(), Fatal> {
        if context.options.incremental {
            self.duplicates = Duplicates::Replace;
        }
        self.append(b"@", b"@")?;
        // NIS has its own entries without a NUL, in upper case.
        self.nulls = Nulls::Without;
        self.folding.fold = false;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs();
        self.append(b"YP_LAST_MODIFIED", format!("{seconds:010}").as_bytes())?;
        let host = context
            .config
            .string("myhostname")
            .map_err(|error| Fatal(error.postfix_text()))?;
        self.append(b"YP_MASTER_NAME", host.as_bytes())
    }

    fn finish(self, context: &Context) -> Result<(), Fatal> {
        match self.place {
            Place::Lmdb(file) => file.commit().map_err(|error| {
                let text = os_text(&error);
                Fatal(format!("error updating {}: {text}", self.spec))
            }),
            Place::Checked(keys) => {
                // Scripts see what Postfix's command says: nothing.
                if context.options.verbose || std::io::stderr().is_terminal() {
                    tracing::info!(
                        "{}: {} entries; read as it is, no index is needed",
                        self.spec,
                        keys.len()
                    );
                }
                Ok(())
            }
            Place::Fail => Ok(()),
        }
    }
}

/// How keys are folded, and whether they must be UTF-8.
#[derive(Clone, Copy)]
pub(super) struct Folding {
    fold: bool,
    utf8: bool,
}

impl Folding {
    pub(super) fn of(context: &Context) -> Folding {
        let open = context.options.open();
        Folding {
            fold: open.fold,
            utf8: open.utf8 && context.smtputf8,
        }
    }

    pub(super) fn accepts(self, text: &[u8]) -> bool {
        !self.utf8 || std::str::from_utf8(text).is_ok()
    }

    pub(super) fn fold(self, key: &[u8]) -> Cow<'_, [u8]> {
        match std::str::from_utf8(key) {
            _ if !self.fold => Cow::Borrowed(key),
            Ok(text) if self.utf8 => match mail::fold(text) {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
            _ => Cow::Owned(key.to_ascii_lowercase()),
        }
    }
}

/// Takes the rights of the owner of a source, so that what is built is theirs and no more can be overwritten.
fn become_owner(uid: u32, gid: u32) -> Result<(), Fatal> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if (uid, gid) == (geteuid(), getegid()) {
        return Ok(());
    }
    let failed = |error| Fatal(format!("cannot take the rights of user {uid}: {error}"));
    if !geteuid().is_root() {
        seteuid(Uid::from_raw(0)).map_err(failed)?;
    }
    setegid(gid).map_err(failed)?;
    setgroups(&[gid]).map_err(failed)?;
    seteuid(uid).map_err(failed)
}

/// `lmdb_map_size`.
pub(super) fn map_size(context: &Context) -> Result<u64, Fatal> {
    let size = context
        .config
        .int("lmdb_map_size")
        .map_err(|error| Fatal(error.postfix_text()))?;
    Ok(u64::try_from(size).unwrap_or(0))
}

/// The text of an I/O error without Rust's ` (os error N)`.
pub(super) fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}
