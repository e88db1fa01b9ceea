//! The accounts of an organization.
//!
//! Only the management account and delegated administrators may list them, wherever the organization's endpoint is:
//! <https://docs.aws.amazon.com/organizations/latest/APIReference/API_ListAccounts.html>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Regional;
use super::declare::{call, text};
use super::error::Failure;
use crate::cloud::Member;
use crate::inventory::AccountId;

/// The maximum number of accounts that one call lists.
const PAGE_SIZE: i64 = 20;

/// All accounts, or those under some units and the units below.
pub(super) async fn members(regional: &Regional, units: &[String]) -> Result<Vec<Member>, Failure> {
    let list = |operation| call("organizations", operation).paged("NextToken", "MaxResults", PAGE_SIZE);
    let mut members = BTreeMap::new();
    if units.is_empty() {
        let all = regional.send_all(&list("ListAccounts"), json!({}), &["Accounts"], "NextToken").await?;
        take(&all, &mut members);
    }
    let mut ahead: Vec<String> = units.to_vec();
    let mut seen = BTreeSet::new();
    while let Some(unit) = ahead.pop() {
        if !seen.insert(unit.clone()) {
            continue;
        }
        let of_it = json!({ "ParentId": unit });
        let accounts = list("ListAccountsForParent");
        take(&regional.send_all(&accounts, of_it.clone(), &["Accounts"], "NextToken").await?, &mut members);
        let units = list("ListOrganizationalUnitsForParent");
        let below = regional.send_all(&units, of_it, &["OrganizationalUnits"], "NextToken").await?;
        ahead.extend(below.iter().map(|unit| text(unit, "Id").to_owned()));
    }
    Ok(members.into_iter().map(|(account, is_active)| Member { account, is_active }).collect())
}

fn take(accounts: &[Value], members: &mut BTreeMap<AccountId, bool>) {
    for account in accounts {
        // `Status` is less precise, and is retired since September 2026.
        let state = [text(account, "State"), text(account, "Status")];
        let state = state.into_iter().find(|state| !state.is_empty()).unwrap_or_default();
        members.insert(AccountId::new(text(account, "Id")), state == "ACTIVE");
    }
}
