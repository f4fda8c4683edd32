//! What came of a move.

use serde::Serialize;

use super::step::{Done, StepError};

/// What came of a move, for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Moved {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// The steps that were done, in their order.
    pub(crate) steps: Vec<Done>,
    /// Why it did not do what it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// What an operator has to do where the node is half-way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// How a move ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The node is where it should be.
    Done,
    /// Nothing was changed: the node is not one to which it may be done.
    Refused,
    /// It failed, and the node is as before.
    #[default]
    Failed,
    /// It failed, and the node is half-way: pods go on, and [`Moved::remedy`] says how it is ended.
    HalfWay,
}

impl Outcome {
    /// Returns how a move ended that changed nothing.
    pub(crate) fn of_refusal(error: &StepError) -> Self {
        match error {
            StepError::Refused(_) => Self::Refused,
            StepError::Failed(_) => Self::Failed,
        }
    }

    /// Returns the exit code that says so.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Refused => 4,
            Self::HalfWay => 5,
        }
    }
}
