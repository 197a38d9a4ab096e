//! What DNS has said in one transaction. Each question is asked once, and when DNS has made the transaction wait for long, the
//! rest of its questions fail without being asked.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ::dns::{Dns, Kind, Record, Trouble};

/// How long one transaction waits for DNS in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answers so far.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    known: HashMap<(String, Kind), Result<Vec<Record>, Trouble>>,
    waited: Duration,
}

impl Answers {
    pub(super) async fn ask(
        &mut self,
        dns: &Dns,
        name: &str,
        kind: Kind,
    ) -> Result<Vec<Record>, Trouble> {
        let key = (name.to_ascii_lowercase(), kind);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        if self.waited > PATIENCE {
            return Err(Trouble::Later);
        }
        let begun = Instant::now();
        let answer = dns.lookup(name, kind).await;
        self.waited += begun.elapsed();
        self.known.insert(key, answer.clone());
        answer
    }
}
