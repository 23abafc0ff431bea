//! Operators that fail instead of wrapping: `+`, `-`, `*` and the sign over integers.
//!
//! DataFusion computes `a * b` over 64-bit integers with wrapping, in rows and in constants alike.
//! Before types are coerced each such operator becomes a function that calls Arrow's checked
//! kernel. `||` over texts becomes a function too, whose result is bounded as that of `concat`.
//! Names of columns, and the text that state is found again by, stay as written.

use std::fmt;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, Datum};
use datafusion::arrow::compute::kernels::concat_elements::concat_elements_dyn;
use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr_common::datum::apply;

use super::bounded;

/// Name of the function that is `0 - x` and was written `-x`.
const NEGATE: &str = "checked_negate";

/// An operator as a function of two arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Checked {
    name: &'static str,
    operator: Operator,
    signature: Signature,
}

struct Functions {
    plus: Arc<ScalarUDF>,
    minus: Arc<ScalarUDF>,
    /// `0 - x`.
    negate: Arc<ScalarUDF>,
    multiply: Arc<ScalarUDF>,
    concat: Arc<ScalarUDF>,
}

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let function = |name, operator| {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(ScalarUDF::from(Checked { name, operator, signature }))
    };
    Functions {
        plus: function("checked_add", Operator::Plus),
        minus: function("checked_subtract", Operator::Minus),
        negate: function(NEGATE, Operator::Minus),
        multiply: function("checked_multiply", Operator::Multiply),
        concat: function("concat_text", Operator::StringConcat),
    }
});

impl Checked {
    /// The operator it stands for.
    fn written(&self, left: &Expr, right: &Expr) -> Expr {
        let (left, right) = (Box::new(left.clone()), Box::new(right.clone()));
        if self.name == NEGATE {
            return Expr::Negative(right);
        }
        Expr::BinaryExpr(BinaryExpr::new(left, self.operator, right))
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        self.name
    }
    /// As written: output columns keep the names they have in SQL.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return internal_err!("{} takes two", self.name) };
        Ok(self.written(left, right).schema_name().to_string())
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = arg_types else { return internal_err!("{} takes two", self.name) };
        if self.operator == Operator::StringConcat {
            return Ok(vec![DataType::Utf8, DataType::Utf8]);
        }
        let (left, right) =
            BinaryTypeCoercer::new(left, &self.operator, right).get_input_types()?;
        Ok(vec![left, right])
    }
    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [left, right] if self.operator != Operator::StringConcat => {
                BinaryTypeCoercer::new(left, &self.operator, right).get_result_type()
            }
            _ => Ok(DataType::Utf8),
        }
    }
    fn is_strict(&self) -> bool {
        true
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two arguments", self.name);
        };
        let kernel: fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError> = match self.operator
        {
            Operator::Plus => add,
            Operator::Minus => sub,
            Operator::Multiply => mul,
            _ => {
                bounded::check(self.name, bounded::total(&args.args, args.number_rows))?;
                let all_scalar =
                    args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
                let rows = if all_scalar { 1 } else { args.number_rows };
                let joined = concat_elements_dyn(&left.to_array(rows)?, &right.to_array(rows)?)?;
                return bounded::scalar_if(all_scalar, joined);
            }
        };
        apply(left, right, kernel)
    }
}

/// Replaces the operators in a plan, before types are coerced.
#[derive(Debug)]
pub(crate) struct CheckedOperators;

impl FunctionRewrite for CheckedOperators {
    fn name(&self) -> &str {
        "checked_operators"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _config: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let Some(function) = function_of(*op, left, right, schema) else {
                    return Ok(Transformed::no(expr));
                };
                let args = vec![left.as_ref().clone(), right.as_ref().clone()];
                Ok(Transformed::yes(call(function, args)))
            }
            Expr::Negative(inner) if !matches!(inner.as_ref(), Expr::Literal(..)) => {
                let Ok(data_type) = inner.get_type(schema) else {
                    return Ok(Transformed::no(expr));
                };
                if !data_type.is_signed_integer() {
                    return Ok(Transformed::no(expr));
                }
                let zero = Expr::Literal(ScalarValue::new_zero(&data_type)?, None);
                let args = vec![zero, inner.as_ref().clone()];
                Ok(Transformed::yes(call(&FUNCTIONS.negate, args)))
            }
            _ => Ok(Transformed::no(expr)),
        }
    }
}

fn function_of(
    operator: Operator,
    left: &Expr,
    right: &Expr,
    schema: &DFSchema,
) -> Option<&'static Arc<ScalarUDF>> {
    let (left, right) = (left.get_type(schema).ok()?, right.get_type(schema).ok()?);
    let function = match operator {
        Operator::Plus => &FUNCTIONS.plus,
        Operator::Minus => &FUNCTIONS.minus,
        Operator::Multiply => &FUNCTIONS.multiply,
        Operator::StringConcat => {
            let is_list = |data_type: &DataType| data_type.is_nested();
            return (!is_list(&left) && !is_list(&right)).then_some(&FUNCTIONS.concat);
        }
        _ => return None,
    };
    (left.is_integer() && right.is_integer()).then_some(function)
}

fn call(function: &Arc<ScalarUDF>, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args))
}

/// An expression with the operators back in the place of their functions: for texts.
pub(crate) fn as_written(expr: &Expr) -> impl fmt::Display + use<> {
    let written = expr.clone().transform_up(|expr| {
        let Expr::ScalarFunction(call) = &expr else { return Ok(Transformed::no(expr)) };
        let inner: &dyn std::any::Any = call.func.inner().as_ref();
        match (inner.downcast_ref::<Checked>(), call.args.as_slice()) {
            (Some(checked), [left, right]) => Ok(Transformed::yes(checked.written(left, right))),
            _ => Ok(Transformed::no(expr)),
        }
    });
    written.map_or_else(|_| expr.clone(), |written| written.data)
}
