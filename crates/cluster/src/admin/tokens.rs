//! Access tokens: issued, listed, revoked. Secrets never come here; digests never leave.

use std::collections::BTreeSet;
use std::sync::Arc;

use keelson_cluster_core::Command;
use keelson_types::{AccessToken, NewToken, Refused, TokenDigest, TokenRole, token_name};
use keelson_wire::Refusal;
use keelson_wire::v1::{
    IssueTokenRequest, IssueTokenResponse, ListTokensRequest, ListTokensResponse,
    RevokeTokenRequest, RevokeTokenResponse, TokenRow,
};

use super::database_name;
use crate::clock;
use crate::context::Context;

fn refused(refused: Refused) -> Refusal {
    Refusal::new(refused.reason, refused.message)
}

fn grant(request: &IssueTokenRequest) -> Result<NewToken, Refusal> {
    let no_digest = || Refused::bad_argument("the digest of a secret has 32 bytes");
    let databases = request.databases.iter().map(|name| database_name(name));
    Ok(NewToken {
        name: token_name(&request.name).map_err(refused)?,
        role: request.role.parse::<TokenRole>().map_err(refused)?,
        databases: databases.collect::<Result<BTreeSet<_>, _>>()?,
        digest: TokenDigest::from_slice(&request.digest).ok_or_else(no_digest).map_err(refused)?,
        expires_unix_ms: Some(request.expires_unix_millis).filter(|end| *end > 0),
    })
}

fn row(token: &AccessToken, now: u64) -> TokenRow {
    TokenRow {
        name: token.grant.name.to_string(),
        role: token.grant.role.to_string(),
        databases: token.grant.databases.iter().map(ToString::to_string).collect(),
        created_unix_millis: token.created_unix_ms,
        changed_unix_millis: token.changed_unix_ms,
        expires_unix_millis: token.grant.expires_unix_ms.unwrap_or(0),
        expired: token.is_expired(now),
    }
}

impl Context {
    /// A database that does not exist yet may be named: it may be about to be created.
    pub(super) async fn admin_issue_token(
        self: &Arc<Self>,
        request: IssueTokenRequest,
    ) -> Result<IssueTokenResponse, Refusal> {
        self.require_leader()?;
        let token = grant(&request)?;
        let command = Command::IssueToken { token, replace: request.replace };
        if request.what_if {
            self.rehearse(command)?;
            return Ok(IssueTokenResponse::default());
        }
        Ok(IssueTokenResponse { silent_members: self.decide_token(command).await? })
    }

    pub(super) async fn admin_list_tokens(
        self: &Arc<Self>,
        _: ListTokensRequest,
    ) -> Result<ListTokensResponse, Refusal> {
        self.cluster()?;
        let now = clock::unix_millis();
        let tokens =
            self.applied.read(|state| state.tokens.iter().map(|token| row(token, now)).collect());
        Ok(ListTokensResponse { tokens })
    }

    pub(super) async fn admin_revoke_token(
        self: &Arc<Self>,
        request: RevokeTokenRequest,
    ) -> Result<RevokeTokenResponse, Refusal> {
        self.require_leader()?;
        let command = Command::RevokeToken { name: token_name(&request.name).map_err(refused)? };
        if request.what_if {
            self.rehearse(command)?;
            return Ok(RevokeTokenResponse::default());
        }
        Ok(RevokeTokenResponse { silent_members: self.decide_token(command).await? })
    }

    /// Records it; answers with the members that do not confirm that they act on it now.
    async fn decide_token(self: &Arc<Self>, command: Command) -> Result<Vec<String>, Refusal> {
        let (index, _) = self.propose_here(command).await?.answer()?;
        Ok(self.not_told(index).await)
    }
}
