//! One attempt to deliver one message: routes, agents, outcomes, reports.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use delivery::{Line, Outcome, Rcpt, Request, Status};
use mail::EnhancedCode;
use queue::{Envelope, Message, QueueError, QueueId, Recipient, RecipientState, Spool, Update};
use route::{Route, Walk};
use tokio::task::JoinSet;

use crate::forward::{self, Located};
use crate::generation::Generation;
use crate::log;
use crate::scheduler::Scheduler;

/// What comes after an attempt.
pub(crate) enum Next {
    /// Nothing: the message is gone, or somebody else decides.
    Done,
    At(SystemTime),
}

pub(crate) struct Attempt<'a> {
    pub spool: &'a Spool,
    pub generation: Arc<Generation>,
    pub scheduler: &'a Scheduler,
    /// The routes found at RCPT still count.
    pub fresh: bool,
    /// An earlier attempt may have been cut off.
    pub recovered: bool,
}

/// The outcome for the recipient of this index.
pub(crate) type Result1 = (usize, Outcome);

/// What an attempt has brought so far.
#[derive(Default)]
struct Progress {
    results: Vec<Result1>,
    /// What the message remembers of it beside the recipients' states.
    attributes: BTreeMap<String, String>,
    /// In the queue, and to be tried as soon as this message has recorded them.
    forwarded: Vec<Message>,
}

/// When the attempt began, and how long the message had been in the queue by then.
#[derive(Clone, Copy)]
struct Clock {
    began: Instant,
    age: Duration,
}

