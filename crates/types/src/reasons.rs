//! Reasons as values: the same enum in status, events, errors and decisions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stable code that scripts may match on. Never renumbered, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FailureCode(pub &'static str);

/// Why a copy cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFault {
    /// A write or sync of the log failed; the epoch is over and the log is poisoned (review S10).
    LogIo(String),
    /// A frame or header is damaged where it cannot be a torn tail.
    LogDamaged(String),
    /// The store failed and a reopen did not mend it.
    Store(String),
    /// Bytes of the store rotted; it is rebuilt, or waits for a copy that can help (review S15).
    StoreDamaged(String),
    /// The volume is full.
    DiskFull,
    /// The logs diverged beyond what this copy may cut by itself.
    Diverged(String),
    /// Log that this copy needs is gone everywhere.
    MissingLog(String),
    /// A record of a newer version stops replay: "needs version N".
    NeedsVersion(u32),
    /// Keys of its store are not to be trusted until they were fetched from another copy.
    Untrusted(String),
    /// The process died several times while this copy started (review S9.6).
    CrashLoop,
    /// The copy's files are gone, and with them what it promised and acknowledged: it is no copy
    /// any more, and waits for the id under which it becomes another one (R4).
    Forgotten,
}

impl fmt::Display for CopyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogIo(what) => write!(f, "log i/o failed: {what}"),
            Self::LogDamaged(what) => write!(f, "log damaged: {what}"),
            Self::Store(what) => write!(f, "store failed: {what}"),
            Self::StoreDamaged(what) => write!(f, "store damaged: {what}"),
            Self::DiskFull => write!(f, "the volume is full"),
            Self::Diverged(what) => write!(f, "diverged: {what}"),
            Self::MissingLog(what) => write!(f, "log is missing: {what}"),
            Self::NeedsVersion(version) => write!(f, "needs version {version}"),
            Self::Untrusted(what) => write!(f, "its store is not whole: {what}"),
            Self::CrashLoop => write!(f, "the data process died repeatedly while starting it"),
            Self::Forgotten => {
                write!(f, "its files are gone; it waits until the cluster takes it for a new copy")
            }
        }
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $hint:literal;)*) => {
        /// Why a request was refused. Each has a stable code and a hint that says what to do next.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum RefusalReason {
            $($(#[$doc])* $variant,)*
        }

        impl RefusalReason {
            /// All reasons, for the error page and the mapping test.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> FailureCode {
                FailureCode(match self { $(Self::$variant => $code,)* })
            }

            /// What to do next.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }

            /// The reason of a code.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.code().0 == code)
            }
        }
    };
}

