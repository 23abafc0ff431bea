//! Decimals are compared with the number that was written: `price >= 967.23` holds for 967.23.
//!
//! DataFusion reads `967.23` as a double and turns it into a `DECIMAL(30, 15)` to compare it, which
//! is not 967.23 any more. Here a literal that is compared with a decimal becomes the decimal that
//! was written, as in the SQL standard. It never touches arithmetic, nor comparisons with doubles.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

/// Digits a decimal has at most.
const DIGITS_MAX: usize = 38;

/// Makes decimals of the literals that decimals are compared with, before types are coerced.
#[derive(Debug)]
pub(crate) struct ExactLiterals;

impl FunctionRewrite for ExactLiterals {
    fn name(&self) -> &str {
        "exact_literals"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _config: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        Ok(match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
                let new = (beside(right, left, schema), beside(left, right, schema));
                let (Some(left), Some(right)) = side(new, left, right) else {
                    return Ok(Transformed::no(expr));
                };
                Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left.into(), *op, right.into())))
            }
            Expr::Between(Between { expr: inner, negated, low, high }) => {
                let new = (beside(inner, low, schema), beside(inner, high, schema));
                let (Some(low), Some(high)) = side(new, low, high) else {
                    return Ok(Transformed::no(expr));
                };
                let between = Between::new(inner.clone(), *negated, low.into(), high.into());
                Transformed::yes(Expr::Between(between))
            }
            Expr::InList(InList { expr: inner, list, negated }) => {
                let new: Vec<Option<Expr>> =
                    list.iter().map(|item| beside(inner, item, schema)).collect();
                if new.iter().all(Option::is_none) {
                    return Ok(Transformed::no(expr));
                }
                let items = new.into_iter().zip(list);
                let list = items.map(|(new, old)| new.unwrap_or_else(|| old.clone())).collect();
                Transformed::yes(Expr::InList(InList::new(inner.clone(), list, *negated)))
            }
            _ => Transformed::no(expr),
        })
    }
}

/// Both sides, if one of them is new.
fn side(
    new: (Option<Expr>, Option<Expr>),
    left: &Expr,
    right: &Expr,
) -> (Option<Expr>, Option<Expr>) {
    match new {
        (None, None) => (None, None),
        (a, b) => (a.or_else(|| Some(left.clone())), b.or_else(|| Some(right.clone()))),
    }
}

fn is_comparison(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// The literal as a decimal, if it is compared with one.
fn beside(other: &Expr, literal: &Expr, schema: &DFSchema) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Float64(Some(value)), metadata) = literal else { return None };
    match other.get_type(schema).ok()? {
        DataType::Decimal128(..) => Some(Expr::Literal(exact(*value)?, metadata.clone())),
        _ => None,
    }
}

/// The decimal with the fewest digits that reads back as this double: what was written, if that has
/// no more than 15 digits.
fn exact(value: f64) -> Option<ScalarValue> {
    let text = format!("{value}");
    let digits: String = text.chars().filter(|c| *c != '.').collect();
    let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let precision = digits.trim_start_matches('-').len();
    if precision > DIGITS_MAX {
        return None;
    }
    let unscaled = digits.parse().ok()?;
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    Some(ScalarValue::Decimal128(Some(unscaled), precision, scale))
}
