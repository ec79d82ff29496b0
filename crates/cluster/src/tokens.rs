//! Keeps the tokens that this process lets in equal to the applied state, once that is as new as
//! the life of the process: until then nobody gets in by a token (`no_lease`, which is tried
//! again).
//!
//! It is new when the member leads, or the life of its data process is recorded. A witness has no
//! data process, so it takes tokens from the time on that it leads.

use std::sync::Arc;

use crate::context::Context;

impl Context {
    pub(crate) fn bring_tokens_up_to_date(&self) {
        if *self.caught_up.borrow() {
            self.applied.read(|state| self.tokens.replace(&state.tokens));
        }
    }
}

/// Follows the applied state until the control plane stops.
pub(crate) async fn follow(context: Arc<Context>) {
    let mut applied = context.applied.watch();
    let mut caught_up = context.caught_up.subscribe();
    loop {
        context.bring_tokens_up_to_date();
        let ended = tokio::select! {
            changed = applied.changed() => changed.is_err(),
            changed = caught_up.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}