refusals! {
    /// The copy asked is not the active one, or not any more.
    NotActive = "not_active",
        "ask the active member named in the details; the client library does this by itself";
    /// The active has no lease at the moment.
    NoLease = "no_lease",
        "retry; if it lasts, check that a majority of members is up (keelson cluster status)";
    /// The database is being activated.
    Activating = "activating",
        "retry; the database is moving to another member";
    /// The database is dismounted.
    Dismounted = "dismounted",
        "see keelson database show for the reason; keelson database mount opens it";
    /// The request names an epoch lower than one already seen.
    StaleEpoch = "stale_epoch",
        "retry; a newer activation has taken over";
    /// No database of that name or id.
    UnknownDatabase = "unknown_database",
        "keelson database list shows the databases";
    /// No member of that name or id.
    UnknownMember = "unknown_member",
        "keelson member list shows the members";
    /// No copy of that database on that member.
    UnknownCopy = "unknown_copy",
        "keelson copy list shows the copies";
    /// No site of that name.
    UnknownSite = "unknown_site",
        "keelson member list shows the sites in use";
    /// No operation of that id.
    UnknownOperation = "unknown_operation",
        "keelson operation list shows the operations";
    /// No cluster setting of that name.
    UnknownSetting = "unknown_setting",
        "keelson cluster settings list shows the settings";
    /// The thing to be created exists.
    AlreadyExists = "already_exists",
        "choose another name, or remove the existing one first";
    /// A name with forbidden characters or length.
    BadName = "bad_name",
        "use 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit";
    /// A key over 64 KiB, or empty.
    BadKey = "bad_key",
        "keys have 1 byte to 64 KiB";
    /// A value over 8 MiB.
    ValueTooLarge = "value_too_large",
        "values have at most 8 MiB; split the record";
    /// A write over 16 MiB.
    BatchTooLarge = "batch_too_large",
        "one atomic write has at most 16 MiB; split it";
    /// A condition of a write did not hold.
    ConditionFailed = "condition_failed",
        "read the key again and decide anew";
    /// The session is unknown or expired: whether the write was applied cannot be said.
    OutcomeUnknown = "outcome_unknown",
        "read what the write should have changed before trying again";
    /// Another cluster's member or client.
    ForeignCluster = "foreign_cluster",
        "the address belongs to another cluster; check the endpoints in the configuration";
    /// A second process claims the identity or name of a member.
    SecondHolder = "second_holder",
        "another server runs under this name or identity; stop it, or give this one its own \
         data directory";
    /// The server that answers in a member's place has another identity.
    ForeignMember = "foreign_member",
        "if no other server runs under its name, bring it back empty, in this order: keelson copy \
         remove for each of its copies, keelson member remove, keelson member add, keelson copy \
         add";
    /// The file that holds a member's vote and its copy of the cluster state is damaged.
    ConsensusDamaged = "consensus_damaged",
        "bring the member back empty, in this order: keelson copy remove for each of its copies, \
         keelson member remove, move its data directory away (keep it), start the server, keelson \
         member add, keelson copy add";
    /// The data directory was written by a newer version.
    NewerFormat = "newer_format",
        "start the version that wrote it, or a later one";
    /// No leader is known, or it did not answer.
    NoLeader = "no_leader",
        "retry; if it lasts, a majority of the members is down (keelson cluster status)";
    /// The volume is full; nothing was written.
    DiskFull = "disk_full",
        "free space on the member's volume; writes resume by themselves";
    /// Too much is waiting.
    Overloaded = "overloaded",
        "retry with back-off; reduce the number of concurrent writers";
    /// The member holds copies, or another precondition of a removal fails.
    InUse = "in_use",
        "remove the copies of the member first (keelson copy remove), or with it (keelson member \
         remove --with-copies)";
    /// A discarded timeline is to be given up by the last copy that holds it, before its retention
    /// is over.
    DiscardedRetained = "discarded_retained",
        "wait until the time in the message, or give it up for good: keelson copy resume DB@MEMBER \
         --release-discarded --before-retention";
    /// Salvage is to be deleted before its retention is over.
    SalvageRetained = "salvage_retained",
        "export it first (keelson copy salvage export) and wait until the time in the message, or \
         delete it all the same: --before-retention";
    /// The request asks for something that the current state forbids.
    Precondition = "precondition",
        "see the message; keelson database show tells the state";
    /// An argument has no meaning.
    BadArgument = "bad_argument",
        "see the message; --help lists the allowed values";
    /// The caller's certificate or token does not allow this.
    Forbidden = "forbidden",
        "use a certificate or a token of the needed role (keelson certs issue, keelson token \
         issue)";
    /// The caller showed neither a certificate nor a token that is valid.
    Unauthenticated = "unauthenticated",
        "use a certificate of the cluster, or a token that is neither revoked nor expired (keelson \
         token list)";
    /// No access token of that name.
    UnknownToken = "unknown_token",
        "keelson token list shows the tokens";
    /// The position asked for is no longer in the log.
    Truncated = "truncated",
        "older log is gone: start a reader from a current position, begin a seed again (keelson \
         copy seed)";
    /// The position asked for lies in a timeline that was given up.
    Discarded = "discarded",
        "the range was discarded by an activation; read the state anew";
    /// The protocol versions of the two sides do not overlap.
    ProtocolMismatch = "protocol_mismatch",
        "upgrade the older side";
    /// No copy can be activated without losing acknowledged data.
    NoLosslessCopy = "no_lossless_copy",
        "bring a missing member back; keelson database mount DB --accept-loss --what-if shows what \
         would be given up without it";
    /// An instant that the copy cannot show any more, or not yet.
    InstantOutOfReach = "instant_out_of_reach",
        "choose an instant inside the span that the message names; a copy with a replay lag \
         reaches further back";
    /// No fork of that name.
    UnknownFork = "unknown_fork",
        "keelson copy fork list shows the forks; it may have expired";
    /// The database has no content index.
    NoContentIndex = "no_content_index",
        "keelson database set DB --content-index true makes one";
    /// The content index of the copy cannot answer now.
    ContentIndexNotReady = "content_index_not_ready",
        "retry later, or ask another copy (keelson copy status shows the content index of each)";
    /// Too many forks, or too little space for one more.
    ForkBudget = "fork_budget",
        "drop a fork (keelson copy fork drop), let one expire, or make room on the volume";
    /// A fork takes no writes.
    ReadOnly = "read_only",
        "a fork only shows an instant; write to the database itself";
    /// The chosen target cannot be activated.
    TargetUnfit = "target_unfit",
        "see the message; keelson copy status shows the copies";
    /// No copy passes what is asked of a target.
    NoCandidate = "no_candidate",
        "keelson switchover DB --what-if shows every check of every copy, and what skips it";
    /// A queue of the target is too long for a switchover.
    QueueTooLong = "queue_too_long",
        "wait until the copy has caught up (keelson copy status), or --skip-lag-checks";
    /// The active copy, or the target, is read as the source of a seed.
    FeedsSeed = "feeds_seed",
        "wait for the seed (keelson operation list), or skip the check that the message names";
    /// The content index of the target is not healthy.
    ContentIndexUnfit = "content_index_unfit",
        "wait until it is Healthy (keelson copy status), or --skip-client-experience-checks: \
         searches fail there until it is";
    /// The member has as many active databases as it may have.
    ActiveLimit = "active_limit",
        "choose another member, or raise its limit (keelson member set --max-active)";
    /// The database moved too often in the last time.
    MoveSuppressed = "move_suppressed",
        "find out why it moves (keelson decision list DB), wait, or \
         --skip-move-suppression-checks";
    /// A test of health failed.
    Unhealthy = "unhealthy",
        "see the rows above; keelson cluster status and keelson copy status tell more";
    /// Something is not as it should be, and the request said to end then.
    Warning = "warning",
        "see the message; leave --terminate-on-warning out to go on all the same";
    /// The two logs share no position from which shipping could go on.
    Diverged = "diverged",
        "the copy has to be seeded again";
    /// A copy is seeded already.
    SeedInProgress = "seed_in_progress",
        "keelson operation list shows the seed; keelson operation cancel ends it";
    /// A copy is to be seeded that copies and replays.
    NotSuspended = "not_suspended",
        "suspend it first: keelson copy suspend DB@MEMBER --comment WHY";
    /// The copy that a seed is to read from does not fit.
    SourceUnfit = "source_unfit",
        "name another source, or none; keelson copy status shows the copies";
    /// The source of a seed failed or went away, and no other may take its place.
    SeedSourceFailed = "seed_source_failed",
        "see the message; seed the copy again, from another source if this one stays away";
    /// The member of the copy that is seeded cannot write what comes.
    SeedTargetFailed = "seed_target_failed",
        "see the message and the log of the copy's own member; its disk is to be looked after \
         before the copy is seeded again";
    /// There is not enough space for a seed.
    NoSpaceForSeed = "no_space_for_seed",
        "free space on the target's volumes; the old files stay until the new ones are in place";
    /// What goes between members is to be sent without encryption.
    EncryptionRequired = "encryption_required",
        "leave the option out: connections between members are always mutual TLS";
    /// The content index of a database that has none, or of a copy whose index rests, is to be
    /// seeded.
    NoCatalog = "no_catalog",
        "keelson database set DB --content-index true makes one on every copy; seed the copy \
         without --catalog-only";
    /// What was asked for ended because an operator said so.
    Cancelled = "cancelled",
        "what was changed so far is named in the message";
    /// The copy is suspended.
    Suspended = "suspended",
        "keelson copy status shows who suspended it and why; keelson copy resume lets it go on";
    /// The copy failed; see its fault.
    CopyFailed = "copy_failed",
        "keelson copy status -o json shows the fault";
    /// The deadline passed; the outcome is not known.
    DeadlineExceeded = "deadline_exceeded",
        "retry; with a session the write applies once";
    /// Nothing answers at any of the addresses, or what answers is not a Keelson service.
    Unreachable = "unreachable",
        "check that the members run, and the addresses and ports in the client configuration \
         (endpoints are control addresses)";
    /// The connection broke before the answer came; the request may or may not have been carried
    /// out.
    ConnectionLost = "connection_lost",
        "retry; with a session a write applies once";
    /// A certificate was refused by one of the two sides: wrong authority, expired, or not yet
    /// valid.
    BadCertificate = "bad_certificate",
        "check the dates and the authority of both certificates; keelson certs issue makes a \
         new one";
    /// A configuration file is missing or malformed.
    BadConfiguration = "bad_configuration",
        "see the message; keelson config check names every problem";
    /// Input that cannot be read as what it should be; the rest was taken.
    BadInput = "bad_input",
        "mend the lines named above and import them again";
    /// A failure inside the server.
    Internal = "internal",
        "see the member's log; please report it with the log";
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_lead_back_to_their_reason() {
        let codes: BTreeSet<_> = RefusalReason::ALL.iter().map(|r| r.code().0).collect();
        assert_eq!(codes.len(), RefusalReason::ALL.len());
        for reason in RefusalReason::ALL {
            assert_eq!(RefusalReason::from_code(reason.code().0), Some(*reason));
            assert!(!reason.hint().is_empty());
        }
    }
}
