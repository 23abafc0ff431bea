//! What goes into a group and what comes out: plain values, no wire types.

use bytes::Bytes;
use kafka_protocol::ResponseError;

/// A wish to enter a group.
#[derive(Debug, Clone)]
pub(in super::super) struct Join {
    /// Empty for a member that has no id yet.
    pub(in super::super) member_id: String,
    /// Name of a static member.
    pub(in super::super) instance_id: Option<String>,
    pub(in super::super) client_id: String,
    pub(in super::super) client_host: String,
    pub(in super::super) session_timeout_ms: i32,
    pub(in super::super) rebalance_timeout_ms: i32,
    pub(in super::super) protocol_type: String,
    /// Assignors in order of preference, each with the member's subscription.
    pub(in super::super) protocols: Vec<(String, Bytes)>,
    /// Whether a member without id is given one and asked to join again with it.
    pub(in super::super) needs_known_id: bool,
}

/// One member of a new generation, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct JoinedMember {
    pub(in super::super) id: String,
    pub(in super::super) instance_id: Option<String>,
    pub(in super::super) metadata: Bytes,
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Joined {
    pub(in super::super) generation: i32,
    pub(in super::super) protocol_type: String,
    pub(in super::super) protocol: String,
    pub(in super::super) leader: String,
    pub(in super::super) member_id: String,
    /// All members for the leader, nobody for the others.
    pub(in super::super) members: Vec<JoinedMember>,
}

/// A refused join; `member_id` is the new id when the member must join again with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct JoinRefused {
    pub(in super::super) error: ResponseError,
    pub(in super::super) member_id: String,
}

impl From<ResponseError> for JoinRefused {
    fn from(error: ResponseError) -> Self {
        Self { error, member_id: String::new() }
    }
}

/// A member of a generation, as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct MemberRef {
    pub(in super::super) id: String,
    pub(in super::super) instance_id: Option<String>,
    pub(in super::super) generation: i32,
}

/// A member's call for its assignment; the leader's carries everybody's.
#[derive(Debug, Clone)]
pub(in super::super) struct Sync {
    pub(in super::super) member: MemberRef,
    pub(in super::super) assignments: Vec<(String, Bytes)>,
}

/// The answer to a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Synced {
    pub(in super::super) protocol_type: String,
    pub(in super::super) protocol: String,
    pub(in super::super) assignment: Bytes,
}

/// A member for tools.
#[derive(Debug, Clone)]
pub(in super::super) struct DescribedMember {
    pub(in super::super) id: String,
    pub(in super::super) instance_id: Option<String>,
    pub(in super::super) client_id: String,
    pub(in super::super) client_host: String,
    pub(in super::super) metadata: Bytes,
    pub(in super::super) assignment: Bytes,
}

/// A group for tools.
#[derive(Debug, Clone)]
pub(in super::super) struct Description {
    pub(in super::super) state: &'static str,
    pub(in super::super) protocol_type: String,
    pub(in super::super) protocol: String,
    pub(in super::super) members: Vec<DescribedMember>,
}
