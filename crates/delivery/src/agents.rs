//! One agent for each delivery service of master.cf.

use std::collections::HashMap;
use std::sync::Arc;

use config::master::{Service, ServiceKind};
use config::{Config, ConfigError};
use mail::status::EnhancedCode;
use smtp::Protocol;
use tables::Tables;

use crate::client::Client;
use crate::local::{Addresses, Asked, Local, Passed};
use crate::mailbox::Virtual;
use crate::notice;
use crate::pipe::{self, Pipe};
use crate::request::{Outcome, Request};

/// The delivery agents of a configuration. Cheap to clone; a new configuration makes new ones.
#[derive(Clone)]
pub struct Agents {
    services: Arc<HashMap<String, Agent>>,
}

/// Where addresses go; the server's router knows.
pub trait Locate: Send + Sync {
    /// Rewrites and resolves an address in internal form.
    fn locate<'a>(&'a self, address: &'a str) -> Asked<'a>;
}

#[derive(Clone)]
enum Agent {
    Virtual(Virtual),
    Client(Client),
    Pipe(Pipe),
    Error,
    Retry,
    Discard,
    Local(Local),
    /// Its line in master.cf or its parameters are wrong; mail for it waits.
    Broken(String),
}

/// The services that exist without a line in master.cf.
const BUILT_IN: [&str; 8] = [
    "virtual", "lmtp", "smtp", "relay", "error", "retry", "discard", "local",
];

impl Agents {
    /// Builds an agent for each `unix` service whose command delivers mail, and for the usual ones that
    /// master.cf lacks. Mistakes in a service defer the mail for that service alone:
    /// [`Agents::problems`] has them.
    pub fn new(config: &Config, tables: &Tables) -> Agents {
        let mut services = HashMap::new();
        for service in config
            .services()
            .iter()
            .filter(|service| service.kind == ServiceKind::Unix)
        {
            let config = config.for_service(service);
            if let Some(agent) = build(&service.name, &service.command, service, &config, tables) {
                services.insert(service.name.clone(), agent);
            }
        }
        for name in BUILT_IN {
            if !services.contains_key(name)
                && let Some(agent) = build_plain(name, name, config, tables)
            {
                services.insert(name.to_owned(), agent);
            }
        }
        Agents {
            services: Arc::new(services),
        }
    }

    /// Services that cannot work, and why.
    pub fn problems(&self) -> Vec<(&str, &str)> {
        let broken = self
            .services
            .iter()
            .filter_map(|(name, agent)| match agent {
                Agent::Broken(problem) => Some((name.as_str(), problem.as_str())),
                _ => None,
            });
        let mut problems: Vec<_> = broken.collect();
        problems.sort_unstable();
        problems
    }

    /// Whether there is a transport of this name.
    pub fn has(&self, transport: &str) -> bool {
        self.services.contains_key(transport)
    }

    /// Delivers, and returns one outcome for each recipient, in order. Never fails: what goes wrong is
    /// an outcome.
    /// `router` tells local(8) where addresses go.
    pub async fn deliver(&self, request: &Request, router: &dyn Locate) -> Vec<Outcome> {
        let all = |outcome: Outcome| vec![outcome; request.recipients.len()];
        match self.services.get(&request.transport) {
            Some(Agent::Virtual(agent)) => agent.deliver(request).await,
            Some(Agent::Client(agent)) => agent.deliver(request).await,
            Some(Agent::Pipe(agent)) => agent.deliver(request).await,
            Some(Agent::Error) => all(notice::error(&request.nexthop)),
            Some(Agent::Retry) => all(notice::retry(&request.nexthop)),
            Some(Agent::Discard) => all(notice::discard(&request.nexthop)),
            Some(Agent::Local(agent)) => {
                let addresses = Here {
                    agents: self,
                    router,
                };
                Box::pin(agent.deliver(request, &addresses)).await
            }
            Some(Agent::Broken(_)) | None => {
                let code = EnhancedCode::new(4, 3, 0);
                all(Outcome::deferred(
                    "error",
                    code,
                    "mail transport unavailable",
                ))
            }
        }
    }

    /// Closes kept connections, for an orderly end.
    pub async fn close(&self) {
        for agent in self.services.values() {
            if let Agent::Client(client) = agent {
                client.close().await;
            }
        }
    }
}

fn build(
    name: &str,
    command: &str,
    service: &Service,
    config: &Config,
    tables: &Tables,
) -> Option<Agent> {
    if command == "pipe" {
        let owner = config.string("mail_owner").unwrap_or_default();
        let made = match pipe::spec::parse(&service.args, &owner) {
            Ok(spec) => Pipe::new(name, spec, config).map(Agent::Pipe),
            Err(problem) => Ok(Agent::Broken(format!(
                "master.cf line {}: {problem}",
                service.line
            ))),
        };
        return Some(made.unwrap_or_else(broken));
    }
    build_plain(name, command, config, tables)
}

/// `None`: the command is no delivery agent.
fn build_plain(name: &str, command: &str, config: &Config, tables: &Tables) -> Option<Agent> {
    let made = match command {
        "virtual" => Virtual::new(config, tables).map(Agent::Virtual),
        "lmtp" => Client::new(Protocol::Lmtp, config, tables).map(Agent::Client),
        "smtp" | "relay" => Client::new(Protocol::Smtp, config, tables).map(Agent::Client),
        // The program is error(8) in both cases; the service's name makes the difference.
        "error" if name == "retry" => Ok(Agent::Retry),
        "error" => Ok(Agent::Error),
        "retry" => Ok(Agent::Retry),
        "discard" => Ok(Agent::Discard),
        "local" => Local::new(name, config, tables).map(Agent::Local),
        _ => return None,
    };
    Some(made.unwrap_or_else(broken))
}

fn broken(error: ConfigError) -> Agent {
    Agent::Broken(error.to_string())
}

/// What local(8) asks of others: the router for addresses, the other agents for deliveries.
struct Here<'a> {
    agents: &'a Agents,
    router: &'a dyn Locate,
}

impl Addresses for Here<'_> {
    fn place<'a>(&'a self, address: &'a str) -> Asked<'a> {
        self.router.locate(address)
    }

    fn pass<'a>(&'a self, request: &'a Request) -> Passed<'a> {
        let to_itself = matches!(
            self.agents.services.get(&request.transport),
            Some(Agent::Local(_))
        );
        if to_itself {
            let code = EnhancedCode::new(4, 3, 5);
            let text = "mail system configuration error: local delivers to itself";
            let outcome = Outcome::deferred("local", code, text);
            return Box::pin(async move { vec![outcome] });
        }
        Box::pin(self.agents.deliver(request, self.router))
    }
}
