//! The data plane: drives the pure machine of every copy of this member with real files, a real
//! store and real connections, and serves `Kv` and `Replication`.
//!
//! One task owns each copy ([`owner`](self)); blocking work runs on a few shared threads, in lanes;
//! the control process speaks over the private link. `DESIGN.md` has tasks, threads and crash
//! cases.

mod ahead;
mod assignment;
mod catalog;
mod context;
mod digest;
mod directions;
mod facts;
mod fetch;
mod forks;
mod gate;
mod inbound;
mod io_watch;
mod kv;
mod lag_file;
mod log_index;
mod log_lane;
mod log_paths;
mod mark_file;
mod mend;
mod message;
mod meters;
mod note;
mod open;
mod orders;
mod overlay;
mod owner;
mod plane;
mod pool;
mod reach;
mod rebuild;
mod rehearse;
mod repair;
mod room;
mod scrub;
mod seed;
mod service;
mod sessions;
mod shared;
mod space;
mod store_lane;
mod store_slot;
mod supervise;
mod tail;
mod traffic;
mod volumes;
mod watch;
mod whole_file;
mod writer;

use keelson_net::DATA_MESSAGE_BYTES_MAX;
use keelson_wire::v1::kv_server::KvServer;
use keelson_wire::v1::replication_server::ReplicationServer;
use tonic::service::Routes;

pub use gate::{LeaseClock, ServeGate, boottime_now};
pub use kv::KvService;
pub use plane::{DataPlane, DataPlaneConfig};
pub use pool::{Lane, Pool};
pub use service::ReplicationService;
pub use volumes::VolumeSettings;

impl DataPlane {
    /// The services of this plane, for a server.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let (context, registry) = (self.context.clone(), self.registry.clone());
        let kv = KvService { context: context.clone(), registry: registry.clone() };
        let replication = ReplicationService { context, registry };
        let kv = KvServer::new(kv)
            .max_decoding_message_size(DATA_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(DATA_MESSAGE_BYTES_MAX);
        let replication = ReplicationServer::new(replication)
            .max_decoding_message_size(DATA_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(DATA_MESSAGE_BYTES_MAX);
        Routes::new(kv).add_service(replication)
    }
}
