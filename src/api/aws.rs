//! `spec.provider.aws`: its schema, and what it means.

use std::collections::{BTreeMap, BTreeSet};

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::fields::{SecretRef, is_default};
use super::provider::ProviderSpec;
use crate::inventory::{Access, AccountId, AccountTarget, Credentials, Member, Members, Region, SecretKeys};

// `cloud::aws` reads an access by these names; e2e tests go from one to the other.
const NAME: &str = "aws";
const EXTERNAL_ID: &str = "externalID";
const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
/// A session token has about a thousand characters.
const SECRET_KEY_MAX_BYTES: usize = 16 << 10;

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.accounts) || self.accounts.filter(a, !has(a.roleARN)).size() <= 1").message("only one account can do without a roleARN: credentials by themselves answer for one account").field_path(".accounts"))]
#[x_kube(validation = Rule::new("!has(self.organization) || !has(self.accounts)").message("name the accounts, or the organization that they are listed from: not both"))]
pub struct AwsProvider {
    /// accounts are the accounts to scan. Absent means the one account that the credentials belong to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub accounts: Vec<AwsAccount>,

    /// organization scans the accounts of an AWS organization: those that join are scanned from the next account
    /// listing on, those that leave are no longer watched. Absent means the named accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<AwsOrganization>,

    /// regions selects the regions to scan. Absent means every region that is enabled in the account. What AWS
    /// lists account-wide (buckets) is always scanned.
    #[serde(default, skip_serializing_if = "is_default")]
    #[x_kube(validation = Rule::new("!has(self.include) || !has(self.exclude) || !self.include.exists(r, r in self.exclude)").message("a region can't be both in include and in exclude"))]
    pub regions: RegionSelection,

    /// endpointURL replaces AWS's own endpoints, for emulators and private gateways. The operator rejects URLs
    /// that its administrator has not allowed (`--allow-endpoint`, the chart's allowedEndpoints). Absent means
    /// AWS.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "endpointURL")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?$')").message("endpointURL is a URL without a path, such as https://aws.example.com or http://127.0.0.1:5000"))]
    pub endpoint_url: Option<String>,

    /// credentialsSecretRef names a Secret in the CloudScan's own namespace with the keys AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY and, optionally, AWS_SESSION_TOKEN. Absent means the operator's own credentials:
    /// IRSA, Pod Identity, the instance's role, environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.externalID) || has(self.roleARN)").message("externalID is only used to assume a role: set roleARN too"))]
#[x_kube(validation = Rule::new("!has(self.roleARN) || !self.roleARN.matches('^arn:aws[a-z-]*:iam::[0-9]{12}:role/') || self.roleARN.split(':')[4] == self.id").message("roleARN is a role of another account than id: name a role in the account that is scanned"))]
pub struct AwsAccount {
    /// id is the account number: twelve digits, in quotes. Required.
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("an account id is twelve digits, such as \"111122223333\""))]
    pub id: String,

    /// roleARN is the role to assume in the account. Absent means that the credentials themselves must belong to
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "roleARN")]
    #[schemars(length(max = 640))]
    #[x_kube(validation = Rule::new(ROLE).message("roleARN is the ARN of an IAM role, such as arn:aws:iam::111122223333:role/elava"))]
    pub role_arn: Option<String>,

    /// externalID is sent when the role is assumed. Absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "externalID")]
    #[schemars(length(max = 1224))]
    #[x_kube(validation = Rule::new(EXTERNAL_IDS).message(EXTERNAL_IDS_MESSAGE))]
    pub external_id: Option<String>,
}

/// The credentials, or the listRoleARN that they assume, must belong to the management account or to a
/// delegated administrator of the organization.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsOrganization {
    /// roleName is the role to assume in each account, with its path if it has one: `elava`, or `audit/elava`.
    /// Required.
    #[schemars(length(min = 1, max = 576))]
    #[x_kube(validation = Rule::new("self.matches('^([A-Za-z0-9+=,.@_-]+/)*[A-Za-z0-9+=,.@_-]+$')").message("roleName is the name of an IAM role, such as elava; not its ARN"))]
    pub role_name: String,

    /// externalID is sent when the role of an account is assumed. Absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "externalID")]
    #[schemars(length(max = 1224))]
    #[x_kube(validation = Rule::new(EXTERNAL_IDS).message(EXTERNAL_IDS_MESSAGE))]
    pub external_id: Option<String>,

    /// listRoleARN is the role to list the accounts with. Absent means the credentials themselves.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "listRoleARN")]
    #[schemars(length(max = 640))]
    #[x_kube(validation = Rule::new(ROLE).message("listRoleARN is the ARN of an IAM role, such as arn:aws:iam::111122223333:role/elava-list"))]
    pub list_role_arn: Option<String>,

    /// units are the organizational units (or the root) whose accounts are scanned, with all units below. Absent
    /// means the whole organization.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 68)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new("self.all(u, u.matches('^(r-[0-9a-z]{4,32}|ou-[0-9a-z]{4,32}-[0-9a-z]{8,32})$'))").message("a unit is written as AWS does, such as ou-ab12-cdef3456, or r-ab12 for the root"))]
    pub units: Vec<String>,

    /// excludeAccounts are accounts to skip: twelve digits each, in quotes. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), inner(length(max = 12)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new("self.all(a, a.matches('^[0-9]{12}$'))").message("an account id is twelve digits, such as \"111122223333\""))]
    pub exclude_accounts: Vec<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RegionSelection {
    /// include lists the only regions to scan. Absent means all enabled regions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(REGIONS).message(REGIONS_MESSAGE))]
    pub include: Vec<String>,

    /// exclude lists regions to skip. Absent means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = Rule::new(REGIONS).message(REGIONS_MESSAGE))]
    pub exclude: Vec<String>,
}

