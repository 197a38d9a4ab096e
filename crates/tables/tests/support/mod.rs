//! What the tests with real databases share: table files, the warnings that lookups log, and Postfix's postmap
//! for comparison.
#![allow(dead_code)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use config::Config;
use postroom_tables::{Table, Tables};
use testkit::TempDir;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber, span};

pub fn tables(main_cf: &str) -> Tables {
    Tables::new(&Config::from_text(main_cf, "").expect("main.cf"))
}

/// Writes a table file and opens it.
pub fn open(tables: &Tables, dir: &TempDir, engine: &str, name: &str, text: &str) -> Table {
    let path = dir.write(name, text);
    let spec = format!("{engine}:{}", path.display());
    tables.open(&spec).unwrap_or_else(|error| panic!("{error}"))
}

/// What this thread logs while the value lives.
pub struct Log {
    lines: Arc<Mutex<String>>,
    _guard: DefaultGuard,
}

impl Log {
    pub fn start() -> Log {
        let lines: Arc<Mutex<String>> = Arc::default();
        let collector = Collector(lines.clone());
        Log {
            lines,
            _guard: tracing::subscriber::set_default(collector),
        }
    }

    /// The messages since the last time.
    pub fn take(&self) -> String {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Collector(Arc<Mutex<String>>);

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        struct Message<'a>(&'a mut String);
        impl Visit for Message<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    let _ = writeln!(self.0, "{value:?}");
                }
            }
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        event.record(&mut Message(&mut lines));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Postfix's postmap at work on a key; [`Oracle::answer`] waits for it.
pub struct Oracle(std::process::Child);

impl Oracle {
    pub fn ask(dir: &TempDir, spec: &str, key: &str) -> Oracle {
        if !dir.join("main.cf").exists() {
            dir.write("main.cf", "compatibility_level = 3.7\n");
        }
        let mut command = Command::new(testkit::require("postmap"));
        command.arg("-c").arg(dir.path()).args(["-q", key, spec]);
        command.env("LC_ALL", "C").env("HOME", "/nonexistent");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Oracle(command.spawn().expect("postmap starts"))
    }

    /// `Ok`: found or not; `Err`: its messages.
    pub fn answer(self) -> Result<Option<String>, String> {
        let output = self.0.wait_with_output().expect("postmap ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_string();
        let messages = text(&output.stderr);
        match output.status.success() {
            true => Ok(Some(text(&output.stdout))),
            false if messages.contains("fatal:") => Err(messages),
            false => Ok(None),
        }
    }
}

/// The path as text.
pub fn text(path: &Path) -> String {
    path.to_str()
        .expect("temporary folders have plain names")
        .to_string()
}
