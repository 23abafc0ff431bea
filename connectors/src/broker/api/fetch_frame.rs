//! The answer to `Fetch` on the wire, records lent.
//!
//! The codec copies every record into its output. Here it encodes a partition without its records,
//! and they follow as pieces of the frame. A client cannot tell the difference.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{FetchResponse, ResponseHeader};
use kafka_protocol::protocol::{Encodable, HeaderVersion};
use tidemill_contract::{Error, Result};

use super::super::frame::{Frame, FrameBuilder};

/// The first version with variable-length numbers and tagged fields.
const FLEXIBLE: i16 = 12;
/// The first version with an error and a session of the whole answer.
const WITH_SESSION: i16 = 7;

/// Encodes the answer to the request with that id, in a version up to 12.
pub(super) fn encode(correlation_id: i32, version: i16, response: FetchResponse) -> Result<Frame> {
    let built = build(correlation_id, version, response).map_err(|error| {
        Error::internal(format!("could not encode the answer to a fetch: {error}"))
    })?;
    built.finish().ok_or_else(|| Error::internal("the answer to a fetch is too long for a frame"))
}

type Encoded<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn build(correlation_id: i32, version: i16, response: FetchResponse) -> Encoded<FrameBuilder> {
    let flexible = version >= FLEXIBLE;
    let mut frame = FrameBuilder::default();
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut frame.open, FetchResponse::header_version(version))?;
    frame.open.put_i32(response.throttle_time_ms);
    if version >= WITH_SESSION {
        frame.open.put_i16(response.error_code);
        frame.open.put_i32(response.session_id);
    }
    put_length(&mut frame.open, flexible, response.responses.len())?;
    for topic in response.responses {
        put_name(&mut frame.open, flexible, &topic.topic)?;
        put_length(&mut frame.open, flexible, topic.partitions.len())?;
        for mut partition in topic.partitions {
            let records = partition.records.replace(Bytes::new()).unwrap_or_default();
            partition.encode(&mut frame.open, version)?;
            // The records are the last field: take the codec's "no bytes" back, with the number of
            // tagged fields, none, that follows it.
            let written = frame.open.len() - if flexible { 2 } else { 4 };
            frame.open.truncate(written);
            put_length(&mut frame.open, flexible, records.len())?;
            frame.records(records);
            put_no_tags(&mut frame.open, flexible);
        }
        put_no_tags(&mut frame.open, flexible);
    }
    put_no_tags(&mut frame.open, flexible);
    Ok(frame)
}

fn put_name(out: &mut BytesMut, flexible: bool, name: &str) -> Encoded<()> {
    match flexible {
        true => put_length(out, flexible, name.len())?,
        false => out.put_i16(i16::try_from(name.len())?),
    }
    out.put_slice(name.as_bytes());
    Ok(())
}

/// The length of an array or of bytes; a variable-length one is stored plus one.
fn put_length(out: &mut BytesMut, flexible: bool, length: usize) -> Encoded<()> {
    if !flexible {
        out.put_i32(i32::try_from(length)?);
        return Ok(());
    }
    let mut rest = u32::try_from(length)? + 1;
    while rest >= 0x80 {
        out.put_u8(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest.to_le_bytes()[0]);
    Ok(())
}

fn put_no_tags(out: &mut BytesMut, flexible: bool) {
    if flexible {
        out.put_u8(0);
    }
}
