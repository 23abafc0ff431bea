//! Whether a reader is in contact with the brokers its partitions are on.
//!
//! Why from the client's statistics: it retries silently for ever, as it should, and an empty
//! partition looks like a broker that is gone. It judges by what the client measured, never by
//! how long nobody asked.

use std::time::{Duration, Instant};

use rdkafka::Statistics;
use rdkafka::statistics::Broker;
use tidemill_contract::Error;

/// A request that has waited this long for its answer is no contact. Fetches are answered after
/// 100 ms even if there is nothing.
const ANSWER_MICROS_MAX: i64 = 1_500_000;
/// How long contact may be lost before it is trouble: a reconnect takes less.
const LOST_MAX: Duration = Duration::from_secs(2);

/// What the last statistics said.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// When contact was last seen, and when it was last looked at.
    seen: Option<(Instant, Instant)>,
    lost: Option<String>,
}

impl Contact {
    /// Takes new statistics into account.
    pub(super) fn judge(&mut self, statistics: &Statistics, topic: &str) {
        let now = Instant::now();
        self.lost = lost(statistics, topic);
        self.seen = Some(match (self.seen, &self.lost) {
            (Some((seen, _)), Some(_)) => (seen, now),
            _ => (now, now),
        });
    }

    /// Contact has been lost for some time.
    pub(super) fn trouble(&self) -> Option<Error> {
        let (seen, looked) = self.seen?;
        let reason = self.lost.clone()?;
        (looked.duration_since(seen) >= LOST_MAX).then(|| {
            Error::unavailable("TM508", "the log cannot be read").because(reason).help(
                "check that the brokers are up and reachable under their advertised addresses",
            )
        })
    }
}

/// The first broker with a partition of the topic that cannot be spoken to.
fn lost(statistics: &Statistics, topic: &str) -> Option<String> {
    let partitions = &statistics.topics.get(topic)?.partitions;
    let leaders = partitions.iter().filter(|(id, _)| **id >= 0).map(|(_, stats)| stats.leader);
    leaders
        .filter_map(|leader| statistics.brokers.values().find(|broker| broker.nodeid == leader))
        .find_map(why_lost)
}

fn why_lost(broker: &Broker) -> Option<String> {
    if broker.state != "UP" {
        return Some(format!("broker {} is not connected", broker.nodename));
    }
    (broker.waitresp_cnt > 0 && broker.rxidle > ANSWER_MICROS_MAX)
        .then(|| format!("broker {} does not answer", broker.nodename))
}
