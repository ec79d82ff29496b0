//! The vocabulary of Keelson: ids, epochs, positions, watermarks, the commit rule, states and
//! reasons.
//!
//! Everything here is a plain value. Nothing reads a clock, draws a random number or touches a
//! file; fresh ids and times come from the caller. Serde derives exist because the replicated state
//! and the decision records are stored as JSON; the bytes of logs and control files are the
//! business of `format`.

mod access_token;
mod activation_policy;
mod audit;
mod automation;
mod commit_rule;
mod content_index;
mod discard;
mod epoch;
mod failure;
mod fork;
mod ids;
mod lag_settings;
mod limits;
mod log_hold;
mod log_sizes;
mod mount_dial;
mod network;
mod news;
mod position;
mod reasons;
mod record;
mod refused;
mod rehearsal;
mod seed;
mod settings;
mod states;
mod store_key;
mod suspension;
mod time;
mod volume;
mod watermarks;
mod weakness;

pub use access_token::{
    AccessToken, AccessTokens, NewToken, TOKEN_DATABASES_MAX, TOKEN_LIFE_MAX_MS, TOKENS_MAX,
    TokenDigest, TokenRole, token_name,
};
pub use activation_policy::ActivationPolicy;
pub use audit::{AUDIT_ARGUMENTS_CHARS_MAX, AuditKind, AuditLine, AuditRepeats};
pub use automation::{Automation, Automations};
pub use commit_rule::{CommitConstraint, CommitRule, Participant};
pub use content_index::{
    CONTENT_INDEX_FIELD_BYTES_MAX, CONTENT_INDEX_FIELDS_MAX, ContentIndexSettings,
    ContentIndexState,
};
pub use discard::{Discard, all_given_up};
pub use epoch::{Epoch, EpochStart, EpochTable, EpochTableError};
pub use failure::FailureTag;
pub use fork::{ForkAddress, Instant, NoForkAddress};
pub use ids::{
    CheckpointId, ClusterId, CopyId, DatabaseId, DatabaseName, ForkName, IncarnationId, LogId,
    MemberId, MemberName, NameError, OperationId, SessionId, SiteName, StoreId, StreamId,
    TokenName,
};
pub use lag_settings::{LAG_MAX, LagSettings, LagSwitch, PLAY_DOWN_MAX_DELAY};
pub use limits::{
    BATCH_BYTES_MAX, CERTIFICATE_WARNING_DAYS, KEY_BYTES_MAX, LOG_UNIT_BYTES,
    SUSPEND_COMMENT_CHARS_MAX, VALUE_BYTES_MAX,
};
pub use log_hold::{HoldClock, HoldKind, LogHold};
pub use log_sizes::{LogSizes, Queue};
pub use mount_dial::{CEILING_AHEAD_BYTES, Ceiling, MountDial, missing_logs};
pub use network::{
    NETWORK_NAME_BYTES_MAX, NETWORKS_MAX, NetworkConfig, NetworkRole, Networks, SUBNETS_MAX,
    Subnet, TrafficPolicy,
};
pub use news::News;
pub use position::{Generation, LogEnd, Position};
pub use reasons::{CopyFault, FailureCode, RefusalReason};
pub use record::{Record, SessionRecord};
pub use refused::Refused;
pub use rehearsal::RehearsalStep;
pub use seed::{
    OldFiles, SEED_LOG_BYTES_MAX, SEED_RESERVE_BYTES, SeedOrder, SeedPhase, SeedProgress,
    SeedScope, SpareOrder,
};
pub use settings::{ClusterSettings, Setting, SettingInfo, SettingKind};
pub use states::{CopyRole, CopyStatus, DatabaseState, MountIntent};
pub use store_key::{Span, StoreKey};
pub use suspension::{
    HELD_TIMELINES_MAX, HeldTimeline, ResumeRequest, SUSPEND_FOR_MAX, Stop, SuspendFacts,
    SuspendRequest, SuspendedBy, Suspension,
};
pub use time::{HybridTime, Tick};
pub use volume::VolumeState;
pub use watermarks::{WatermarkError, Watermarks};
pub use weakness::Weakness;
