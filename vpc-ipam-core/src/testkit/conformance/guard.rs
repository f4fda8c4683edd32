// To go on after an executor that panics; the rest of the crate does without.
extern crate std;

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use core::any::Any;
use core::time::Duration;

use self::std::panic::{AssertUnwindSafe, catch_unwind};

pub(super) const PANICS: &str = "the executor does not panic";

/// Runs code of the tester's, and returns what it panicked with if it did.
pub(super) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    // What the executor left half-done is its own: the suite only goes on asking.
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| text_of(&panic))
}

fn text_of(panic: &Box<dyn Any + Send>) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_string(),
        (None, Some(text)) => text.clone(),
        (None, None) => "with a value that is no text".to_string(),
    }
}

/// Returns the next wait: from a second to eight, so that twelve take about a minute.
pub(super) fn longer(wait: Duration) -> Duration {
    wait.saturating_mul(2).min(Duration::from_secs(8))
}
