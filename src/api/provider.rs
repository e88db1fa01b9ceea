//! What the controller needs to know of the provider that a CloudScan names: each provider validates, reads its Secret
//! and builds its targets by itself.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::inventory::{AccountTarget, Credentials, Member, Members, SecretKeys};

/// What the provider's part of a spec means.
pub trait ProviderSpec: Debug + Send + Sync {
    /// The name of the provider, and of its field in `spec.provider`.
    fn name(&self) -> &'static str;
    /// The endpoint in place of the provider's own, with the name of its field.
    fn endpoint(&self) -> Option<(&'static str, &str)>;
    /// The Secret with its credentials; none for the operator's own.
    fn secret(&self) -> Option<&str>;
    /// The keys that the Secret must have.
    fn secret_keys(&self) -> &'static [&'static str];
    /// Reads the credentials from the Secret `name`, or states what is wrong with it.
    fn credentials(&self, name: &str, secret: &BTreeMap<String, Vec<u8>>) -> Result<SecretKeys, String>;
    /// The identities that the operator would assume with its own credentials, `None` for these as they are; empty if
    /// the CloudScan has its own. An identity in each account of an organization has `*` in place of the account.
    fn identities(&self) -> Vec<Option<String>>;
    /// The units of the organization whose accounts are scanned; `None` if the accounts are named.
    fn units(&self) -> Option<&[String]>;
    /// Where the accounts of the organization are listed.
    fn lister(&self, credentials: &Credentials, default_endpoint: &str) -> AccountTarget;
    /// The members of the organization that are not excluded.
    fn chosen<'a>(&self, members: &'a Members) -> Vec<&'a Member>;
    /// The accounts to scan. `members` are those of the organization, if the spec names one.
    fn targets(
        &self,
        credentials: &Credentials,
        default_endpoint: &str,
        members: Option<&Members>,
    ) -> Vec<AccountTarget>;
    /// The number of accounts that the author chose; those of an organization do not count.
    fn named_accounts(&self) -> usize;
}
