//! The state machine of one group.
//!
//! ```text
//! Empty ──join──► Preparing ──all joined, or deadline──► Completing ──leader synced──► Stable
//!   ▲                ▲  ▲                                    │                           │
//!   └──last left─────┘  └────────join, leave, session over───┴───────────────────────────┘
//! ```
//! Invariants: a generation number is never used twice in a group's life; the leader is a member;
//! a member that waits for a join is not judged by its session time-out. Time comes in as an
//! argument.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::member::Member;
use super::messages::{
    DescribedMember, Description, Join, JoinRefused, Joined, JoinedMember, MemberRef, Sync, Synced,
};

/// Session time-outs granted; Kafka's lower bound of 6 s is for brokers far away.
const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<i32> = 1_000..=1_800_000;
/// Most members of one group.
const MEMBERS_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Empty,
    /// Members join; ends when all did, or at the deadline, and not before the earliest time.
    Preparing {
        earliest: Instant,
        deadline: Instant,
    },
    /// The leader computes the assignment; ends at the deadline for members that do not sync.
    Completing {
        deadline: Instant,
    },
    Stable,
}

type JoinAnswer = oneshot::Receiver<Result<Joined, JoinRefused>>;
type SyncAnswer = oneshot::Receiver<Result<Synced, ResponseError>>;

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    initial_delay: Duration,
    phase: Phase,
    generation: i32,
    protocol_type: String,
    protocol: String,
    leader: String,
    members: BTreeMap<String, Member>,
    /// Order of arrival: the leader is the oldest member.
    order: Vec<String>,
    /// Static members: instance id → member id.
    instances: HashMap<String, String>,
    /// Ids given out that have not joined yet, with the time they are forgotten.
    promised: HashMap<String, Instant>,
}

