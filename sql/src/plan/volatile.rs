//! Refuses functions whose result depends on when or where they run: a registered query must give
//! the same answer whenever its rows are read again.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use tidemill_contract::Error;

/// Functions that are stable within one batch query but not across time.
const CLOCK_FUNCTIONS: &[&str] =
    &["now", "current_timestamp", "current_date", "current_time", "today"];

/// Fails with `TM204` on the first non-deterministic function.
pub(super) fn refuse(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|inner| {
                if let Expr::ScalarFunction(call) = inner {
                    let name = call.func.name();
                    let volatile = call.func.signature().volatility == Volatility::Volatile;
                    if volatile || CLOCK_FUNCTIONS.contains(&name) {
                        let error = Error::invalid(
                            "TM204",
                            format!("function '{name}' is not deterministic"),
                        )
                        .because("a restart would give other results for the same rows")
                        .help("use the event time, window_start or window_end instead");
                        return Err(DataFusionError::External(Box::new(error)));
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}