impl Attempt<'_> {
    pub async fn run(self, message: Message) -> Next {
        let Message {
            id,
            mut envelope,
            content,
        } = message;
        let clock = Clock {
            began: Instant::now(),
            age: SystemTime::now()
                .duration_since(envelope.arrival)
                .unwrap_or_default(),
        };
        tracing::info!(
            prog = "qmgr",
            "{id}: from=<{}>, size={}, nrcpt={} (queue active)",
            envelope.sender,
            envelope.size_as_sent(),
            envelope.recipients.len()
        );
        if envelope.expand_again
            && let Err(problem) = self.expand_again(id, &mut envelope).await
        {
            tracing::warn!(prog = "cleanup", "{id}: {problem} -- try again later");
            return Next::At(SystemTime::now() + self.generation.schedule.minimal_backoff);
        }
        // Agents that act with a mailbox owner's rights could not open a file of the spool.
        let content = match content {
            queue::Content::File { .. } => content.opened().unwrap_or(content),
            content => content,
        };
        let mail = Arc::new(delivery::Message::new(id.to_string(), &envelope, content));
        let (groups, settled) = self.routes(&envelope).await;
        let mut progress = Progress::default();
        for (index, outcome) in settled {
            let recipient = &envelope.recipients[index];
            self.log_outcome(id, recipient, &outcome, clock, Duration::ZERO);
            progress.results.push((index, outcome));
        }
        if !self
            .deliver(id, &mut envelope, &mail, groups, clock, &mut progress)
            .await
        {
            self.withdraw(progress.forwarded);
            return Next::Done;
        }
        let Progress {
            results,
            attributes,
            mut forwarded,
        } = progress;
        let concluded = self
            .conclude(
                id,
                &mut envelope,
                &mail,
                results,
                attributes,
                &mut forwarded,
            )
            .await;
        // Whatever was not recorded will be done again.
        self.withdraw(forwarded);
        match concluded {
            Ok(next) => next,
            // Deleted by the operator while it was tried.
            Err(QueueError::NotFound(_)) => Next::Done,
            Err(error) => {
                tracing::warn!(prog = "qmgr", "{id}: {error}");
                Next::At(SystemTime::now() + self.generation.schedule.minimal_backoff)
            }
        }
    }

    /// Starts what this message was forwarded as: it is recorded.
    fn send_on(&self, forwarded: &mut Vec<Message>) {
        for message in forwarded.drain(..) {
            self.scheduler.accept(message);
        }
    }

    /// Takes back what this message was to be forwarded as.
    fn withdraw(&self, forwarded: Vec<Message>) {
        for message in forwarded {
            self.spool.remove_soon(message.id);
        }
    }

    /// A requeued message: its unfinished recipients go through the aliases as they are now.
    async fn expand_again(&self, id: QueueId, envelope: &mut Envelope) -> Result<(), String> {
        let mut walk = Walk::new(Instant::now());
        let mut list: Vec<Recipient> = Vec::new();
        for recipient in &envelope.recipients {
            if recipient.state.is_final() {
                list.push(recipient.clone());
                continue;
            }
            let router = &self.generation.router;
            let tree = router.recipients_of(&mut walk, &recipient.address).await;
            for address in tree.map_err(|error| error.to_string())?.leaf_addresses() {
                let leaf = Recipient {
                    address: address.to_owned(),
                    hint: None,
                    ..recipient.clone()
                };
                let known = |other: &Recipient| {
                    other.original == leaf.original
                        && mail::fold::same(&other.address, &leaf.address)
                };
                if !list.iter().any(known) {
                    list.push(leaf);
                }
            }
        }
        let update = Update {
            replaced: Some(list),
            ..Update::default()
        };
        envelope.apply(&update);
        let recorded = self.spool.update(id, update).await;
        recorded.map_err(|error| error.to_string())
    }

    /// Groups the unfinished recipients by route, and settles those that have none.
    async fn routes(&self, envelope: &Envelope) -> (Vec<(Route, Vec<usize>)>, Vec<Result1>) {
        let mut walk = Walk::new(Instant::now());
        let mut groups: Vec<(Route, Vec<usize>)> = Vec::new();
        let mut places: HashMap<Route, usize> = HashMap::new();
        let mut settled = Vec::new();
        for index in envelope.unfinished() {
            let recipient = &envelope.recipients[index];
            let filter = envelope.filter.as_deref();
            let route = match self.route(&mut walk, recipient, filter).await {
                Ok(route) => route,
                Err(outcome) => {
                    settled.push((index, outcome));
                    continue;
                }
            };
            let place = *places.entry(route.clone()).or_insert_with(|| {
                groups.push((route, Vec::new()));
                groups.len() - 1
            });
            groups[place].1.push(index);
        }
        (groups, settled)
    }

    async fn route(
        &self,
        walk: &mut Walk,
        recipient: &Recipient,
        filter: Option<&str>,
    ) -> Result<Route, Outcome> {
        if let Some(filter) = filter {
            return Ok(filter_route(filter, &recipient.address));
        }
        if let (true, Some(hint)) = (self.fresh, &recipient.hint) {
            let (transport, nexthop) = (hint.transport.clone(), hint.nexthop.clone());
            return Ok(Route { transport, nexthop });
        }
        let router = &self.generation.router;
        if recipient.address == router.double_bounce_address() {
            let text = "undeliverable postmaster notification discarded";
            return Err(Outcome::sent("qmgr", EnhancedCode::new(2, 0, 0), text));
        }
        match router.resolve(walk, &recipient.address).await {
            Ok(resolved) if resolved.malformed => {
                let code = EnhancedCode::new(5, 1, 3);
                Err(Outcome::bounced("error", code, "bad address syntax"))
            }
            Ok(resolved) => Ok(resolved.route),
            Err(failure) => {
                tracing::warn!(prog = "trivial-rewrite", "{failure}");
                let code = EnhancedCode::new(4, 3, 0);
                Err(Outcome::deferred("error", code, "address resolver failure"))
            }
        }
    }

    /// Hands the groups to their agents, all at once. Each finished group is recorded while others
    /// are still running, so that a crash repeats none of it. `false`: the message is gone.
    async fn deliver(
        &self,
        id: QueueId,
        envelope: &mut Envelope,
        mail: &Arc<delivery::Message>,
        groups: Vec<(Route, Vec<usize>)>,
        clock: Clock,
        progress: &mut Progress,
    ) -> bool {
        let mut requests = Vec::new();
        for (route, indices) in groups {
            let most = self.generation.recipient_limit(&route.transport).max(1);
            for chunk in indices.chunks(most) {
                requests.push(self.request(envelope, mail, &route, chunk));
            }
        }
        let mut running = JoinSet::new();
        if requests.len() == 1 {
            // The usual message, without the price of a task.
            let request = requests.remove(0);
            let mut done = deliver_one(Arc::clone(&self.generation), request, clock.began).await;
            self.forward(envelope, mail, &mut done, progress).await;
            self.take(id, envelope, done, clock, progress);
            return true;
        }
        for request in requests {
            running.spawn(deliver_one(
                Arc::clone(&self.generation),
                request,
                clock.began,
            ));
        }
        while let Some(joined) = running.join_next().await {
            let mut done = match joined {
                Ok(done) => done,
                Err(error) => {
                    // The agent panicked: its recipients stay as they are, and are tried again.
                    tracing::error!(prog = "qmgr", "{id}: delivery stopped: {error}");
                    continue;
                }
            };
            let recorded = progress.results.len();
            self.forward(envelope, mail, &mut done, progress).await;
            self.take(id, envelope, done, clock, progress);
            if running.is_empty() {
                break;
            }
            let states = progress.results[recorded..]
                .iter()
                .map(|(index, outcome)| (*index, state(outcome)));
            let update = Update {
                recipients: states.collect(),
                attributes: progress.attributes.clone(),
                ..Update::default()
            };
            match self.spool.update(id, update).await {
                Err(QueueError::NotFound(_)) => return false,
                Err(error) => tracing::warn!(prog = "qmgr", "{id}: {error}"),
                Ok(()) => self.send_on(&mut progress.forwarded),
            }
        }
        true
    }

    fn request(
        &self,
        envelope: &Envelope,
        mail: &Arc<delivery::Message>,
        route: &Route,
        indices: &[usize],
    ) -> Request {
        let recipient = |&index: &usize| {
            let recipient = &envelope.recipients[index];
            let done = envelope.attributes.get(&done_attribute(recipient));
            Rcpt {
                done: done.cloned().unwrap_or_default(),
                ..Rcpt::new(index, recipient, self.fresh)
            }
        };
        Request {
            message: Arc::clone(mail),
            transport: route.transport.clone(),
            nexthop: route.nexthop.clone(),
            recipients: indices.iter().map(recipient).collect(),
            recovered: self.recovered,
        }
    }

    /// Puts the messages that recipients were forwarded as into the queue. A recipient whose message does not get
    /// there is deferred.
    async fn forward(
        &self,
        envelope: &Envelope,
        mail: &delivery::Message,
        done: &mut Delivered,
        progress: &mut Progress,
    ) {
        for (rcpt, outcome) in done.recipients.iter().zip(&mut done.outcomes) {
            let Some(expanded) = &mut outcome.expanded else {
                continue;
            };
            let forwards = std::mem::take(&mut expanded.forwards);
            if !forwards.is_empty()
                && let Err(problem) = self
                    .forward_one(envelope, mail, rcpt, &forwards, expanded, progress)
                    .await
            {
                let id = &mail.id;
                tracing::warn!(prog = "local", "{id}: cannot forward: {problem}");
                let code = EnhancedCode::new(4, 3, 0);
                let deferred = Outcome::deferred("local", code, "unable to forward message");
                let deferred = deferred.via("local");
                expanded.lines.push(Line {
                    address: rcpt.address.clone(),
                    original: rcpt.original.clone(),
                    outcome: deferred.clone(),
                });
                let expanded = outcome.expanded.take();
                *outcome = Outcome {
                    expanded,
                    ..deferred
                };
            }
            let recipient = &envelope.recipients[rcpt.index];
            if let (Status::Deferred, Some(expanded)) = (outcome.status, &outcome.expanded)
                && !expanded.done.is_empty()
            {
                let note = (done_attribute(recipient), expanded.done.clone());
                progress.attributes.extend([note]);
            }
        }
    }

    /// All of a recipient's messages, or none.
    async fn forward_one(
        &self,
        envelope: &Envelope,
        mail: &delivery::Message,
        rcpt: &Rcpt,
        forwards: &[delivery::Forward],
        expanded: &mut delivery::Expanded,
        progress: &mut Progress,
    ) -> Result<(), String> {
        let mut messages = Vec::new();
        for forward in forwards {
            let parent = (envelope, mail);
            let commit = forward::commit(self.spool, &self.generation, parent, rcpt, forward);
            match Box::pin(commit).await {
                Ok(message) => messages.push(message),
                Err(problem) => {
                    self.withdraw(messages);
                    return Err(problem);
                }
            }
        }
        let header = delivery::content::header(&mail.content).await;
        for message in messages {
            let id = message.id.to_string();
            forward::log(&message, header.as_deref().unwrap_or_default());
            let text = format!("forwarded as {id}");
            let sent = Outcome::sent("local", EnhancedCode::new(2, 0, 0), text).via("local");
            expanded.lines.push(Line {
                address: rcpt.address.clone(),
                original: rcpt.original.clone(),
                outcome: sent,
            });
            progress.attributes.extend([Envelope::forwarded_as(&id)]);
            progress.forwarded.push(message);
        }
        Ok(())
    }

    fn take(
        &self,
        id: QueueId,
        envelope: &Envelope,
        done: Delivered,
        clock: Clock,
        progress: &mut Progress,
    ) {
        let name = self.generation.log_name(&done.transport);
        for (rcpt, outcome) in done.recipients.iter().zip(done.outcomes) {
            let recipient = &envelope.recipients[rcpt.index];
            let lines = outcome.expanded.as_ref().map(|expanded| &expanded.lines);
            let tell = || match lines.filter(|lines| !lines.is_empty()) {
                None => self.log_outcome(id, recipient, &outcome, clock, done.waited),
                Some(lines) => {
                    for line in lines {
                        let part = Recipient::new(&line.address, &line.original);
                        self.log_outcome(id, &part, &line.outcome, clock, done.waited);
                    }
                }
            };
            match name {
                Some(name) => log::named_now(name.clone(), tell),
                None => tell(),
            }
            progress.results.push((rcpt.index, outcome));
        }
    }

    /// Records the outcomes, sends the reports that are due, and decides what comes next.
    async fn conclude(
        &self,
        id: QueueId,
        envelope: &mut Envelope,
        mail: &delivery::Message,
        results: Vec<Result1>,
        attributes: BTreeMap<String, String>,
        forwarded: &mut Vec<Message>,
    ) -> Result<Next, QueueError> {
        let now = SystemTime::now();
        let schedule = &self.generation.schedule;
        let expired = schedule.is_expired(envelope.arrival, envelope.sender.is_empty(), now);
        let mut update = Update {
            attempts: Some(envelope.attempts + 1),
            attributes,
            ..Update::default()
        };
        // Only what would have been tried again can come too late.
        let expired = expired
            && results
                .iter()
                .any(|(_, outcome)| outcome.status == Status::Deferred);
        for (index, outcome) in &results {
            let new = match (outcome.status, expired) {
                (Status::Deferred, true) => bounced(outcome),
                _ => state(outcome),
            };
            update.recipients.push((*index, new));
        }
        envelope.apply(&update);
        let wants_reports = self.reports_due(envelope, mail, &results, now);
        if envelope.is_finished() && !wants_reports {
            if !forwarded.is_empty() {
                // Not soon but now: what it was forwarded as waits for that.
                self.spool.remove(id).await?;
                self.send_on(forwarded);
                self.say_removed(id, envelope, expired);
                return Ok(Next::Done);
            }
            self.forget(id, envelope, expired);
            return Ok(Next::Done);
        }
        let next = schedule.next_attempt(envelope.arrival, now);
        update.next_attempt = Some(next);
        self.spool.update(id, update).await?;
        self.send_on(forwarded);
        let reported = self.send_reports(id, envelope, mail, &results, now).await?;
        if envelope.is_finished() && reported {
            self.forget(id, envelope, expired);
            return Ok(Next::Done);
        }
        Ok(Next::At(next))
    }

    fn forget(&self, id: QueueId, envelope: &Envelope, expired: bool) {
        self.spool.remove_soon(id);
        self.say_removed(id, envelope, expired);
    }

    fn say_removed(&self, id: QueueId, envelope: &Envelope, expired: bool) {
        if expired {
            let sender = &envelope.sender;
            tracing::info!(
                prog = "qmgr",
                "{id}: from=<{sender}>, status=expired, returned to sender"
            );
        }
        tracing::info!(prog = "qmgr", "{id}: removed");
    }

    /// `to=<…>, relay=…, delay=…, delays=…, dsn=…, status=…`, as Postfix's agents write it.
    fn log_outcome(
        &self,
        id: QueueId,
        recipient: &Recipient,
        outcome: &Outcome,
        clock: Clock,
        waited: Duration,
    ) {
        let original = match recipient.original.as_str() {
            "" => String::new(),
            same if same.eq_ignore_ascii_case(&recipient.address) => String::new(),
            other => format!(" orig_to=<{other}>,"),
        };
        let connection_use = match outcome.connection_use {
            0 | 1 => String::new(),
            count => format!(" conn_use={count},"),
        };
        tracing::info!(
            prog = outcome.prog,
            "{id}: to=<{}>,{original} relay={},{connection_use} delay={}, delays={}/{}/{}/{}, dsn={}, status={} ({})",
            recipient.address,
            outcome.relay,
            Seconds(clock.age + clock.began.elapsed()),
            Seconds(clock.age),
            Seconds(waited),
            Seconds(outcome.connection),
            Seconds(outcome.transmission),
            outcome.dsn,
            outcome.status.name(),
            outcome.text
        );
    }
}

