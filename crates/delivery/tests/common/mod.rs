//! Requests and configurations for the tests of the agents.

#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::Config;
use postroom_delivery::{Asked, Locate, Message, Outcome, Place, Rcpt, Request};
use tables::Tables;

/// When every test message arrived.
pub fn arrival() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_361_297_000_042)
}

/// The agents under test, and a router for local(8) by which `@host.example` is local and all else is not.
#[derive(Clone)]
pub struct Agents(postroom_delivery::Agents);

impl std::ops::Deref for Agents {
    type Target = postroom_delivery::Agents;

    fn deref(&self) -> &postroom_delivery::Agents {
        &self.0
    }
}

impl Agents {
    pub async fn deliver(&self, request: &Request) -> Vec<Outcome> {
        self.0.deliver(request, &Router).await
    }
}

struct Router;

impl Locate for Router {
    fn locate<'a>(&'a self, address: &'a str) -> Asked<'a> {
        let address = match address.contains('@') {
            true => address.to_owned(),
            false => format!("{address}@host.example"),
        };
        let transport = match address.ends_with("@host.example") {
            true => "local",
            false => "smtp",
        };
        let place = Place {
            transport: transport.to_owned(),
            malformed: false,
            address,
        };
        Box::pin(async move { Ok(place) })
    }
}

/// The agents of these two files; `dir` is the queue directory.
pub fn agents(dir: &Path, main_cf: &str, master_cf: &str) -> Agents {
    let dir = dir.display();
    let main_cf = format!(
        "myhostname = mail.host.example\nqueue_directory = {dir}\nvirtual_mailbox_base = {dir}/mail\n\
         recipient_delimiter = +\ninet_protocols = ipv4\n{main_cf}"
    );
    let config = Config::from_text(&main_cf, master_cf).unwrap();
    Agents(postroom_delivery::Agents::new(
        &config,
        &Tables::new(&config),
    ))
}

/// The uid and gid this test runs as, as main.cf settings; root delivers as nobody.
pub fn owners() -> String {
    let (uid, gid) = owner();
    format!(
        "virtual_uid_maps = static:{uid}\nvirtual_gid_maps = static:{gid}\nvirtual_minimum_uid = 0\n"
    )
}

pub fn owner() -> (u32, u32) {
    match nix::unistd::geteuid().as_raw() {
        0 => (65_534, 65_534),
        uid => (uid, nix::unistd::getegid().as_raw()),
    }
}

/// A folder `mail` that the mailbox owner may write to.
pub fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    std::fs::create_dir(dir.path().join("mail")).unwrap();
    open(dir.path());
    open(&dir.path().join("mail"));
    dir
}

pub fn message(sender: &str, text: &str) -> Message {
    let envelope = queue::Envelope::new(sender, Vec::new(), arrival());
    Message::new(
        "4ABCD",
        &envelope,
        queue::Content::Memory(text.to_owned().into()),
    )
}

pub fn request(transport: &str, nexthop: &str, recipients: &[&str], message: Message) -> Request {
    let rcpt = |(index, address): (usize, &&str)| Rcpt {
        index,
        address: address.to_string(),
        original: address.to_string(),
        ..Rcpt::default()
    };
    Request {
        message: Arc::new(message),
        transport: transport.to_owned(),
        nexthop: nexthop.to_owned(),
        recipients: recipients.iter().enumerate().map(rcpt).collect(),
        recovered: false,
    }
}

/// `sent 2.0.0 relay (text)`.
pub fn line(outcome: &Outcome) -> String {
    let Outcome {
        status,
        dsn,
        relay,
        text,
        ..
    } = outcome;
    format!("{} {dsn} {relay} ({text})", status.name())
}

pub fn lines(outcomes: &[Outcome]) -> Vec<String> {
    outcomes.iter().map(line).collect()
}
