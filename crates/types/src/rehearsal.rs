//! How far a rehearsal of a switchover is: told by the member of the target, shown by the leader.

/// How far a rehearsal is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RehearsalStep {
    /// The checks passed; the target is asked.
    Asking,
    /// The target makes a checkpoint of its store and replays the rest of its log into it.
    Forking,
    /// It opens the fork and reads from it.
    Reading,
    /// It drops the fork.
    Dropping,
}

impl RehearsalStep {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Asking, Self::Forking, Self::Reading, Self::Dropping];

    /// Its name, for people and between members.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asking => "asking the target",
            Self::Forking => "opening a fork",
            Self::Reading => "reading from the fork",
            Self::Dropping => "dropping the fork",
        }
    }

    /// The step of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    /// About how much of a rehearsal is done when the step begins, in percent.
    #[must_use]
    pub const fn percent(self) -> u8 {
        match self {
            Self::Asking => 0,
            Self::Forking => 10,
            Self::Reading => 60,
            Self::Dropping => 90,
        }
    }

    /// The step that is under way at so many percent.
    #[must_use]
    pub fn at(percent: u8) -> Self {
        let mut latest_first = Self::ALL.into_iter().rev();
        latest_first.find(|step| step.percent() <= percent).unwrap_or(Self::Asking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_known_by_its_name_and_its_share() {
        assert!(RehearsalStep::ALL.is_sorted_by_key(|step| step.percent()));
        for step in RehearsalStep::ALL {
            assert_eq!(RehearsalStep::named(step.name()), Some(step));
            assert_eq!(RehearsalStep::at(step.percent()), step);
            assert_eq!(RehearsalStep::at(step.percent() + 1), step);
        }
        assert_eq!(RehearsalStep::named(""), None);
        assert_eq!(RehearsalStep::at(100), RehearsalStep::Dropping);
    }
}
