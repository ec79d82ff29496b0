//! Deliberate weakenings, by which the simulator proves that each rule is needed.

/// One protocol rule switched off. Production constructs every core with [`Weakness::None`]; the
/// simulator replays each history of the protocol review once with its rule off, where the checkers
/// must turn red, and once with all rules on, where they must stay green.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Weakness {
    /// All rules hold.
    #[default]
    None,
    /// H1: a rule change takes effect at once instead of old AND new until recorded (R1).
    RuleChangeAtOnce,
    /// H2: the proof looks at the newest rule only, not at all since the last established epoch
    /// (R2).
    ProofWithNewestRuleOnly,
    /// H3: log ends compare by position, without the epoch (R3).
    EndsByPosition,
    /// H4: a wiped copy counts as reached under its old identity (R4).
    ForgetfulCopyCounts,
    /// H5: a seal reports before the sync in flight is over (S5).
    SealBeforeSync,
    /// H6: a leader renews leases without a recent quorum (R7).
    RenewWithoutQuorum,
    /// H7: a second attempt reuses the epoch of the first (R5).
    AttemptsShareEpoch,
    /// H8: a restarted active goes on in its epoch (R5).
    ResumeAfterRestart,
    /// H9: a copy is admitted before it holds all that was acknowledged (R1).
    AdmitBeforeCaughtUp,
    /// H10: fetched keys are trusted as soon as they are there, before replay has reached Q (S14).
    TrustBeforeQ,
    /// H10: what was fetched before an epoch change counts after it (S14).
    KeepFetchedAcrossEpochs,
    /// H12: a lease that runs out gives the epoch up instead of holding (R8).
    ExpiryDismounts,
    /// H14: a new incarnation ends the old one's lease at once (S9.3).
    NewIncarnationEndsLease,
}
