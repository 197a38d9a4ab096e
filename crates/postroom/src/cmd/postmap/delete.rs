//! `-d KEY` and `-d -`: entries are removed from tables that are kept in files of their own.

use std::io::BufRead;
use std::process::ExitCode;

use tables::{BAD_KEY_SIZE, Keep, LmdbEditor, Tables, lmdb_path, shown};

use super::build::{Folding, map_size, os_text};
use super::options::Options;
use super::{Context, Fatal, edit_the_text};

/// Removes one entry a key and table; success when there was one.
pub(super) fn delete(context: &Context, key: &[u8]) -> Result<ExitCode, Fatal> {
    let keys = match key {
        b"-" => lines_of_stdin()?,
        key => vec![key.to_vec()],
    };
    let mut found = false;
    for spec in &context.specs {
        let mut table = Deleter::open(context, spec)?;
        for key in &keys {
            found |= table.delete(key, context)?;
        }
        table.commit()?;
    }
    Ok(match found {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

struct Deleter<'a> {
    spec: &'a str,
    file: Option<LmdbEditor>,
    changed: bool,
}

impl Deleter<'_> {
    fn open<'a>(context: &Context, spec: &'a str) -> Result<Deleter<'a>, Fatal> {
        let (kind, name) = spec.split_once(':').unwrap_or(("", spec));
        match kind {
            "lmdb" => {}
            "hash" | "btree" => return Err(edit_the_text(spec)),
            "proxy" => {
                let text = format!("{spec}: name the table itself, without proxy:, to change it");
                return Err(Fatal(text));
            }
            "fail" => {
                return Err(Fatal(format!(
                    "table {spec}: delete error: Application error"
                )));
            }
            "static" => {
                return Err(Fatal(format!(
                    "table {spec}: delete operation is not supported"
                )));
            }
            _ if tables::TYPES.contains(&kind) => {
                return Err(Fatal(format!("{spec} map requires O_RDONLY access mode")));
            }
            _ => {
                // An unknown type: what to use in its place stands in that error.
                Tables::new(&context.config).open(spec)?;
            }
        }
        let path = lmdb_path(name);
        // A table that is not there has nothing to remove.
        let file = match path.exists() {
            false => None,
            true => {
                let file = LmdbEditor::open(&path, Keep::Entries, map_size(context)?, 0o644)
                    .map_err(|error| {
                        let text = os_text(&error);
                        Fatal(format!("open database {}: {text}", path.display()))
                    })?;
                Some(file)
            }
        };
        Ok(Deleter {
            spec,
            file,
            changed: false,
        })
    }

    fn delete(&mut self, key: &[u8], context: &Context) -> Result<bool, Fatal> {
        let Options { nulls, .. } = context.options;
        let folding = Folding::of(context);
        if !folding.accepts(key) {
            let shown = shown(key);
            tracing::warn!(
                "{}: non-UTF-8 key \"{shown}\": malformed UTF-8 or invalid codepoint",
                self.spec
            );
            // Postfix takes a key that cannot be in the table for removed.
            return Ok(true);
        }
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        for form in nulls.forms(&folding.fold(key)) {
            if form.is_empty() {
                return Err(Fatal(format!(
                    "error deleting from {}: {BAD_KEY_SIZE}",
                    self.spec
                )));
            }
            if file.remove(&form) {
                self.changed = true;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn commit(self) -> Result<(), Fatal> {
        match self.file {
            Some(file) if self.changed => file.commit().map_err(|error| {
                let text = os_text(&error);
                Fatal(format!("error deleting from {}: {text}", self.spec))
            }),
            _ => Ok(()),
        }
    }
}

fn lines_of_stdin() -> Result<Vec<Vec<u8>>, Fatal> {
    std::io::stdin()
        .lock()
        .split(b'\n')
        .collect::<Result<_, _>>()
        .map_err(|error| Fatal(format!("read standard input: {error}")))
}
