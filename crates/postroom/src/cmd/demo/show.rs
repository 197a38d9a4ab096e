//! What the demo prints.

use std::fmt::Write as _;
use std::io::Write as _;

use policy::explain::Explanation;

use super::folder::{Contents, Copy, Folder};
use super::letters::{Letter, SENDER, Sent};

/// Writes to standard output. That nobody reads it any more is no reason to stop.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What was set up.
pub fn setup(folder: &Folder) -> Result<String, String> {
    let Contents {
        domains,
        users,
        aliases,
    } = folder.contents()?;
    let mut text = format!(
        "A mail server of its own, in {}\n\n",
        folder.root().display()
    );
    let mut line = |head: &str, rest: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {head:<11}{rest}");
    };
    line("domains", &domains.join(", "));
    line("mailboxes", &wrapped(&users));
    let (catch_alls, aliases): (Vec<_>, Vec<_>) = aliases
        .into_iter()
        .partition(|(source, _)| source.starts_with('@'));
    for (source, destinations) in aliases {
        line("alias", &format!("{source} -> {}", destinations.join(", ")));
    }
    for (source, destinations) in catch_alls {
        line(
            "catch-all",
            &format!("{source} -> {}", destinations.join(", ")),
        );
        let protected: Vec<&str> = users
            .iter()
            .filter(|user| user.ends_with(&source) && !destinations.contains(user))
            .map(String::as_str)
            .collect();
        if !protected.is_empty() {
            let rest = format!(
                "{}, from that catch-all, by email2email.cf",
                protected.join(", ")
            );
            line("protected", &rest);
        }
    }
    line("SMTP", &format!("127.0.0.1:{}", folder.port()));
    line(
        "files",
        "main.cf, master.cf, four table files, mail.sqlite, mail.log, mail/, queue/",
    );
    text.push_str("\nMessages, sent to it by SMTP: the reply to RCPT, the keys looked up (\"-\": not in that table), the file.\n");
    Ok(text)
}

/// Three addresses a line.
fn wrapped(addresses: &[String]) -> String {
    let lines: Vec<String> = addresses.chunks(3).map(|some| some.join(", ")).collect();
    lines.join(",\n             ")
}

/// One message: the reply, the walk, the files.
pub fn letter(
    letter: &Letter,
    sent: &Sent,
    explained: &Explanation,
    copies: &[Copy],
    well: bool,
) -> String {
    let mut text = format!("\n{}   {}\n", letter.to, letter.about);
    let mut line = |head: &str, rest: &str| {
        let _ = writeln!(text, "  {head:<7}{rest}");
    };
    line("reply", &sent.reply);
    let steps = walk(explained);
    let width = steps
        .iter()
        .map(|(key, _)| key.chars().count())
        .max()
        .unwrap_or(0);
    for (index, (key, answers)) in steps.iter().enumerate() {
        let head = if index == 0 { "walk" } else { "" };
        line(head, &format!("{key:<width$}  {answers}"));
    }
    for (index, copy) in copies.iter().enumerate() {
        let head = if index == 0 { "file" } else { "" };
        line(head, &copy.file.display().to_string());
    }
    if !well {
        let wanted = match letter.mailboxes {
            [] => "to be refused".to_owned(),
            mailboxes => format!("in {}", mailboxes.join(", ")),
        };
        let queued = sent.queued.as_deref().unwrap_or("not accepted");
        line(
            "WRONG",
            &format!("expected {wanted}; {queued}; see mail.log"),
        );
    }
    text
}

/// The questions to the tables of aliases and mailboxes, a line a key: `aliases no, email2email no`.
fn walk(explained: &Explanation) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut asked = Vec::new();
    for lookup in &explained.lookups {
        if !["virtual_alias_maps", "virtual_mailbox_maps"].contains(&lookup.parameter) {
            continue;
        }
        let file = lookup.table.rsplit('/').next().unwrap_or(&lookup.table);
        let table = file.strip_suffix(".cf").unwrap_or(file);
        let answer = match (&lookup.found, &lookup.failed) {
            (_, Some(_)) => format!("{table} FAILED"),
            (Some(value), _) => format!("{table}: {value}"),
            (None, None) => format!("{table} -"),
        };
        if asked.contains(&(&lookup.key, &lookup.table)) {
            continue;
        }
        asked.push((&lookup.key, &lookup.table));
        match steps.iter_mut().find(|(key, _)| *key == lookup.key) {
            Some((_, answers)) => {
                answers.push_str(", ");
                answers.push_str(&answer);
            }
            None => steps.push((lookup.key.clone(), answer)),
        }
    }
    steps
}

/// How to go on.
pub fn more(folder: &Folder, named: bool, once: bool) -> String {
    let dir = folder.root().display();
    let program = std::env::args().next().unwrap_or_else(|| "postroom".into());
    let (head, first) = if once {
        (
            "Try more:",
            format!("{program} demo --dir {dir}     # to start it again, and stay"),
        )
    } else {
        (
            "It stays up until Ctrl-C. Try more, in another terminal:",
            format!(
                "swaks --server 127.0.0.1:{} --from {SENDER} --to jane@example.org",
                folder.port()
            ),
        )
    };
    let mut text = format!(
        "\n{head}\n  {first}\n  {program} explain -c {dir} anything@example.net\n  \
         {program} postmap -q team@example.org sqlite:{dir}/aliases.cf\n  tail {dir}/mail.log\n"
    );
    if !named {
        let _ = writeln!(text, "  rm -r {dir}     # when you are done");
    }
    text
}
