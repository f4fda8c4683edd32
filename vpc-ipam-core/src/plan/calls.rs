//! When EC2 may be called, and the node's network changed.

use crate::plan::backoff::Backoff;
use crate::plan::budget::Spent;
use crate::{BackoffScope, Budget, Ec2Operation, Question};

/// Limits calls: by the rates at which EC2 may be called, and by what failed lately.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct CallLimiter {
    /// The rates at which EC2 may be called.
    pub(crate) budget: Budget,
    /// What of the budget is used up.
    pub(crate) spent: Spent,
    /// What failed lately, and until when it is left alone.
    pub(crate) backoff: Backoff,
}

impl CallLimiter {
    /// Returns a limiter that has seen no call.
    pub(crate) fn new(budget: Budget, seed: u64) -> Self {
        Self { budget, spent: Spent::default(), backoff: Backoff::new(seed) }
    }

    /// Returns whether nothing may be built on an answer to a question any more.
    pub(crate) fn is_question_stuck(&self, question: Question) -> bool {
        let operation = match question {
            Question::Metadata => None,
            Question::Subnets => Some(Ec2Operation::DescribeSubnets),
            Question::Attached | Question::Unattached | Question::Unconfirmed => {
                Some(Ec2Operation::DescribeNetworkInterfaces)
            }
        };
        self.backoff.is_stuck(BackoffScope::Question(question))
            || operation.is_some_and(|it| self.backoff.is_stuck(BackoffScope::Operation(it)))
    }

    /// Returns whether something failed last by which a node gets further addresses, and was not tried successfully since.
    pub(crate) fn does_growth_fail(&self) -> bool {
        self.backoff.failing().any(is_of_growth)
    }

    /// Has everything that failed and by which a node gets further addresses tried again soon: a pod wants one.
    pub(crate) fn hurry_growth(&mut self) {
        self.backoff.hurry(is_of_growth);
    }
}

/// Returns whether a node gets further addresses by something that fails.
fn is_of_growth(scope: BackoffScope) -> bool {
    match scope {
        BackoffScope::Operation(operation) | BackoffScope::EniOperation(_, operation) => {
            matches!(
                operation,
                Ec2Operation::CreateNetworkInterface
                    | Ec2Operation::AttachNetworkInterface
                    | Ec2Operation::AssignPrivateIpAddresses
                    | Ec2Operation::AssignIpv6Addresses
                    | Ec2Operation::DescribeNetworkInterfaces
            )
        }
        BackoffScope::Creation(_)
        | BackoffScope::Subnet(_)
        | BackoffScope::SubnetIpv6(_)
        | BackoffScope::Card(_)
        | BackoffScope::SetUp(_)
        | BackoffScope::Question(
            Question::Attached | Question::Unattached | Question::Unconfirmed,
        ) => true,
        // Single addresses are asked for instead; growth does without the others.
        BackoffScope::SubnetPrefixes(_)
        | BackoffScope::TearDown(_)
        | BackoffScope::Free(_)
        | BackoffScope::Hint(_)
        | BackoffScope::Question(Question::Metadata | Question::Subnets) => false,
    }
}