impl Group {
    pub(super) fn new(initial_delay: Duration) -> Self {
        Self {
            initial_delay,
            phase: Phase::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            order: Vec::new(),
            instances: HashMap::new(),
            promised: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Lets a member in; the receiver gets the answer, at once or after the rebalance.
    pub(super) fn join(&mut self, mut join: Join, now: Instant) -> Result<JoinAnswer, JoinRefused> {
        self.check_join(&join)?;
        let member_id = self.identify(&mut join, now)?;
        let (reply, answer) = oneshot::channel();
        let is_new = !self.members.contains_key(&member_id);
        let has_changed =
            self.members.get(&member_id).is_none_or(|member| member.protocols != join.protocols);
        if let Some(member) = self.members.get_mut(&member_id) {
            member.update(join, now);
        } else {
            self.add(&member_id, join, now);
        }
        let must_rebalance = match self.phase {
            Phase::Empty => true,
            Phase::Preparing { .. } => false,
            Phase::Completing { .. } => is_new || has_changed,
            // A leader joins again when it wants a new assignment.
            Phase::Stable => is_new || has_changed || member_id == self.leader,
        };
        if must_rebalance {
            self.prepare(now);
        }
        if matches!(self.phase, Phase::Preparing { .. }) {
            if let Some(member) = self.members.get_mut(&member_id) {
                member.join_reply = Some(reply);
            }
            self.try_complete_join(now);
        } else {
            // A follower that lost our answer: nothing has changed for it.
            drop(reply.send(Ok(self.joined(&member_id))));
        }
        Ok(answer)
    }

    /// Answers with the assignment, at once or when the leader has handed it in.
    pub(super) fn sync(&mut self, sync: Sync, now: Instant) -> Result<SyncAnswer, ResponseError> {
        self.check_generation(&sync.member)?;
        let member_id = sync.member.id;
        let (reply, answer) = oneshot::channel();
        match self.phase {
            Phase::Empty => return Err(ResponseError::UnknownMemberId),
            Phase::Preparing { .. } => return Err(ResponseError::RebalanceInProgress),
            Phase::Completing { .. } | Phase::Stable => {}
        }
        if let Some(member) = self.members.get_mut(&member_id) {
            member.heard_of(now);
            member.sync_reply = Some(reply);
        }
        if matches!(self.phase, Phase::Completing { .. }) && member_id == self.leader {
            let mut assignments: HashMap<String, Bytes> = sync.assignments.into_iter().collect();
            for (id, member) in &mut self.members {
                member.assignment = assignments.remove(id).unwrap_or_default();
            }
            self.phase = Phase::Stable;
        }
        if self.phase == Phase::Stable {
            self.answer_syncs();
        }
        Ok(answer)
    }

    /// Notes that a member is alive.
    pub(super) fn heartbeat(
        &mut self,
        member: &MemberRef,
        now: Instant,
    ) -> Result<(), ResponseError> {
        self.check_generation(member)?;
        if let Some(member) = self.members.get_mut(&member.id) {
            member.heard_of(now);
        }
        match self.phase {
            Phase::Preparing { .. } => Err(ResponseError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// Removes a member, named by its id or, if static, by its instance id alone.
    pub(super) fn leave(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        now: Instant,
    ) -> Result<(), ResponseError> {
        let member_id = match instance_id {
            Some(instance_id) => {
                let known = self.instances.get(instance_id);
                let known = known.ok_or(ResponseError::UnknownMemberId)?;
                if !member_id.is_empty() && member_id != known {
                    return Err(ResponseError::FencedInstanceId);
                }
                known.clone()
            }
            None => member_id.to_owned(),
        };
        if self.promised.remove(&member_id).is_some() {
            return Ok(());
        }
        if !self.members.contains_key(&member_id) {
            return Err(ResponseError::UnknownMemberId);
        }
        self.remove(&member_id);
        self.after_removal(now);
        Ok(())
    }

    /// Whether an offset commit is from the present.
    pub(super) fn may_commit(
        &mut self,
        member: &MemberRef,
        now: Instant,
    ) -> Result<(), ResponseError> {
        if member.generation < 0 && member.id.is_empty() && self.is_empty() {
            return Ok(());
        }
        self.check_generation(member)?;
        if let Some(member) = self.members.get_mut(&member.id) {
            member.heard_of(now);
        }
        match self.phase {
            Phase::Completing { .. } => Err(ResponseError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// Ends what is overdue.
    pub(super) fn tick(&mut self, now: Instant) {
        self.promised.retain(|_, forgotten| *forgotten > now);
        let mut overdue: Vec<String> = Vec::new();
        for (id, member) in &self.members {
            if !member.is_joining() && member.expires <= now {
                overdue.push(id.clone());
            }
        }
        if let Phase::Completing { deadline } = self.phase
            && deadline <= now
        {
            let silent = self.members.iter().filter(|(_, member)| member.sync_reply.is_none());
            overdue.extend(silent.map(|(id, _)| id.clone()));
        }
        if !overdue.is_empty() {
            for id in &overdue {
                tracing::debug!(member = %id, "a group member's session ended");
                self.remove(id);
            }
            self.after_removal(now);
        }
        self.try_complete_join(now);
    }

    pub(super) fn summary(&self) -> (&'static str, String) {
        (self.state_name(), self.protocol_type.clone())
    }

    pub(super) fn describe(&self) -> Description {
        let members = self.members.iter().map(|(id, member)| DescribedMember {
            id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(&self.protocol),
            assignment: member.assignment.clone(),
        });
        Description {
            state: self.state_name(),
            protocol_type: self.protocol_type.clone(),
            protocol: if self.is_empty() { String::new() } else { self.protocol.clone() },
            members: members.collect(),
        }
    }

    fn state_name(&self) -> &'static str {
        match self.phase {
            Phase::Empty => "Empty",
            Phase::Preparing { .. } => "PreparingRebalance",
            Phase::Completing { .. } => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }

    fn check_join(&self, join: &Join) -> Result<(), ResponseError> {
        if !SESSION_TIMEOUT_MS.contains(&join.session_timeout_ms) {
            return Err(ResponseError::InvalidSessionTimeout);
        }
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        if self.is_empty() {
            return Ok(());
        }
        let others = || self.members.iter().filter(|(id, _)| **id != join.member_id);
        let is_common = |name: &String| others().all(|(_, other)| other.supports(name));
        if join.protocol_type != self.protocol_type
            || !join.protocols.iter().any(|(name, _)| is_common(name))
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// The id a join speaks for, which may be a new one.
    fn identify(&mut self, join: &mut Join, now: Instant) -> Result<String, JoinRefused> {
        let known = join.instance_id.as_ref().and_then(|id| self.instances.get(id)).cloned();
        if join.member_id.is_empty() {
            if self.members.len() + self.promised.len() >= MEMBERS_MAX {
                return Err(ResponseError::GroupMaxSizeReached.into());
            }
            let prefix = join.instance_id.as_deref().unwrap_or(&join.client_id);
            let id = format!("{prefix}-{}", Uuid::new_v4());
            if let Some(old) = known {
                // A static member came back: it takes the place of its former self.
                self.remove(&old);
            } else if join.instance_id.is_none() && join.needs_known_id {
                let session = Duration::from_millis(join.session_timeout_ms.unsigned_abs().into());
                self.promised.insert(id.clone(), now + session);
                return Err(JoinRefused { error: ResponseError::MemberIdRequired, member_id: id });
            }
            join.member_id.clone_from(&id);
            return Ok(id);
        }
        if known.is_some_and(|known| known != join.member_id) {
            return Err(ResponseError::FencedInstanceId.into());
        }
        let was_promised = self.promised.remove(&join.member_id).is_some();
        match was_promised || self.members.contains_key(&join.member_id) {
            true => Ok(join.member_id.clone()),
            false => Err(ResponseError::UnknownMemberId.into()),
        }
    }

    fn check_generation(&self, member: &MemberRef) -> Result<(), ResponseError> {
        let known = member.instance_id.as_ref().and_then(|id| self.instances.get(id));
        if known.is_some_and(|known| *known != member.id) {
            return Err(ResponseError::FencedInstanceId);
        }
        if !self.members.contains_key(&member.id) {
            return Err(ResponseError::UnknownMemberId);
        }
        match member.generation == self.generation {
            true => Ok(()),
            false => Err(ResponseError::IllegalGeneration),
        }
    }

    fn add(&mut self, member_id: &str, join: Join, now: Instant) {
        if self.is_empty() {
            self.protocol_type.clone_from(&join.protocol_type);
        }
        if let Some(instance_id) = &join.instance_id {
            self.instances.insert(instance_id.clone(), member_id.to_owned());
        }
        self.order.push(member_id.to_owned());
        self.members.insert(member_id.to_owned(), Member::new(join, now));
    }

    fn remove(&mut self, member_id: &str) {
        // Dropping its reply channels answers whatever it waits for.
        let Some(member) = self.members.remove(member_id) else {
            return;
        };
        self.order.retain(|id| id != member_id);
        if let Some(instance_id) = &member.instance_id {
            self.instances.remove(instance_id);
        }
        if self.leader == member_id {
            self.leader = self.order.first().cloned().unwrap_or_default();
        }
    }

    fn after_removal(&mut self, now: Instant) {
        if self.is_empty() {
            self.generation += 1;
            self.phase = Phase::Empty;
            return;
        }
        match self.phase {
            Phase::Stable | Phase::Completing { .. } => self.prepare(now),
            Phase::Preparing { .. } => self.try_complete_join(now),
            Phase::Empty => {}
        }
    }

    /// Begins a rebalance: members learn of it by their next heartbeat or sync.
    fn prepare(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            if let Some(reply) = member.sync_reply.take() {
                drop(reply.send(Err(ResponseError::RebalanceInProgress)));
            }
        }
        let delay = match self.phase {
            Phase::Empty => self.initial_delay,
            _ => Duration::ZERO,
        };
        let longest = self.members.values().map(|member| member.rebalance_timeout).max();
        let deadline = now + longest.unwrap_or_default().max(delay);
        self.phase = Phase::Preparing { earliest: now + delay, deadline };
    }

    fn try_complete_join(&mut self, now: Instant) {
        let Phase::Preparing { earliest, deadline } = self.phase else {
            return;
        };
        let all_joined = self.members.values().all(Member::is_joining);
        if now < earliest || (!all_joined && now < deadline) {
            return;
        }
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_joining())
            .map(|(id, _)| id.clone())
            .collect();
        for id in &absent {
            self.remove(id);
        }
        self.generation += 1;
        if self.is_empty() {
            self.phase = Phase::Empty;
            return;
        }
        self.protocol = self.choose_protocol();
        if !self.members.contains_key(&self.leader) {
            self.leader = self.order.first().cloned().unwrap_or_default();
        }
        let longest = self.members.values().map(|member| member.rebalance_timeout).max();
        self.phase = Phase::Completing { deadline: now + longest.unwrap_or_default() };
        for id in self.order.clone() {
            let joined = self.joined(&id);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.assignment = Bytes::new();
            member.heard_of(now);
            if let Some(reply) = member.join_reply.take() {
                drop(reply.send(Ok(joined)));
            }
        }
    }

    /// The assignor most members like best among those all support.
    fn choose_protocol(&self) -> String {
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for member in self.members.values() {
            let common = |name: &str| self.members.values().all(|other| other.supports(name));
            let favourite = member.protocols.iter().find(|(name, _)| common(name));
            let Some((name, _)) = favourite else { continue };
            match votes.iter_mut().find(|(voted, _)| voted == name) {
                Some((_, count)) => *count += 1,
                None => votes.push((name, 1)),
            }
        }
        let winner = votes.iter().max_by_key(|(_, count)| *count);
        winner.map(|(name, _)| (*name).to_owned()).unwrap_or_default()
    }

    fn joined(&self, member_id: &str) -> Joined {
        let members = self.order.iter().filter_map(|id| {
            let member = self.members.get(id)?;
            Some(JoinedMember {
                id: id.clone(),
                instance_id: member.instance_id.clone(),
                metadata: member.metadata(&self.protocol),
            })
        });
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member_id: member_id.to_owned(),
            members: if member_id == self.leader { members.collect() } else { Vec::new() },
        }
    }

    fn answer_syncs(&mut self) {
        for member in self.members.values_mut() {
            let Some(reply) = member.sync_reply.take() else {
                continue;
            };
            drop(reply.send(Ok(Synced {
                protocol_type: self.protocol_type.clone(),
                protocol: self.protocol.clone(),
                assignment: member.assignment.clone(),
            })));
        }
    }
}
