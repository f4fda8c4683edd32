//! Expressions (CEL) from which nodeadm and Karpenter compute max-pods.

use cel::{Context, ExecutionError, Program, Value};
use vpc_ipam_core::Limits;

/// Whose variables and functions an expression may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `maxPodsExpression` of nodeadm (2026).
    Nodeadm,
    /// `maxPods` of Karpenter's NodeClass, where it is an expression (2026, alpha).
    Karpenter,
}

/// Why an expression gives no number of pods.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExpressionError {
    /// It is not CEL.
    #[error("{0}")]
    Syntax(String),
    /// The tool has no such variable.
    #[error("no variable {name}; there are {}", variables.join(", "))]
    Variable {
        /// As the expression has it.
        name: String,
        /// The tool's.
        variables: Vec<&'static str>,
    },
    /// It cannot be computed.
    #[error("{0}")]
    Execution(ExecutionError),
    /// It gives something else.
    #[error("gives {0}, not a whole number from 1 to 2147483647")]
    NotPods(String),
}

/// Returns the pods that an expression gives for a type; `max_pods` is what the tool takes by itself.
pub(super) fn evaluate(
    dialect: Dialect,
    expression: &str,
    limits: &Limits,
    max_pods: u32,
) -> Result<u32, ExpressionError> {
    let program = Program::compile(expression).map_err(|error| {
        let text = error.to_string();
        // The first line says where and what; a drawing follows.
        ExpressionError::Syntax(text.lines().next().unwrap_or_default().to_string())
    })?;
    let variables = variables(dialect, limits, max_pods);
    let known = |name: &str| variables.iter().any(|(variable, _)| *variable == name);
    // Both tools look at every name before they compute, so also at those of a branch that is not taken. A macro has
    // variables of its own.
    let has_macro = ["all(", "exists(", "exists_one(", "filter(", "map("]
        .iter()
        .any(|name| expression.contains(name));
    let references = program.references();
    if let Some(name) = references.variables().into_iter().find(|name| !has_macro && !known(name)) {
        let variables = variables.into_iter().map(|(variable, _)| variable).collect();
        return Err(ExpressionError::Variable { name: name.to_string(), variables });
    }
    let mut context = Context::default();
    for (name, value) in variables {
        context.add_variable_from_value(name, value);
    }
    if dialect == Dialect::Karpenter {
        // Karpenter adds these two to the language; nodeadm does not.
        let added = context
            .add_function("min", |a: i64, b: i64| a.min(b))
            .and(context.add_function("max", |a: i64, b: i64| a.max(b)));
        added.expect("neither name is taken in the language");
    }
    pods(program.execute(&context).map_err(ExpressionError::Execution)?)
}

fn variables(dialect: Dialect, limits: &Limits, max_pods: u32) -> Vec<(&'static str, Value)> {
    let enis = i64::from(limits.enis(limits.default_card));
    let memory = i64::from(limits.memory_mib);
    let mut variables = vec![
        ("default_enis", Value::Int(enis)),
        ("ips_per_eni", Value::Int(limits.ipv4_per_eni.into())),
        ("max_pods", Value::Int(max_pods.into())),
        ("vcpus", Value::Int(limits.vcpus.into())),
    ];
    match dialect {
        Dialect::Nodeadm => variables.push(("physical_memory_mib", Value::Int(memory))),
        Dialect::Karpenter => {
            variables.push(("memory_mib", Value::Int(memory)));
            let name = limits.instance_type.as_str().to_string();
            variables.push(("instance_type", Value::from(name)));
        }
    }
    variables
}

fn pods(value: Value) -> Result<u32, ExpressionError> {
    let number = match &value {
        Value::Int(number) => Some(*number),
        Value::UInt(number) => i64::try_from(*number).ok(),
        // As CEL's int() does it.
        Value::Float(number) if number.abs() < 1e15 => Some(number.trunc() as i64),
        _ => None,
    };
    number
        .filter(|number| (1..=i64::from(i32::MAX)).contains(number))
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| ExpressionError::NotPods(format!("{value:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(name: &str) -> Limits {
        Limits::lookup(name.parse().unwrap()).unwrap()
    }

    #[test]
    fn expressions_give_what_each_tool_computes() {
        let both = [Dialect::Nodeadm, Dialect::Karpenter];
        let nodeadm = [Dialect::Nodeadm];
        let karpenter = [Dialect::Karpenter];
        // Whose, the expression, and what an m5.large with 29 pods gets; nothing where the tool refuses it.
        let cases: [(&[Dialect], &str, Option<u32>); 21] = [
            (&both, "417", Some(417)),
            (&both, "(default_enis * (ips_per_eni - 1)) + 2", Some(29)),
            (&both, "((default_enis - 1) * (ips_per_eni - 1)) + 2", Some(20)),
            (&both, "(default_enis * ((ips_per_eni - 1) * 16)) + 2", Some(434)),
            (&both, "max_pods < 110 ? max_pods : 110", Some(29)),
            (&both, "max_pods - 2", Some(27)),
            (&both, "vcpus * 10", Some(20)),
            (&both, "29 / 2", Some(14)),
            (&both, "size([1, 2, 3])", Some(3)),
            (&both, "[max_pods, 10].exists(x, x < 11) ? 10 : 20", Some(10)),
            (&nodeadm, "(physical_memory_mib / 1024) > 32 ? 110 : max_pods", Some(29)),
            (&karpenter, "memory_mib / 1024", Some(8)),
            (&karpenter, "min(250, ((default_enis - 1) * (ips_per_eni - 1)) * 16 + 2)", Some(250)),
            (&karpenter, "max(110, max_pods)", Some(110)),
            (&karpenter, "instance_type.startsWith('m5.') ? 5 : 6", Some(5)),
            (&nodeadm, "min(250, max_pods)", None),
            (&nodeadm, "instance_type == 'm5.large' ? 5 : 6", None),
            (&both, "max_pods - 29", None),
            (&both, "max_pods > 0 ? 5 : fake_variable", None),
            (&both, "true", None),
            (&both, "1 / 0", None),
        ];
        for (dialects, expression, expected) in cases {
            for dialect in dialects {
                let actual = evaluate(*dialect, expression, &limits("m5.large"), 29);
                assert_eq!(
                    actual.as_ref().ok(),
                    expected.as_ref(),
                    "{dialect:?} {expression}: {actual:?}"
                );
            }
        }
    }

    #[test]
    fn a_refused_expression_says_why() {
        let says = |expression| {
            evaluate(Dialect::Nodeadm, expression, &limits("m5.large"), 29).unwrap_err().to_string()
        };
        assert!(
            says("99 - fake_variable")
                .contains("no variable fake_variable; there are default_enis")
        );
        assert!(says("(1").contains("missing ')'"), "{}", says("(1"));
        assert!(says("2147483647 + max_pods").contains("not a whole number from 1"));
        assert!(says("9223372036854775807 + 1").to_lowercase().contains("overflow"));
    }
}
