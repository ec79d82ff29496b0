//! Keeps the tokens that this process lets in equal to the applied state.

use std::sync::Arc;

use crate::context::Context;

impl Context {
    pub(crate) fn bring_tokens_up_to_date(&self) {
        self.applied.read(|state| self.tokens.replace(&state.tokens));
    }
}

/// Follows the applied state until the control plane stops.
pub(crate) async fn follow(context: Arc<Context>) {
    let mut applied = context.applied.watch();
    loop {
        context.bring_tokens_up_to_date();
        if applied.changed().await.is_err() {
            return;
        }
    }
}
