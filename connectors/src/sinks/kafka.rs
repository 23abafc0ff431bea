//! Sink kind `kafka`: rows as JSON records of a topic.
//!
//! The rows are encoded by `format::json` and appended by whoever publishes a commit; here only
//! the options are checked.

use std::collections::BTreeMap;

use tidemill_contract::{Options, Result};

use super::{Delivery, SinkKind};
use crate::{format, log};

pub(super) const KIND: SinkKind = SinkKind {
    names: &["kafka"],
    delivery: Delivery::Topic,
    options: &["connector", "topic", "topic.*", "format", "properties.*", "key.fields"],
    check,
};

fn check(options: &Options, object: &str) -> Result<()> {
    options.require("topic", object)?;
    format::validate(options)?;
    let properties: BTreeMap<String, String> = options
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("properties.")?, value)))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    log::kafka::check_properties(&properties)
}
