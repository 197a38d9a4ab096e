//! One configuration directory under real Postfix and under Postroom: every dialogue of a suite is spoken to both, and the
//! replies, the log lines of smtpd and cleanup, and what arrives at the next hop are compared.
//!
//! A suite is a text file; `side_by_side/README.md` has its form. A test file that uses this says
//! `mod support; #[path = "support/side_by_side.rs"] mod side_by_side;` and calls [`Suite::compare`].

#![allow(dead_code, reason = "every test file uses its own part")]

#[path = "side_by_side/next_hop.rs"]
mod next_hop;
#[path = "side_by_side/suite.rs"]
mod suite;
#[path = "side_by_side/trace.rs"]
mod trace;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;

use testkit::{MailServer, Postfix, Site, free_port};

use crate::support::BINARY;
use next_hop::NextHop;
pub use suite::{Dialogue, Part, Suite};
use trace::Trace;

/// What every suite begins with; its own `[main]` has the last word. All mail goes to a next hop that writes down what comes.
const MAIN: &str = "\
smtpd_error_sleep_time = 0
smtpd_authorized_xclient_hosts = 0.0.0.0/0
local_transport = @SINK@
virtual_transport = @SINK@
relay_transport = @SINK@
default_transport = @SINK@
lmtp_cname_overrides_servername = no
";

/// What a test starts for one of the two servers: the texts of further placeholders, and the peers themselves, which live as long.
#[derive(Default)]
pub struct Peers {
    pub placeholders: Vec<(String, String)>,
    pub guard: Option<Box<dyn Any>>,
}

impl Suite {
    /// Speaks all dialogues to Postfix and to Postroom; panics with every difference that is not expected. The number of dialogues.
    pub fn compare(&self) -> usize {
        self.compare_with(Peers::default)
    }

    /// The same; `peers` is called for each of the two servers before it starts.
    pub fn compare_with(&self, peers: impl Fn() -> Peers) -> usize {
        self.compare_started(peers, Postfix::on, |site| {
            MailServer::postroom(Path::new(BINARY), site)
        })
    }

    /// The same with servers that are started in a way of the test's own.
    pub fn compare_started(
        &self,
        peers: impl Fn() -> Peers,
        theirs: impl FnOnce(Site) -> MailServer,
        ours: impl FnOnce(Site) -> MailServer,
    ) -> usize {
        let theirs = self.run(&peers(), theirs);
        let ours = self.run(&peers(), ours);
        if let Ok(path) = std::env::var("SIDE_BY_SIDE_SHOW") {
            let all = self.dialogues.iter().zip(&theirs);
            let text: String = all
                .map(|(d, t)| format!("## {}\n{t:#?}\n", d.name))
                .collect();
            std::fs::write(path, text).expect("the file of SIDE_BY_SIDE_SHOW can be written");
        }
        let mut complaints = Vec::new();
        let mut expected = 0;
        for (at, dialogue) in self.dialogues.iter().enumerate() {
            let (theirs, ours) = (&theirs[at], &ours[at]);
            let found: Vec<(Part, String)> = [
                (Part::Replies, difference(&theirs.replies, &ours.replies)),
                (Part::Log, difference(&theirs.log, &ours.log)),
                (Part::Mail, difference(&theirs.mail, &ours.mail)),
            ]
            .into_iter()
            .filter_map(|(part, text)| Some((part, text?)))
            .collect();
            expected += usize::from(!dialogue.differences.is_empty());
            complaints.extend(complaint(dialogue, &found));
        }
        assert!(
            complaints.is_empty(),
            "{}: {} of {} dialogues differ (- Postfix, + Postroom):\n{}",
            self.name,
            complaints.len(),
            self.dialogues.len(),
            complaints.join("\n")
        );
        println!(
            "{}: {} dialogues, {expected} with an expected difference",
            self.name,
            self.dialogues.len()
        );
        self.dialogues.len()
    }

    /// Speaks all dialogues to one server.
    fn run(&self, peers: &Peers, start: impl FnOnce(Site) -> MailServer) -> Vec<Trace> {
        let next_hop = NextHop::start();
        let mut placeholders = peers.placeholders.clone();
        placeholders.extend(next_hop.placeholders());
        let mut ports = BTreeMap::new();
        for service in self.services.keys() {
            let port = free_port();
            placeholders.push((format!("@PORT:{service}@"), port.to_string()));
            ports.insert(service.clone(), port);
        }
        let site = self.site(&placeholders, &ports);
        ports.insert(String::new(), site.smtp_port);
        // What the two runs have in different places, by its placeholder.
        let mut hidden = vec![(site.dir().display().to_string(), "@DIR@".to_owned())];
        let longest_first = placeholders.iter().rev();
        hidden.extend(longest_first.map(|(name, value)| (value.clone(), name.clone())));
        let server = start(site);
        let traces = trace::run(self, &server, &ports, &next_hop);
        traces
            .into_iter()
            .map(|trace| trace.hide(&hidden))
            .collect()
    }

    fn site(&self, placeholders: &[(String, String)], ports: &BTreeMap<String, u16>) -> Site {
        let fill = |text: &str| {
            let mut text = text.to_owned();
            for (name, value) in placeholders {
                text = text.replace(name, value);
            }
            text
        };
        let mut master = self.master.clone();
        for (service, settings) in &self.services {
            master += &format!("127.0.0.1:{} inet n - n - - smtpd\n", ports[service]);
            for setting in settings.lines().filter(|line| !line.trim().is_empty()) {
                master += &format!("  -o {{ {} }}\n", setting.trim());
            }
        }
        let main = format!("{}{}", testkit::site::without(MAIN, &self.main), self.main);
        let files: Vec<(&str, String)> = self
            .files
            .iter()
            .map(|(name, text)| (name.as_str(), fill(text)))
            .collect();
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        Site::new(&fill(&main), &fill(&master), &files)
    }
}

/// What is wrong with a dialogue: a difference that nobody expects, or an expected one that is not there.
fn complaint(dialogue: &Dialogue, found: &[(Part, String)]) -> Option<String> {
    let mut wrong = Vec::new();
    for (part, text) in found {
        if !dialogue.expects(*part) {
            wrong.push(format!("{part:?}:\n{text}"));
        }
    }
    for (part, reason) in &dialogue.differences {
        let occurs = found
            .iter()
            .any(|(found, _)| part.is_none_or(|part| part == *found));
        if !occurs {
            wrong.push(format!(
                "there is no difference, but expected was: {reason}"
            ));
        }
    }
    (!wrong.is_empty()).then(|| format!("## {}\n{}", dialogue.name, wrong.join("\n")))
}

/// The lines of which only one side has as many; None where there are none. Where only the order differs, all lines.
fn difference(theirs: &[String], ours: &[String]) -> Option<String> {
    if theirs == ours {
        return None;
    }
    let mut text = String::new();
    let (mut left, mut right) = (theirs, ours);
    while let (Some(a), Some(b)) = (left.first(), right.first()) {
        if a == b {
            text += &format!("    {a}\n");
            (left, right) = (&left[1..], &right[1..]);
            continue;
        }
        // The side whose line comes later on the other one waits.
        if right.contains(a) && !left.contains(b) {
            text += &format!("  + {b}\n");
            right = &right[1..];
        } else {
            text += &format!("  - {a}\n");
            left = &left[1..];
        }
    }
    left.iter()
        .for_each(|line| text += &format!("  - {line}\n"));
    right
        .iter()
        .for_each(|line| text += &format!("  + {line}\n"));
    Some(text)
}
