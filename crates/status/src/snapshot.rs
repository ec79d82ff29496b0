//! What one member knows at one moment, in the messages of its own services.

use keelson_wire::v1;

/// Everything that is shown of a member. Made by the member itself, without asking another one, so
/// that it can be shown while the network is down.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Version of the program.
    pub version: String,
    /// Name of the member.
    pub member: String,
    /// Its site.
    pub site: String,
    /// Unix time at which its certificate ends; 0 if unknown.
    pub certificate_expires_unix_seconds: u64,
    /// Of its two processes and its copies.
    pub facts: v1::MemberFactsResponse,
    /// The copies of this member.
    pub copies: Vec<v1::CopyStatusRow>,
    /// The cluster as this member's state has it; of the members only name, site and role. `None`
    /// while it is in no cluster.
    pub cluster: Option<v1::ClusterStatusResponse>,
    /// All databases, as this member's state has them.
    pub databases: Vec<v1::DatabaseInfo>,
    /// Long work, as this member's state has it.
    pub operations: Vec<v1::Operation>,
}
