//! Access tokens: issued, listed, revoked.

use keelson_net::AccessSecret;
use keelson_types::TokenRole;
use keelson_wire::v1;

use super::{Admin, Kind};
use crate::ClientError;
use crate::database::timed;

/// A token to be issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRequest {
    /// Unique in the cluster; the audit knows its holder by it.
    pub name: String,
    /// What its holder may do.
    pub role: TokenRole,
    /// Databases that a reader or writer may use; all if there is none.
    pub databases: Vec<String>,
    /// When it ends, in Unix milliseconds; nothing for never.
    pub expires_unix_millis: Option<u64>,
    /// A token of that name gets the new secret and rights.
    pub replace: bool,
    /// Only says whether it would be refused.
    pub what_if: bool,
}

impl Admin {
    /// Issues a token. The secret is drawn here and stays here: the cluster gets its digest. The
    /// answer names members that did not confirm that they know the token.
    ///
    /// # Errors
    /// `already_exists`, `bad_name`, `bad_argument`.
    pub async fn issue_token(
        &self,
        request: TokenRequest,
    ) -> Result<(AccessSecret, Vec<String>), ClientError> {
        let secret = AccessSecret::generate()
            .map_err(|refused| ClientError::new(refused.reason, refused.message))?;
        let message = v1::IssueTokenRequest {
            name: request.name,
            role: request.role.to_string(),
            databases: request.databases,
            expires_unix_millis: request.expires_unix_millis.unwrap_or(0),
            digest: secret.digest().as_bytes().to_vec().into(),
            replace: request.replace,
            what_if: request.what_if,
        };
        let answer = ask!(self, Kind::Change, issue_token, message)?;
        Ok((secret, answer.silent_members))
    }

    /// All tokens, without their secrets.
    ///
    /// # Errors
    /// No member answers.
    pub async fn list_tokens(&self) -> Result<Vec<v1::TokenRow>, ClientError> {
        Ok(ask!(self, Kind::Question, list_tokens, v1::ListTokensRequest {})?.tokens)
    }

    /// Revokes a token; the answer names members that did not confirm that they take it no more.
    ///
    /// # Errors
    /// `unknown_token`.
    pub async fn revoke_token(
        &self,
        name: &str,
        what_if: bool,
    ) -> Result<Vec<String>, ClientError> {
        let message = v1::RevokeTokenRequest { name: name.into(), what_if };
        Ok(ask!(self, Kind::Change, revoke_token, message)?.silent_members)
    }
}