struct Delivered {
    transport: String,
    recipients: Vec<Rcpt>,
    outcomes: Vec<Outcome>,
    /// From the attempt's beginning to the delivery's.
    waited: Duration,
}

async fn deliver_one(generation: Arc<Generation>, request: Request, began: Instant) -> Delivered {
    let transport = generation.limits.transport(&request.transport);
    let destination = generation
        .limits
        .destination(&request.transport, &request.nexthop);
    // The semaphores are never closed; without a permit the delivery just is not limited.
    let _destination = destination.acquire().await;
    let _transport = transport.acquire().await;
    let waited = began.elapsed();
    let router = Located(&generation.router);
    let delivery = generation.agents.deliver(&request, &router);
    let outcomes = match generation.log_name(&request.transport) {
        // Two forms of one future beside each other would double the size of this one.
        Some(name) => Box::pin(log::named(name.clone(), delivery)).await,
        None => delivery.await,
    };
    Delivered {
        transport: request.transport,
        recipients: request.recipients,
        outcomes,
        waited,
    }
}

/// Where a message remembers which parts of a recipient are done while others are deferred.
fn done_attribute(recipient: &Recipient) -> String {
    format!("done_{}_{}", recipient.address, recipient.original)
}

fn state(outcome: &Outcome) -> RecipientState {
    match outcome.status {
        Status::Sent => RecipientState::Sent,
        Status::Bounced => bounced(outcome),
        Status::Deferred => RecipientState::Deferred {
            dsn: outcome.dsn.to_string(),
            text: outcome.text.clone(),
            at: SystemTime::now(),
        },
    }
}

