//! `explain`: the decision about a recipient with everything that led to it, for people and, as
//! JSON, for programs. It is the server's own decision ([`Policy::recipient`]), watched.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use config::master::ServiceKind;
use config::{Config, ConfigError, Environment};
use mail::fold::same;
use route::{Expansion, Leaf, Lookup, Resolved, Router, Verdict as LeafVerdict, Walk};
use serde::Serialize;
use smtp::Reply;
use smtp::address::Rules;
use tables::Tables;

use crate::{Asked, Connection, Effects, Facts, Policy};

/// Explains addresses by one configuration.
pub struct Explainer {
    policy: Policy,
    rules: Rules,
    asks_services: bool,
}

/// What becomes of a recipient.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// As given.
    pub address: String,
    pub reply: ReplyText,
    /// Why, where the reply does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The class and route of the address itself, before its aliases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// Every question to a table, in order.
    pub lookups: Vec<Lookup>,
    /// The policy services that decide with us, and what they said, if they were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Asked>,
    /// Where the mail goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<Branch>,
}

/// The reply that RCPT gets.
#[derive(Clone, Debug, Serialize)]
pub struct ReplyText {
    pub code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enhanced: Option<String>,
    pub text: String,
}

/// An address of the tree, and where it leads.
#[derive(Clone, Debug, Serialize)]
pub struct Branch {
    pub address: String,
    /// A table maps the address to itself, so that the search ends here.
    pub maps_to_itself: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Branch>,
}

/// What happens at a leaf.
#[derive(Clone, Debug, Serialize)]
pub struct End {
    #[serde(flatten)]
    pub resolved: Resolved,
    /// The value of `virtual_mailbox_maps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// Why no mail can be delivered here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The short of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Refused,
    /// A table failed, or the aliases make no sense: the client is told to come back.
    Failed,
}

impl Explanation {
    pub fn outcome(&self) -> Outcome {
        match self.reply.code / 100 {
            2 => Outcome::Accepted,
            4 => Outcome::Failed,
            _ => Outcome::Refused,
        }
    }
}

impl From<&Reply> for ReplyText {
    fn from(reply: &Reply) -> Self {
        ReplyText {
            code: reply.code,
            enhanced: reply.enhanced.map(|code| code.to_string()),
            text: reply.text.clone().into_owned(),
        }
    }
}

impl Explainer {
    /// Explains as the first SMTP service of master.cf decides; without one, as main.cf says.
    pub fn new(config: &Config, environment: &Environment) -> Result<Explainer, ConfigError> {
        let smtpd = config
            .services()
            .iter()
            .find(|service| service.kind == ServiceKind::Inet && service.command == "smtpd");
        match smtpd {
            Some(service) => Explainer::by(&config.for_service(service), environment),
            None => Explainer::by(config, environment),
        }
    }

    /// Explains as a service decides whose configuration this is.
    pub fn by(config: &Config, environment: &Environment) -> Result<Explainer, ConfigError> {
        let tables = Tables::without_cache(config);
        let machine: Vec<IpAddr> = environment
            .interfaces
            .iter()
            .map(|interface| interface.address)
            .collect();
        let own = route::own_addresses(config, &machine)?;
        let router = Arc::new(Router::new(config, &tables, own.clone())?);
        Ok(Explainer {
            rules: Rules {
                allow_min_user: config.bool("allow_min_user")?,
                null_domain: config.bool("resolve_null_domain")?,
                numeric_domain: config.bool("resolve_numeric_domain")?,
                ..Rules::default()
            },
            policy: Policy::new(config, &tables, router, own)?,
            asks_services: false,
        })
    }

    /// Asks policy services, too. They may take note of that: greylisting counts it as a try.
    pub fn asking_services(self) -> Explainer {
        Explainer {
            asks_services: true,
            ..self
        }
    }

    /// What becomes of mail from `sender`, handed in by `client`, for the address.
    pub async fn explain(&self, address: &str, sender: &str, client: IpAddr) -> Explanation {
        let mut explanation = Explanation {
            address: address.to_owned(),
            reply: (&smtp::reply::BAD_RECIPIENT).into(),
            reason: None,
            resolved: None,
            lookups: Vec::new(),
            services: Vec::new(),
            tree: None,
        };
        let Ok(recipient) = smtp::address::extract(&format!("<{address}>"), self.rules) else {
            return explanation;
        };
        let mut walk = Walk::traced(Instant::now());
        let facts = Facts {
            client_name: "unknown",
            client_address: client,
            socket_address: client,
            helo: "explain.invalid",
            sender: Some(sender),
            recipient: Some(&recipient),
            recipients_so_far: 0,
            smtputf8: true,
            login: None,
            has_logins: false,
            encrypted: false,
            certificate: None,
            pipelined: false,
            connection: self.asks_services.then_some(Connection {
                command: "RCPT",
                protocol: "ESMTP",
                reverse_client_name: "unknown",
                ..Connection::default()
            }),
        };
        let mut effects = Effects::default();
        let decided = self.policy.recipient(&mut walk, facts, &mut effects).await;
        explanation.services = effects.asked;
        match decided {
            Ok(_) => explanation.reply = (&smtp::reply::RECIPIENT_OK).into(),
            Err(refusal) => {
                explanation.reply = (&refusal.reply).into();
                explanation.reason = refusal.detail;
            }
        }
        self.follow(&mut walk, &recipient, &mut explanation).await;
        explanation.lookups = walk.lookups().to_vec();
        explanation
    }

