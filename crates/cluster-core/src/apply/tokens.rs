//! Commands about access tokens.

use keelson_types::{NewToken, TokenName};

use super::Applied;
use crate::command::Answer;
use crate::event::EventKind;
use crate::state::ClusterState;

impl ClusterState {
    /// The same token again is no event.
    pub(super) fn issue_token(&mut self, index: u64, new: &NewToken, replace: bool) -> Applied {
        if self.tokens.issue(new, replace, self.clock_unix_ms)? {
            let NewToken { name, role, databases, expires_unix_ms, .. } = new.clone();
            let kind = EventKind::TokenIssued { name, role, databases, expires_unix_ms };
            self.event(index, None, None, kind);
        }
        Ok(Answer::Done)
    }

    pub(super) fn revoke_token(&mut self, index: u64, name: &TokenName) -> Applied {
        let role = self.tokens.revoke(name)?.grant.role;
        self.event(index, None, None, EventKind::TokenRevoked { name: name.clone(), role });
        Ok(Answer::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use keelson_types::{DatabaseName, RefusalReason, TokenDigest, TokenRole};

    use super::*;
    use crate::command::Command;
    use crate::testing::Log;

    fn name(text: &str) -> TokenName {
        TokenName::new(text).unwrap()
    }

    fn token(text: &str, digest: u8) -> NewToken {
        NewToken {
            name: name(text),
            role: TokenRole::Writer,
            databases: BTreeSet::from([DatabaseName::new("DB1").unwrap()]),
            digest: TokenDigest::new([digest; 32]),
            expires_unix_ms: Some(5_000),
        }
    }

    fn at(unix_ms: u64, command: Command) -> Command {
        Command::Stamped { unix_ms, command: Box::new(command) }
    }

    #[test]
    fn issuing_and_revoking_are_events_and_repetitions_are_none() {
        let mut log = Log::default();
        let issue = Command::IssueToken { token: token("a", 1), replace: false };
        log.ok(&at(1_000, issue.clone()));
        log.ok(&at(2_000, issue));
        assert_eq!(log.state.events.len(), 1);
        assert_eq!(log.state.tokens.iter().next().unwrap().created_unix_ms, 1_000);
        let other = Command::IssueToken { token: token("a", 2), replace: false };
        log.refused(RefusalReason::AlreadyExists, &other);
        log.ok(&Command::RevokeToken { name: name("a") });
        assert_eq!(log.state.events.len(), 2);
        assert!(log.state.tokens.is_empty());
        log.refused(RefusalReason::UnknownToken, &Command::RevokeToken { name: name("a") });
    }

    #[test]
    fn time_is_that_of_the_command() {
        let mut log = Log::default();
        log.ok(&at(5_000, Command::EndSuspensions));
        let issue = Command::IssueToken { token: token("a", 1), replace: false };
        log.refused(RefusalReason::BadArgument, &issue);
    }

    #[test]
    fn tokens_survive_a_snapshot_and_states_without_any_are_read() {
        let mut log = Log::default();
        let empty = serde_json::to_string(&log.state).unwrap();
        assert!(!empty.contains("tokens"), "an older version reads it");
        assert_eq!(serde_json::from_str::<ClusterState>(&empty).unwrap(), log.state);
        log.ok(&Command::IssueToken { token: token("a", 1), replace: false });
        let text = serde_json::to_string(&log.state).unwrap();
        assert_eq!(serde_json::from_str::<ClusterState>(&text).unwrap(), log.state);
    }
}
