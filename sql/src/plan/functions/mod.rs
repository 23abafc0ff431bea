//! Functions and operators whose DataFusion behaviour is not ours.
//!
//! - `sum` over integers widens, never wraps ([`sum`]).
//! - `+`, `-`, `*` over integers fail on overflow, never wrap; `||` is bounded ([`checked`]).
//! - A decimal is compared with the number that was written ([`exact`]).
//! - Functions that make much out of little are bounded ([`bounded`]), or not there ([`LEFT_OUT`]).

mod bounded;
mod checked;
mod exact;
mod large_sum;
mod sum;

use std::sync::Arc;

use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result};
use datafusion::execution::context::{SessionContext, SessionState};
use datafusion::execution::{FunctionRegistry, SessionStateDefaults};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{AggregateUDF, Expr, ScalarUDF};

use super::run_error;
pub(crate) use checked::{CheckedOperators, as_written};
pub(crate) use exact::ExactLiterals;

/// Functions that are not there: they make any amount of memory out of a few letters, or speak of
/// DataFusion's inside.
const LEFT_OUT: &[&str] = &[
    "range",
    "generate_series",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "arrow_cast",
    "arrow_try_cast",
    "cast_to_type",
    "try_cast_to_type",
    "with_metadata",
    "arrow_metadata",
    "arrow_field",
    "input_file_name",
    "file_row_index",
    "version",
];

/// All scalar functions of the dialect.
pub(crate) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    SessionStateDefaults::default_scalar_functions()
        .into_iter()
        .filter(|function| !LEFT_OUT.contains(&function.name()))
        .map(bounded::bound)
        .collect()
}

/// The `sum` of the dialect.
pub(crate) fn wide_sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(sum::WideSum::new()))
}

/// What is replaced in a plan before types are coerced.
pub(crate) fn rewrites() -> [Arc<dyn FunctionRewrite + Send + Sync>; 2] {
    [Arc::new(CheckedOperators), Arc::new(ExactLiterals)]
}

/// An expression outside of a plan with the same replaced.
pub(crate) fn rewritten(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let options = super::context::options();
    let mut expr = expr;
    for rewrite in rewrites() {
        expr = expr.transform_up(|expr| rewrite.rewrite(expr, schema, options))?.data;
    }
    Ok(expr)
}

/// Gives a session for ad-hoc queries the functions and operators that registered queries have.
///
/// # Errors
/// If DataFusion refuses one of them.
pub fn equip_session(session: &SessionContext) -> tidemill_contract::Result<()> {
    let state = session.state_ref();
    let mut state = state.write();
    for name in LEFT_OUT {
        session_function(&mut state, name).map_err(|error| run_error(&error))?;
    }
    equip(&mut *state).map_err(|error| run_error(&error))
}

/// Takes a function out of a session, by whatever name.
fn session_function(state: &mut SessionState, name: &str) -> Result<()> {
    state.deregister_udf(name)?;
    state.deregister_udtf(name)?;
    Ok(())
}

fn equip(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for function in scalar_functions() {
        registry.register_udf(function)?;
    }
    registry.register_udaf(wide_sum())?;
    for rewrite in rewrites() {
        registry.register_function_rewrite(rewrite)?;
    }
    Ok(())
}
