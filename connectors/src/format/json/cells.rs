//! Cells of one column as they are parsed from text, one row after another.
//!
//! The one list of types and how their text is read. A text that does not fit leaves a placeholder,
//! so that columns stay as long as each other; the caller marks the row and takes it out.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, GenericStringBuilder, NullBufferBuilder,
    OffsetSizeTrait, PrimitiveArray, StringViewBuilder,
};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;

use super::EpochUnit;
use super::text::{self, Misfit, wrong};

/// A column that grows.
pub(super) trait Cells: Debug + Send {
    /// Adds a value; if its text does not fit, a placeholder.
    fn push(&mut self, text: &str) -> Result<(), Misfit>;
    /// Adds a null.
    fn push_null(&mut self);
    /// The column so far; begins a new one.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

/// An empty column of a type, `None` for one whose values are no single text.
pub(super) fn cells(data_type: &DataType, epoch: EpochUnit) -> Option<Box<dyn Cells>> {
    let of = data_type.clone();
    Some(match data_type {
        DataType::Utf8 => Box::new(Text(GenericStringBuilder::<i32>::new())),
        DataType::LargeUtf8 => Box::new(Text(GenericStringBuilder::<i64>::new())),
        DataType::Utf8View => Box::new(StringViewBuilder::new()),
        DataType::Boolean => Box::new(BooleanBuilder::new()),
        DataType::Int8 => Primitive::<Int8Type, _>::boxed(of, text::integer),
        DataType::Int16 => Primitive::<Int16Type, _>::boxed(of, text::integer),
        DataType::Int32 => Primitive::<Int32Type, _>::boxed(of, text::integer),
        DataType::Int64 => Primitive::<Int64Type, _>::boxed(of, text::integer),
        DataType::UInt8 => Primitive::<UInt8Type, _>::boxed(of, text::integer),
        DataType::UInt16 => Primitive::<UInt16Type, _>::boxed(of, text::integer),
        DataType::UInt32 => Primitive::<UInt32Type, _>::boxed(of, text::integer),
        DataType::UInt64 => Primitive::<UInt64Type, _>::boxed(of, text::integer),
        DataType::Float64 => Primitive::<Float64Type, _>::boxed(of, text::float),
        #[allow(clippy::cast_possible_truncation)]
        DataType::Float32 => Primitive::<Float32Type, _>::boxed(of, |value| {
            let narrow = text::float(value)? as f32;
            if narrow.is_finite() { Ok(narrow) } else { Err(text::OUT_OF_RANGE) }
        }),
        DataType::Decimal128(precision, scale) => {
            let (precision, scale) = (*precision, *scale);
            Primitive::<Decimal128Type, _>::boxed(of, move |value| {
                text::decimal(value, precision, scale)
            })
        }
        DataType::Date32 => parsed::<Date32Type>(of, "is not a date"),
        DataType::Time32(TimeUnit::Second) => {
            parsed::<Time32SecondType>(of, "is not a time of day")
        }
        DataType::Time32(_) => parsed::<Time32MillisecondType>(of, "is not a time of day"),
        DataType::Time64(TimeUnit::Microsecond) => {
            parsed::<Time64MicrosecondType>(of, "is not a time of day")
        }
        DataType::Time64(_) => parsed::<Time64NanosecondType>(of, "is not a time of day"),
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => timestamp::<TimestampSecondType>(of, *unit, epoch),
            TimeUnit::Millisecond => timestamp::<TimestampMillisecondType>(of, *unit, epoch),
            TimeUnit::Microsecond => timestamp::<TimestampMicrosecondType>(of, *unit, epoch),
            TimeUnit::Nanosecond => timestamp::<TimestampNanosecondType>(of, *unit, epoch),
        },
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            Box::new(Bytes { builder: BinaryBuilder::new(), data_type: of })
        }
        _ => return None,
    })
}

/// Values of a fixed width and how to read one.
struct Primitive<T: ArrowPrimitiveType, F> {
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
    parse: F,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType, F> Debug for Primitive<T, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cells of {}", self.values.len(), self.data_type)
    }
}

impl<T, F> Primitive<T, F>
where
    T: ArrowPrimitiveType,
    F: Fn(&str) -> Result<T::Native, Misfit> + Send + 'static,
{
    fn boxed(data_type: DataType, parse: F) -> Box<dyn Cells> {
        Box::new(Self { values: Vec::new(), nulls: NullBufferBuilder::new(0), parse, data_type })
    }
}

impl<T, F> Cells for Primitive<T, F>
where
    T: ArrowPrimitiveType,
    F: Fn(&str) -> Result<T::Native, Misfit> + Send,
{
    fn push(&mut self, text: &str) -> Result<(), Misfit> {
        let parsed = (self.parse)(text);
        self.values.push(*parsed.as_ref().unwrap_or(&T::Native::default()));
        self.nulls.append_non_null();
        parsed.map(|_| ())
    }

    fn push_null(&mut self) {
        self.nulls.append_null();
        self.values.push(T::Native::default());
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let values = std::mem::take(&mut self.values);
        let rows = values.len();
        // The next batch will be about as long.
        self.values.reserve(rows);
        let typed = PrimitiveArray::<T>::try_new(values.into(), self.nulls.finish())?;
        Ok(Arc::new(typed.with_data_type(self.data_type.clone())))
    }
}

fn parsed<T: ArrowPrimitiveType + Parser>(
    data_type: DataType,
    what: &'static str,
) -> Box<dyn Cells> {
    Primitive::<T, _>::boxed(data_type, move |value| T::parse(value).ok_or(wrong(what)))
}

fn timestamp<T: ArrowPrimitiveType<Native = i64>>(
    data_type: DataType,
    unit: TimeUnit,
    epoch: EpochUnit,
) -> Box<dyn Cells> {
    Primitive::<T, _>::boxed(data_type, move |value| text::timestamp(value, unit, epoch))
}

#[derive(Debug)]
struct Text<O: OffsetSizeTrait>(GenericStringBuilder<O>);

impl<O: OffsetSizeTrait> Cells for Text<O> {
    fn push(&mut self, text: &str) -> Result<(), Misfit> {
        self.0.append_value(text);
        Ok(())
    }

    fn push_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.0.finish()))
    }
}

impl Cells for StringViewBuilder {
    fn push(&mut self, text: &str) -> Result<(), Misfit> {
        self.append_value(text);
        Ok(())
    }

    fn push_null(&mut self) {
        self.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.finish()))
    }
}

impl Cells for BooleanBuilder {
    fn push(&mut self, text: &str) -> Result<(), Misfit> {
        let parsed = text::boolean(text);
        self.append_value(parsed.unwrap_or(false));
        parsed.map(|_| ())
    }

    fn push_null(&mut self) {
        self.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.finish()))
    }
}

/// Bytes written as base64.
#[derive(Debug)]
struct Bytes {
    builder: BinaryBuilder,
    data_type: DataType,
}

impl Cells for Bytes {
    fn push(&mut self, text: &str) -> Result<(), Misfit> {
        let parsed = text::binary(text);
        self.builder.append_value(parsed.as_deref().unwrap_or_default());
        parsed.map(|_| ())
    }

    fn push_null(&mut self) {
        self.builder.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        arrow::compute::cast(&self.builder.finish(), &self.data_type)
    }
}