    /// The class of the address, and its tree where there is one. What fails here has failed
    /// before, and is in the reply.
    async fn follow(&self, walk: &mut Walk, recipient: &str, explanation: &mut Explanation) {
        let router = self.policy.router();
        let address = router.rewrite(recipient);
        let Ok(resolved) = router.resolve(walk, &address).await else {
            return;
        };
        explanation.resolved = Some(resolved);
        let tree = match router.recipients_of(walk, &address).await {
            Ok(tree) => tree,
            Err(error) => {
                explanation.reason.get_or_insert(error.to_string());
                return;
            }
        };
        if let Ok(leaves) = router.leaves(walk, &tree).await {
            explanation.tree = Some(branch(&tree, &leaves, 0));
        }
    }
}

fn branch(tree: &Expansion, leaves: &[Leaf], node: usize) -> Branch {
    let address = &tree.nodes[node].address;
    let children: Vec<usize> = (0..tree.nodes.len())
        .filter(|&at| tree.nodes[at].parent == Some(node))
        .collect();
    if let [only] = children.as_slice()
        && same(&tree.nodes[*only].address, address)
    {
        return Branch {
            maps_to_itself: true,
            ..branch(tree, leaves, *only)
        };
    }
    Branch {
        address: address.clone(),
        maps_to_itself: false,
        end: leaves.iter().find(|leaf| leaf.node == node).map(end),
        destinations: children
            .into_iter()
            .map(|child| branch(tree, leaves, child))
            .collect(),
    }
}

fn end(leaf: &Leaf) -> End {
    let (mailbox, problem) = match &leaf.verdict {
        LeafVerdict::Mailbox(value) => (Some(value.clone()), None),
        LeafVerdict::Deliverable => (None, None),
        LeafVerdict::Dangling(table) => (
            None,
            Some(format!(
                "not in the {}: mail for it would bounce",
                table.table()
            )),
        ),
        LeafVerdict::Malformed => (
            None,
            Some("no address that mail can be delivered to".into()),
        ),
    };
    End {
        resolved: leaf.resolved.clone(),
        mailbox,
        problem,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplyText {
            code,
            enhanced,
            text,
        } = &self.reply;
        let verdict = match self.outcome() {
            Outcome::Accepted => "accepted",
            Outcome::Refused => "refused",
            Outcome::Failed => "not now",
        };
        writeln!(f, "{}: {verdict}", self.address)?;
        let enhanced = enhanced
            .as_deref()
            .map(|code| format!("{code} "))
            .unwrap_or_default();
        writeln!(f, "  reply      {code} {enhanced}{text}")?;
        if let Some(reason) = &self.reason {
            writeln!(f, "  because    {reason}")?;
        }
        if let Some(resolved) = &self.resolved {
            writeln!(
                f,
                "  domain     {}: {}",
                resolved.domain(),
                resolved.class.name()
            )?;
        }
        write_lookups(f, &self.lookups)?;
        write_services(f, &self.services)?;
        if let Some(tree) = &self.tree {
            writeln!(f, "  goes to")?;
            write_branch(f, tree, "    ", "")?;
        }
        Ok(())
    }
}

fn write_lookups(f: &mut fmt::Formatter<'_>, lookups: &[Lookup]) -> fmt::Result {
    if lookups.is_empty() {
        return Ok(());
    }
    writeln!(f, "  looked up")?;
    let width = |of: fn(&Lookup) -> usize| lookups.iter().map(of).max().unwrap_or(0);
    let parameter_width = width(|lookup| lookup.parameter.len());
    let key_width = width(|lookup| lookup.key.chars().count());
    for Lookup {
        parameter,
        table,
        key,
        found,
        failed,
    } in lookups
    {
        let result = match (found, failed) {
            (_, Some(reason)) => format!("failed: {reason}"),
            (Some(value), _) => format!("{value:?}").trim_matches('"').to_owned(),
            (None, None) => "-".to_owned(),
        };
        writeln!(
            f,
            "    {parameter:parameter_width$}  {key:key_width$}  {result}  ({table})"
        )?;
    }
    Ok(())
}

fn write_services(f: &mut fmt::Formatter<'_>, services: &[Asked]) -> fmt::Result {
    if services.is_empty() {
        return Ok(());
    }
    writeln!(f, "  policy services")?;
    for Asked {
        service,
        recipient,
        action,
    } in services
    {
        let action = action
            .as_deref()
            .unwrap_or("not asked (--ask-services does)");
        writeln!(f, "    {service}  {recipient}  {action}")?;
    }
    Ok(())
}

fn write_branch(
    f: &mut fmt::Formatter<'_>,
    branch: &Branch,
    first: &str,
    indent: &str,
) -> fmt::Result {
    write!(f, "{first}{}", branch.address)?;
    if branch.maps_to_itself {
        write!(f, " (mapped to itself)")?;
    }
    if let Some(End {
        resolved,
        mailbox,
        problem,
    }) = &branch.end
    {
        let route = &resolved.route;
        match problem {
            Some(problem) => write!(f, "  ! {problem}")?,
            None => write!(f, "  by {}:{}", route.transport, route.nexthop)?,
        }
        if let Some(mailbox) = mailbox {
            write!(f, ", mailbox {mailbox}")?;
        }
    }
    writeln!(f)?;
    for (index, destination) in branch.destinations.iter().enumerate() {
        let last = index + 1 == branch.destinations.len();
        let (corner, bar) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let first = format!("    {indent}{corner}");
        write_branch(f, destination, &first, &format!("{indent}{bar}"))?;
    }
    Ok(())
}