const ROLE: &str = "self.matches('^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$')";
const EXTERNAL_IDS: &str = "self.size() >= 2 && self.matches('^[A-Za-z0-9+=,.@:/_-]+$')";
const EXTERNAL_IDS_MESSAGE: &str = "an external id has 2 to 1224 letters, digits or characters of +=,.@:/_-";
const REGIONS: &str = "self.all(r, r.matches('^[a-z]+(-[a-z]+)+-[0-9]+$'))";
const REGIONS_MESSAGE: &str = "a region is written as AWS does, such as eu-west-1 (no zone letter, no wildcard)";

impl AwsProvider {
    /// The account that the credentials belong to. `default_endpoint` is used if the spec names no endpoint.
    fn own_target(&self, credentials: &Credentials, default_endpoint: &str) -> AccountTarget {
        let regions = |names: &[String]| names.iter().map(|name| Region::new(name.as_str())).collect::<Vec<_>>();
        let endpoint = self.endpoint_url.as_deref().unwrap_or(default_endpoint).trim_end_matches('/');
        AccountTarget {
            provider: NAME.into(),
            account: None,
            endpoint: endpoint.into(),
            include_regions: regions(&self.regions.include),
            exclude_regions: regions(&self.regions.exclude),
            access: Access::new(credentials.clone()),
        }
    }
}

impl ProviderSpec for AwsProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> Option<(&'static str, &str)> {
        Some(("endpointURL", self.endpoint_url.as_deref()?))
    }

    fn secret(&self) -> Option<&str> {
        self.credentials_secret_ref.as_ref().map(|reference| reference.name.as_str())
    }

    fn secret_keys(&self) -> &'static [&'static str] {
        &[ACCESS_KEY_ID, SECRET_ACCESS_KEY]
    }

    fn credentials(&self, name: &str, secret: &BTreeMap<String, Vec<u8>>) -> Result<SecretKeys, String> {
        let value = |key: &str| {
            // `echo | base64` leaves a trailing newline, for which AWS returns a misleading error.
            let text = std::str::from_utf8(secret.get(key)?).ok()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        // They become parts of headers, which must be text: AWS keys consist of letters, digits and +/=.
        let is_key = |value: &String| {
            value.len() <= SECRET_KEY_MAX_BYTES && value.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let mut keys = Vec::new();
        for key in [ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN] {
            match value(key) {
                Some(value) if is_key(&value) => keys.push((key, value)),
                Some(_) => {
                    return Err(format!(
                        "the key {key} of the Secret {name} holds what no key of AWS's holds, such as a space or a \
                         line break, or is longer than {SECRET_KEY_MAX_BYTES} characters: copy it again"
                    ));
                }
                None => {}
            }
        }
        let missing = self.secret_keys().iter().find(|key| keys.iter().all(|(present, _)| present != *key));
        match missing {
            Some(missing) => Err(format!("the Secret {name} has no key {missing}")),
            None => Ok(keys.into_iter().collect()),
        }
    }

    fn identities(&self) -> Vec<Option<String>> {
        if self.credentials_secret_ref.is_some() {
            return Vec::new();
        }
        match &self.organization {
            Some(organization) => {
                let member = format!("arn:aws:iam::*:role/{}", organization.role_name);
                vec![organization.list_role_arn.clone(), Some(member)]
            }
            None if self.accounts.is_empty() => vec![None],
            None => self.accounts.iter().map(|account| account.role_arn.clone()).collect(),
        }
    }

    fn units(&self) -> Option<&[String]> {
        self.organization.as_ref().map(|organization| organization.units.as_slice())
    }

    fn lister(&self, credentials: &Credentials, default_endpoint: &str) -> AccountTarget {
        let mut own = self.own_target(credentials, default_endpoint);
        own.access.identity = self.organization.as_ref().and_then(|one| one.list_role_arn.clone());
        own
    }

    fn chosen<'a>(&self, members: &'a Members) -> Vec<&'a Member> {
        let excluded = self.organization.iter().flat_map(|organization| &organization.exclude_accounts);
        let excluded: BTreeSet<&str> = excluded.map(String::as_str).collect();
        members.list.iter().filter(|member| !excluded.contains(member.account.as_str())).collect()
    }

    fn targets(
        &self,
        credentials: &Credentials,
        default_endpoint: &str,
        members: Option<&Members>,
    ) -> Vec<AccountTarget> {
        let own = self.own_target(credentials, default_endpoint);
        let target = |account: AccountId, role_arn: Option<String>, external_id: &Option<String>| {
            let external_id = external_id.iter().map(|id| (EXTERNAL_ID.to_owned(), id.clone()));
            let access =
                Access { credentials: credentials.clone(), identity: role_arn, parameters: external_id.collect() };
            AccountTarget { account: Some(account), access, ..own.clone() }
        };
        match (&self.organization, members) {
            (Some(organization), Some(members)) => {
                let member = |member: &Member| {
                    let (partition, account) = (&members.partition, &member.account);
                    let role = format!("arn:{partition}:iam::{account}:role/{}", organization.role_name);
                    target(account.clone(), Some(role), &organization.external_id)
                };
                self.chosen(members).into_iter().map(member).collect()
            }
            (Some(_), None) => Vec::new(),
            (None, _) if self.accounts.is_empty() => vec![own],
            (None, _) => {
                let named = |account: &AwsAccount| {
                    target(AccountId::new(account.id.as_str()), account.role_arn.clone(), &account.external_id)
                };
                self.accounts.iter().map(named).collect()
            }
        }
    }

    fn named_accounts(&self) -> usize {
        self.accounts.len().max(1)
    }
}

