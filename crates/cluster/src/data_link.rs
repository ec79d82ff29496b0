//! What the control plane sees of the data process of its member: a handle for messages, and
//! events.
//!
//! The server crate owns socket, child and supervision; this crate only talks. Messages of one
//! handle and its clones arrive in the order in which `send` and `request` were called by one task.

use std::time::Duration;

use async_trait::async_trait;
use keelson_types::IncarnationId;
use keelson_wire::v1::{DataToControl, control_to_data, data_to_control};

/// A message did not get an answer from the data process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkDown {
    /// There is no data process, or it ended meanwhile.
    #[error("the data process of this member is down")]
    Down,
    /// It did not answer in time; it may still carry the request out.
    #[error("the data process of this member did not answer in time")]
    NoAnswer,
}

/// The way to the data process.
#[async_trait]
pub trait DataLink: Send + Sync + 'static {
    /// Queues a message. `Ok` does not say that it arrived.
    ///
    /// # Errors
    /// [`LinkDown::Down`] if there is no data process at the moment.
    async fn send(&self, message: control_to_data::Message) -> Result<(), LinkDown>;

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`LinkDown`]; at once if there is no data process, or when it ends.
    async fn request(
        &self,
        message: control_to_data::Message,
        deadline: Duration,
    ) -> Result<data_to_control::Message, LinkDown>;
}

/// What happens to the data process.
#[derive(Clone, PartialEq, Debug)]
pub enum DataEvent {
    /// A new life runs and its link is open. All that consensus knows is sent to it again.
    Up {
        /// Drawn by the control process for this life.
        incarnation: IncarnationId,
    },
    /// The link is gone, or the process. Sent twice if the link breaks before the process is
    /// reaped.
    Down {
        /// Which life.
        incarnation: IncarnationId,
        /// True only if this process reaped its own child: then that life can do nothing any more.
        certified: bool,
    },
    /// A report: anything that is not the answer to a [`DataLink::request`].
    Message(Box<DataToControl>),
}
