//! The controller's calls about scopes.

use sarit_proto::controller::{self as api, create_scope_status, delete_scope_status};
use sarit_proto::names::ScopeName;

use super::{Controller, Listing, failed, token};
use crate::Error;

impl Controller {
    /// Creates a scope. Returns whether it is new.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and those of [`Error`].
    pub async fn create_scope(&self, scope: &ScopeName) -> Result<bool, Error> {
        use create_scope_status::Status;
        let what = "createScope";
        let request = api::ScopeInfo::from(scope);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.create_scope(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(true),
            Status::ScopeExists => Ok(false),
            Status::InvalidScopeName => Err(Error::InvalidName(scope.to_string())),
            Status::Failure => Err(failed(what)),
        }
    }

    /// Deletes an empty scope. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::ScopeNotEmpty`], and those of [`Error`].
    pub async fn delete_scope(&self, scope: &ScopeName) -> Result<bool, Error> {
        use delete_scope_status::Status;
        let what = "deleteScope";
        let request = api::ScopeInfo::from(scope);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.delete_scope(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(true),
            Status::ScopeNotFound => Ok(false),
            Status::ScopeNotEmpty => Err(Error::ScopeNotEmpty(scope.to_string())),
            Status::Failure => Err(failed(what)),
        }
    }

    /// Deletes a scope with all that is in it: streams, reader groups, key-value tables. While this goes on,
    /// nothing new can be created in it. It goes on also if this fails; calling it again waits for it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it takes longer than calls are repeated; those of [`Error`].
    pub async fn delete_scope_recursive(&self, scope: &ScopeName) -> Result<(), Error> {
        use delete_scope_status::Status;
        let what = "deleteScopeRecursive";
        let request = api::ScopeInfo::from(scope);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.delete_scope_recursive(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success | Status::ScopeNotFound => Ok(()),
            Status::ScopeNotEmpty => Err(Error::ScopeNotEmpty(scope.to_string())),
            Status::Failure => Err(failed(what)),
        }
    }

    /// Returns whether a scope is there.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn scope_exists(&self, scope: &ScopeName) -> Result<bool, Error> {
        let request = api::ScopeInfo::from(scope);
        let reply = self.ask("checkScopeExists", move |mut api| {
            let request = request.clone();
            async move { api.check_scope_exists(request).await }
        });
        Ok(reply.await?.exists)
    }

    /// Lists scopes, a page at a time, from the page that `from` names; empty for the first.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn list_scopes(&self, from: &str) -> Result<Listing<String>, Error> {
        let request = api::ScopesRequest {
            continuation_token: Some(token(from)),
        };
        let reply = self
            .ask("listScopes", move |mut api| {
                let request = request.clone();
                async move { api.list_scopes(request).await }
            })
            .await?;
        Ok(Listing {
            names: reply.scopes,
            next: reply.continuation_token.unwrap_or_default().token,
        })
    }
}
