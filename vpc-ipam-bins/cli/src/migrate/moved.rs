//! What came of a move.

use serde::Serialize;
use vpc_ipam_core::error_chain;

use super::journal::{Direction, Ended, Journal};
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

impl Moved {
    /// Describes a move that changed nothing, on a node that was half-way already or was not.
    pub(crate) fn left(error: &StepError, half_way: Option<Direction>) -> Self {
        let outcome = match error {
            _ if half_way.is_some() => Outcome::HalfWay,
            StepError::Refused(_) => Outcome::Refused,
            StepError::Failed(_) | StepError::Journal(_) => Outcome::Failed,
        };
        let moved = Self { outcome, why: Some(error.to_string()), ..Self::default() };
        match half_way {
            Some(direction) => moved.half_way(direction),
            None => moved,
        }
    }

    /// Records how a run ended. Where that cannot be recorded, the same command is to do it.
    pub(crate) fn ended(mut self, journal: &mut Journal, ended: Ended, outcome: Outcome) -> Self {
        let direction = journal.unended().unwrap_or(Direction::To);
        match journal.end(ended) {
            Ok(()) => Self { outcome, ..self },
            Err(error) => {
                self.why = Some(error_chain(&error));
                self.half_way(direction)
            }
        }
    }

    /// Says how a move is ended that is half-way.
    pub(crate) fn half_way(self, direction: Direction) -> Self {
        let other = match direction {
            Direction::To => Direction::Back,
            Direction::Back => Direction::To,
        };
        let remedy = format!(
            "the node is half-way, and pods keep their network as it is: see to what is said above, and run `vpc-ipam migrate {direction}` again, which goes \
             on, or `vpc-ipam migrate {other}`, which turns round"
        );
        Self { outcome: Outcome::HalfWay, remedy: Some(remedy), ..self }
    }
}

impl Outcome {
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
