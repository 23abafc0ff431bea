//! librdkafka's errors in the contract's words: who must act on which.
//!
//! It never passes property values on: they may be secrets.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tidemill_contract::Error;

/// A client that cannot even be created: its properties are wrong.
pub(super) fn setup(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, reason, key, _) => {
            Error::invalid("TM520", format!("kafka property '{key}' is refused"))
                .because(reason.clone())
        }
        other => {
            Error::invalid("TM520", "kafka client cannot be created").because(other.to_string())
        }
    }
}

/// A look-up or administrative request that failed.
pub(super) fn lookup(what: &str, topic: &str, error: &KafkaError) -> Error {
    let message = format!("cannot {what} '{topic}'");
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidPartitions
            | RDKafkaErrorCode::InvalidConfig,
        ) => Error::invalid("TM514", message).because(error.to_string()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Error::new(tidemill_contract::ErrorKind::NotFound, "TM511", message)
                .because(error.to_string())
        }
        _ => Error::unavailable("TM510", message)
            .because(error.to_string())
            .help("check that the brokers are up and reachable under their advertised addresses"),
    }
}

/// A record that could not be appended.
pub(super) fn append(topic: &str, error: &KafkaError) -> Error {
    let message = format!("cannot append to topic '{topic}'");
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::InvalidTopic,
        ) => Error::invalid("TM515", message).because(error.to_string()),
        _ => Error::unavailable("TM516", message).because(error.to_string()),
    }
}

/// What a reader does about an error event.
#[derive(Debug)]
pub(super) enum Reaction {
    /// librdkafka goes on by itself.
    Ignore,
    /// The offset asked for is not in the log.
    OutOfRange,
    /// Give up with this error.
    Fail(Error),
}

/// Whether an error says that the log does not hold what should be read next.
#[must_use]
pub fn is_loss(error: &Error) -> bool {
    matches!(error.code, "TM501" | "TM502")
}

/// Decides about an error event of a reader.
pub(super) fn react(topic: &str, error: &KafkaError) -> Reaction {
    if let KafkaError::PartitionEOF(_) = error {
        return Reaction::Ignore;
    }
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::AutoOffsetReset
            | RDKafkaErrorCode::OffsetOutOfRange
            // The new leader of a partition has less than the old one had.
            | RDKafkaErrorCode::LogTruncation,
        ) => Reaction::OutOfRange,
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition,
        ) => Reaction::Fail(
            Error::corrupt("TM502", format!("topic '{topic}' or a partition of it is gone"))
                .because(error.to_string()),
        ),
        Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression) => Reaction::Fail(
            Error::corrupt("TM503", format!("a record of topic '{topic}' is damaged"))
                .because(error.to_string()),
        ),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::Authentication,
        ) => Reaction::Fail(
            Error::unavailable("TM517", format!("reading topic '{topic}' is not allowed"))
                .because(error.to_string()),
        ),
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Reaction::Fail(
            Error::unavailable("TM518", format!("the client reading topic '{topic}' broke down"))
                .because(error.to_string()),
        ),
        _ => {
            tracing::debug!(topic, %error, "the log client reports an error and retries");
            Reaction::Ignore
        }
    }
}
