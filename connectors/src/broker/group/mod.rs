//! Consumer groups with the classic protocol: join, sync, heartbeat, leave.
//!
//! Membership lives in memory: after a restart members find themselves unknown and join again.
//! Committed offsets are durable and belong to the store, not to this module.
//!
//! Never holds a group's lock across an await: a waiting member leaves a channel behind.

mod member;
mod messages;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka_protocol::ResponseError;

pub(super) use messages::{Description, Join, JoinRefused, Joined, MemberRef, Sync, Synced};
use state::Group;

/// Most groups with members; each is small.
const GROUPS_MAX: usize = 10_000;

/// All groups of this broker.
#[derive(Debug)]
pub(super) struct Coordinator {
    initial_delay: Duration,
    groups: Mutex<HashMap<String, Arc<Mutex<Group>>>>,
}

impl Coordinator {
    /// A coordinator whose empty groups wait `initial_delay` for more members.
    pub(super) fn new(initial_delay: Duration) -> Self {
        Self { initial_delay, groups: Mutex::new(HashMap::new()) }
    }

    /// Enters a group; returns when the rebalance it caused or met is over.
    pub(super) async fn join(&self, id: &str, join: Join) -> Result<Joined, JoinRefused> {
        let group = self.get_or_create(id).map_err(JoinRefused::from)?;
        let waiting = lock(&group).join(join, Instant::now());
        match waiting?.await {
            Ok(joined) => joined,
            Err(_) => Err(ResponseError::UnknownMemberId.into()),
        }
    }

    /// Hands in or fetches assignments.
    pub(super) async fn sync(&self, id: &str, sync: Sync) -> Result<Synced, ResponseError> {
        let group = self.get(id)?;
        let waiting = lock(&group).sync(sync, Instant::now());
        match waiting?.await {
            Ok(synced) => synced,
            Err(_) => Err(ResponseError::UnknownMemberId),
        }
    }

    /// Notes that a member is alive.
    pub(super) fn heartbeat(&self, id: &str, member: &MemberRef) -> Result<(), ResponseError> {
        lock(&*self.get(id)?).heartbeat(member, Instant::now())
    }

    /// Removes a member.
    pub(super) fn leave(
        &self,
        id: &str,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ResponseError> {
        lock(&*self.get(id)?).leave(member_id, instance_id, Instant::now())
    }

    /// Whether a member, or a client outside of any generation, may commit offsets now.
    pub(super) fn may_commit(&self, id: &str, member: &MemberRef) -> Result<(), ResponseError> {
        if id.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        match self.get(id) {
            Ok(group) => lock(&group).may_commit(member, Instant::now()),
            Err(_) if member.generation < 0 => Ok(()),
            Err(_) => Err(ResponseError::UnknownMemberId),
        }
    }

    /// State of a group that has or had members.
    pub(super) fn describe(&self, id: &str) -> Option<Description> {
        Some(lock(&*self.get(id).ok()?).describe())
    }

    /// Name, state and protocol type of every group.
    pub(super) fn list(&self) -> Vec<(String, (&'static str, String))> {
        let groups: Vec<_> =
            lock(&self.groups).iter().map(|(id, group)| (id.clone(), Arc::clone(group))).collect();
        groups.into_iter().map(|(id, group)| (id, lock(&group).summary())).collect()
    }

    /// Forgets a group without members; says whether it was known.
    pub(super) fn remove_empty(&self, id: &str) -> Result<bool, ResponseError> {
        let mut groups = lock(&self.groups);
        let Some(group) = groups.get(id) else {
            return Ok(false);
        };
        if !lock(group).is_empty() {
            return Err(ResponseError::NonEmptyGroup);
        }
        groups.remove(id);
        Ok(true)
    }

    /// Ends overdue sessions and rebalances.
    pub(super) fn tick(&self) {
        let now = Instant::now();
        let groups: Vec<_> = lock(&self.groups).values().map(Arc::clone).collect();
        for group in groups {
            lock(&group).tick(now);
        }
    }

    fn get(&self, id: &str) -> Result<Arc<Mutex<Group>>, ResponseError> {
        lock(&self.groups).get(id).map(Arc::clone).ok_or(ResponseError::UnknownMemberId)
    }

    fn get_or_create(&self, id: &str) -> Result<Arc<Mutex<Group>>, ResponseError> {
        if id.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        let mut groups = lock(&self.groups);
        if groups.len() >= GROUPS_MAX && !groups.contains_key(id) {
            groups.retain(|_, group| !lock(group).is_empty());
            if groups.len() >= GROUPS_MAX {
                return Err(ResponseError::GroupMaxSizeReached);
            }
        }
        let group = groups.entry(id.to_owned());
        let created = || Arc::new(Mutex::new(Group::new(self.initial_delay)));
        Ok(Arc::clone(group.or_insert_with(created)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