/// An ARN, or the beginning of one.
pub(super) fn is_role(text: &str) -> bool {
    text.starts_with("arn:")
}

/// Removes the partition: credentials are valid in one partition only, and a role of an organization names none.
fn without_partition(role: &str) -> String {
    match role.split_once(":iam::") {
        Some((partition, rest)) if partition.starts_with("arn:") => format!("arn:iam::{rest}"),
        _ => role.to_owned(),
    }
}

/// `role` is an ARN, or an ARN with `*` in place of the account (the role in each account of an organization).
pub(super) fn is_role_granted(allowed: &str, role: &str) -> bool {
    let (allowed, role) = (&without_partition(allowed), &without_partition(role));
    let begins = |allowed: &str, role: &str| match allowed.strip_suffix('*') {
        Some(beginning) => role.starts_with(beginning),
        None => role == allowed,
    };
    // Any account: compares what precedes and what follows the account.
    if let Some((partition, name)) = allowed.split_once(":iam::*:")
        && let Some((of, rest)) = role.split_once(":iam::")
        && let Some((account, named)) = rest.split_once(':')
    {
        let is_account = account == "*" || account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        return partition == of && is_account && begins(name, named);
    }
    begins(allowed, role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_at_the_end_of_a_key_is_no_part_of_it_and_a_missing_key_is_named() {
        let with = |pairs: &[(&str, &str)]| {
            let secret = pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
            AwsProvider::default().credentials("team-a/keys", &secret)
        };
        let good = with(&[(ACCESS_KEY_ID, "id\n"), (SECRET_ACCESS_KEY, "key")]).unwrap();
        assert_eq!((good.get(ACCESS_KEY_ID), good.get(SESSION_TOKEN)), (Some("id"), None));
        let why = with(&[(ACCESS_KEY_ID, "id"), (SECRET_ACCESS_KEY, " ")]).err().unwrap();
        assert_eq!(why, "the Secret team-a/keys has no key AWS_SECRET_ACCESS_KEY");
        // The SDK panics on some of these.
        let long = "x".repeat(SECRET_KEY_MAX_BYTES + 1);
        for bad in ["AKIA\nGOOD", "AKIA\0GOOD", "AKIA\u{7f}GOOD", "AKIA GOOD", "AKI\u{c4}", &long] {
            for key in [ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN] {
                let mut pairs = vec![(ACCESS_KEY_ID, "id"), (SECRET_ACCESS_KEY, "key")];
                pairs.retain(|(name, _)| *name != key);
                pairs.push((key, bad));
                let why = with(&pairs).err().unwrap_or_else(|| panic!("{key} {bad:?}"));
                assert!(why.contains(key) && !why.contains("AKI"), "{why}");
            }
        }
    }
}
