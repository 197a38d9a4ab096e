//! The log of the command line tools: `postmap: warning: …` on standard error, as Postfix's tools write it.

use std::fmt::Write as _;
use std::future::Future;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes events to standard error behind the program's name.
struct ToolLog {
    program: &'static str,
    level: Level,
}

/// Sends the log of this process to standard error under the program's name; `verbose` adds what
/// `-v` shows.
pub fn install(program: &'static str, verbose: bool) {
    let level = if verbose { Level::DEBUG } else { Level::INFO };
    // A second call keeps the first log: there is one standard error.
    let _ = tracing::subscriber::set_global_default(ToolLog { program, level });
}

tokio::task_local! {
    static HELD: std::cell::RefCell<String>;
}

/// Runs a piece of work and holds back what it logs, so that work done side by side can be told in order.
pub async fn holding<T>(work: impl Future<Output = T>) -> (T, String) {
    HELD.scope(Default::default(), async {
        let outcome = work.await;
        (outcome, HELD.with(|held| held.take()))
    })
    .await
}

/// Lets lines go where they would have gone without [`holding`].
pub fn release(lines: &str) {
    let held = HELD.try_with(|held| held.borrow_mut().push_str(lines));
    if held.is_err() {
        eprint!("{lines}");
    }
}

/// `text` with everything that could drive a terminal replaced, as Postfix logs it.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

impl Subscriber for ToolLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.target() == tables::ADVICE {
            return self.level >= Level::DEBUG;
        }
        let ours = metadata.target().starts_with("postroom");
        *metadata.level() <= self.level && (ours || *metadata.level() <= Level::WARN)
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let severity = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        let line = format!("{}: {severity}{}\n", self.program, printable(&message.text));
        release(&line);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Message {
    text: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String does not fail.
            let _ = write!(self.text, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[1m\nb\u{9b}ö"), "a?[1m?b?ö");
    }
}
