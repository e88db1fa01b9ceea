//! The accounts of an organization.
//!
//! Only the management account and delegated administrators may list them, wherever the organization's endpoint is:
//! <https://docs.aws.amazon.com/organizations/latest/APIReference/API_ListAccounts.html>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Regional;
use super::declare::{next_page, send, text};
use super::error::Failure;
use crate::cloud::Member;
use crate::inventory::AccountId;

/// The maximum number of accounts that one call lists.
const PAGE_SIZE: i32 = 20;

/// All accounts, or those under some units and the units below.
pub(super) async fn members(regional: &Regional, units: &[String]) -> Result<Vec<Member>, Failure> {
    let mut members = BTreeMap::new();
    if units.is_empty() {
        let mut token = None;
        loop {
            let request = regional.organizations().list_accounts().max_results(PAGE_SIZE);
            let answer = send!(regional, "organizations" "ListAccounts", request.set_next_token(token))?;
            take(&answer, &mut members);
            token = next_page(&answer, "NextToken");
            if token.is_none() {
                break;
            }
        }
    }
    let mut ahead: Vec<String> = units.to_vec();
    let mut seen = BTreeSet::new();
    while let Some(unit) = ahead.pop() {
        if !seen.insert(unit.clone()) {
            continue;
        }
        let mut token = None;
        loop {
            let request =
                regional.organizations().list_accounts_for_parent().parent_id(&unit).max_results(PAGE_SIZE);
            let answer = send!(regional, "organizations" "ListAccountsForParent", request.set_next_token(token))?;
            take(&answer, &mut members);
            token = next_page(&answer, "NextToken");
            if token.is_none() {
                break;
            }
        }
        let mut token = None;
        loop {
            let request = regional.organizations().list_organizational_units_for_parent().parent_id(&unit);
            let request = request.max_results(PAGE_SIZE).set_next_token(token);
            let answer = send!(regional, "organizations" "ListOrganizationalUnitsForParent", request)?;
            let below = answer["OrganizationalUnits"].as_array().into_iter().flatten();
            ahead.extend(below.map(|unit| text(unit, "Id").to_owned()));
            token = next_page(&answer, "NextToken");
            if token.is_none() {
                break;
            }
        }
    }
    Ok(members.into_iter().map(|(account, is_active)| Member { account, is_active }).collect())
}

fn take(answer: &Value, members: &mut BTreeMap<AccountId, bool>) {
    for account in answer["Accounts"].as_array().into_iter().flatten() {
        // `Status` is less precise, and is retired since September 2026.
        let state = [text(account, "State"), text(account, "Status")];
        let state = state.into_iter().find(|state| !state.is_empty()).unwrap_or_default();
        members.insert(AccountId::new(text(account, "Id")), state == "ACTIVE");
    }
}
