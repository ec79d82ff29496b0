//! What a member tells the cluster of its copies and volumes: one value for the list of events and
//! the log line.

use serde::{Deserialize, Serialize};

use crate::{CopyStatus, FailureTag, VolumeState};

/// Something that an operator cares for. Format version 1: kinds and fields may be added, none
/// change their meaning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// A copy failed, or is well again (F47).
    CopyStatusChanged {
        /// Before; nothing for the first status of a life.
        from: Option<CopyStatus>,
        /// Now.
        to: CopyStatus,
        /// Why.
        reason: String,
        /// The class of its failure, if it failed (F13).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<FailureTag>,
    },
    /// The log of a copy made no progress for long, or does again (F13).
    DiskStalled {
        /// `slow_io` or `hung_io`; what it was when it ends.
        tag: FailureTag,
        /// `began` or `ended`.
        step: String,
        /// For how long, as seen when it was told.
        stalled_millis: u64,
    },
    /// The log of a lagged copy is played down, that waits for a quieter disk, or it ended (F92,
    /// F97), with what it was decided from.
    PlayDownChanged {
        /// `started`, `deferred` or `ended`.
        step: String,
        /// Why log is played down, or should be.
        causes: Vec<String>,
        /// Free space of the copy's volume, if known.
        free_bytes: Option<u64>,
        /// Healthy copies without lag, if known.
        available_copies: Option<u32>,
        /// The copy has damaged ranges.
        range_repair: bool,
        /// Mean latency of recent disk reads, if known.
        read_latency_micros: Option<u64>,
    },
    /// Log went, or is about to go, against the ordinary rules because space is short (F104).
    ExpandedTruncation {
        /// Free space of the volume that holds the log.
        free_bytes: u64,
        /// Log before this goes, as `generation:offset`.
        up_to: String,
        /// Members whose copies will need a seed.
        cut_off: Vec<String>,
    },
    /// Space is short, expanded truncation is on, and its rules let nothing more go.
    ExpandedTruncationStuck {
        /// Free space of the volume that holds the log.
        free_bytes: u64,
        /// Why the copy that is furthest behind may not be cut off.
        reason: String,
    },
    /// A volume fills up: what lies ahead.
    SpaceForecast {
        /// `log` or `data`.
        volume: String,
        /// Free space.
        free_bytes: u64,
        /// When it will be full.
        seconds_to_full: u64,
    },
    /// A volume became so full that nothing but recovery may write to it, or has room again (G7).
    VolumeShortage {
        /// `log` or `data`.
        volume: String,
        /// `began` or `ended`.
        step: String,
        /// Free space; nothing if the volume does not say.
        free_bytes: Option<u64>,
        /// Free space that is kept for recovery.
        reserve_bytes: u64,
    },
    /// A volume of a member with several failed, is missing, or is well again (F131).
    VolumeStateChanged {
        /// Its directory.
        volume: String,
        /// Its state now.
        state: VolumeState,
        /// What was found, for people; empty if it is well.
        why: String,
    },
    /// A copy left a failed volume for a spare one (F131).
    SpareAssigned {
        /// The directory of the volume that failed.
        volume: String,
        /// The directory of the spare.
        spare: String,
        /// Spares that its member has left.
        spares_left: u32,
    },
    /// Somebody asked for a change (the audit).
    Asked {
        /// Name and role in the caller's certificate.
        by: String,
        /// The call.
        call: String,
        /// Its beginning, as text.
        request: String,
        /// `done`, or the code of the refusal.
        outcome: String,
    },
}