fn bounced(outcome: &Outcome) -> RecipientState {
    RecipientState::Bounced {
        dsn: outcome.dsn.to_string(),
        text: outcome.text.clone(),
        relay: Some(outcome.relay.clone()),
        diagnostic: outcome
            .remote
            .as_ref()
            .map(|remote| remote.diagnostic.clone()),
        reported: false,
    }
}

/// A time in seconds with two significant digits, as Postfix logs delays: 0.02, 1.3, 120.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs_f64();
        let text = match seconds {
            ..10.0 if seconds < 1.0 => format!("{seconds:.2}"),
            ..10.0 => format!("{seconds:.1}"),
            _ => return write!(f, "{seconds:.0}"),
        };
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// `transport:nexthop` of a content filter; without next hop, the recipient's domain is it.
fn filter_route(filter: &str, recipient: &str) -> Route {
    let (transport, nexthop) = filter.split_once(':').unwrap_or((filter, ""));
    let nexthop = match nexthop {
        "" => mail::address::domain(recipient).unwrap_or_default(),
        nexthop => nexthop,
    };
    Route {
        transport: transport.to_owned(),
        nexthop: nexthop.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_two_digits() {
        for (millis, text) in [
            (0, "0"),
            (4, "0"),
            (23, "0.02"),
            (500, "0.5"),
            (1000, "1"),
            (1_340, "1.3"),
            (12_345, "12"),
            (120_000, "120"),
        ] {
            assert_eq!(Seconds(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
