//! Long work: look at it, wait for it, cancel it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keelson_types::{OperationId, RefusalReason};
use keelson_wire::{ids, v1};
use tokio::time::{Instant, sleep, timeout_at};

use crate::ClientError;
use crate::admin::{Admin, Kind};
use crate::client::Shared;
use crate::database::timed;

/// How often an operation is looked at if its stream breaks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The Operations service of the cluster; cheap to clone.
#[derive(Clone)]
pub struct Operations {
    shared: Arc<Shared>,
    admin: Admin,
}

macro_rules! ask {
    ($self:ident, $kind:expr, $method:ident, $message:expr) => {{
        let message = $message;
        $self
            .admin
            .call($kind, |address, limit| {
                let mut client = $self.shared.pool.operations(&address);
                let message = message.clone();
                async move { client.$method(timed(message, limit)).await }
            })
            .await
    }};
}

impl Operations {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let admin = Admin::new(shared.clone());
        Self { shared, admin }
    }

    /// One operation as it is now.
    ///
    /// # Errors
    /// `unknown_operation`.
    pub async fn get(&self, operation: OperationId) -> Result<v1::Operation, ClientError> {
        ask!(self, Kind::Change, get_operation, request(operation))
    }

    /// The operations that are remembered, oldest first.
    ///
    /// # Errors
    /// No member answers.
    pub async fn list(&self) -> Result<Vec<v1::Operation>, ClientError> {
        Ok(ask!(self, Kind::Change, list_operations, v1::ListOperationsRequest {})?.operations)
    }

    /// Asks an operation to stop at its next safe point.
    ///
    /// # Errors
    /// `unknown_operation`, or `precondition` once it cannot be stopped.
    pub async fn cancel(&self, operation: OperationId) -> Result<v1::Operation, ClientError> {
        ask!(self, Kind::Change, cancel_operation, request(operation))
    }

    /// Calls `show` with every change until the operation ends or `limit` has passed; returns its
    /// last state. A broken stream is replaced by looking from time to time.
    ///
    /// # Errors
    /// `unknown_operation`, or `deadline_exceeded`: the operation goes on.
    pub async fn watch(
        &self,
        operation: OperationId,
        limit: Duration,
        mut show: impl FnMut(&v1::Operation),
    ) -> Result<v1::Operation, ClientError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Ok(Some(last))) =
                timeout_at(deadline, self.stream(operation, &mut show)).await
            {
                return Ok(last);
            }
            let now = self.get(operation).await?;
            show(&now);
            if has_ended(&now) {
                return Ok(now);
            }
            if Instant::now() >= deadline {
                return Err(ClientError::new(
                    RefusalReason::DeadlineExceeded,
                    format!("operation {operation} still runs after {limit:?}"),
                ));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// As [`Self::watch`] without showing anything, and with a failed operation as an error.
    ///
    /// # Errors
    /// The reason for which the operation failed.
    pub async fn wait(
        &self,
        operation: OperationId,
        limit: Duration,
    ) -> Result<v1::Operation, ClientError> {
        let ended = self.watch(operation, limit, |_| ()).await?;
        succeeded(ended)
    }

    async fn stream(
        &self,
        operation: OperationId,
        show: &mut impl FnMut(&v1::Operation),
    ) -> Result<Option<v1::Operation>, ClientError> {
        let mut changes = ask!(self, Kind::Change, watch_operation, request(operation))?;
        while let Ok(Some(change)) = changes.message().await {
            show(&change);
            if has_ended(&change) {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations").finish_non_exhaustive()
    }
}

/// The operation if it succeeded, else its reason.
///
/// # Errors
/// The operation failed or was cancelled.
pub fn succeeded(operation: v1::Operation) -> Result<v1::Operation, ClientError> {
    if operation.state == "succeeded" {
        return Ok(operation);
    }
    let reason = RefusalReason::from_code(&operation.code).unwrap_or(RefusalReason::Internal);
    let text = if operation.message.is_empty() { &operation.state } else { &operation.message };
    let message = format!("{} of {}: {text}", operation.kind, operation.subject);
    Err(ClientError::new(reason, message))
}

fn has_ended(operation: &v1::Operation) -> bool {
    operation.state != "running"
}

fn request(operation: OperationId) -> v1::GetOperationRequest {
    v1::GetOperationRequest { operation: ids::bytes(operation) }
}
