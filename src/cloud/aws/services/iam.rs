//! IAM: roles, users and their access keys.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{
    ById, Declaration, ListRequest, TagSource, described, list, next_page, query, send, tags_in, text,
};
use crate::cloud::aws::error::Failure;
use crate::inventory::Tags;

/// The maximum that its listings take.
const PAGE_SIZE: i32 = 1000;

const IAM: Declaration =
    Declaration { next_page: "Marker", global: true, cadence: CadenceClass::Slow, ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::IAM::Role",
        actions: &["iam:ListRoles", "iam:GetRole", "iam:ListRoleTags"],
        fetch: list!(iam "iam" "ListRoles": list_roles; page set_marker, max_items(PAGE_SIZE)),
        items: &["Roles"],
        describe: Some(|regional, role| {
            Box::pin(async move {
                if role.get("RoleId").is_none() {
                    let request = regional.iam().get_role().role_name(text(role, "RoleName"));
                    *role = described(send!(regional, "iam" "GetRole", request)?, "Role")?;
                }
                if role.get("AssumeRolePolicyDocument").is_some() {
                    role["AssumeRolePolicyDocument"] = policy(text(role, "AssumeRolePolicyDocument"));
                }
                Ok(())
            })
        }),
        by_id: ById::Describe(|name| json!({ "RoleName": name })),
        id: "RoleName",
        not_found: &["NoSuchEntity"],
        tags: TagSource::Call(|regional, role| {
            Box::pin(async move {
                // AWS creates these by itself, and they can't be tagged:
                // https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags.html
                if ["/aws-service-role/", "/aws-reserved/"].iter().any(|path| text(role, "Path").starts_with(path))
                {
                    return Ok(Tags::Untaggable);
                }
                let request =
                    regional.iam().list_role_tags().role_name(text(role, "RoleName")).max_items(PAGE_SIZE);
                Ok(tags_in(&send!(regional, "iam" "ListRoleTags", request)?, "Tags"))
            })
        }),
        birth: Some("CreateDate"),
        reusable_ids: true,
        // GetRole returns them, the listing does not.
        volatile: &["RoleLastUsed", "PermissionsBoundary", "Tags"],
        ..IAM
    },
    Declaration {
        name: "AWS::IAM::User",
        actions: &["iam:ListUsers", "iam:GetUser", "iam:ListUserTags"],
        fetch: list!(iam "iam" "ListUsers": list_users; page set_marker, max_items(PAGE_SIZE)),
        items: &["Users"],
        describe: Some(|regional, user| {
            Box::pin(async move {
                if user.get("UserId").is_none() {
                    let request = regional.iam().get_user().user_name(text(user, "UserName"));
                    *user = described(send!(regional, "iam" "GetUser", request)?, "User")?;
                }
                Ok(())
            })
        }),
        by_id: ById::Describe(|name| json!({ "UserName": name })),
        id: "UserName",
        not_found: &["NoSuchEntity"],
        tags: TagSource::Call(|regional, user| {
            Box::pin(async move {
                let request =
                    regional.iam().list_user_tags().user_name(text(user, "UserName")).max_items(PAGE_SIZE);
                Ok(tags_in(&send!(regional, "iam" "ListUserTags", request)?, "Tags"))
            })
        }),
        birth: Some("CreateDate"),
        reusable_ids: true,
        volatile: &["PasswordLastUsed", "PermissionsBoundary", "Tags"],
        ..IAM
    },
    Declaration {
        name: "AWS::IAM::AccessKey",
        actions: &["iam:ListUsers", "iam:ListAccessKeys"],
        within: Some(users),
        fetch: |regional, which| {
            Box::pin(async move {
                let ListRequest::Page { within, token } = which else { unreachable!("sweeps confirm it") };
                let request = regional.iam().list_access_keys().set_user_name(within).max_items(PAGE_SIZE);
                query!(regional, "iam" "ListAccessKeys", request.set_marker(token)).map(Into::into)
            })
        },
        items: &["AccessKeyMetadata"],
        // It is listed only with its user, and not readable by id.
        by_id: ById::Sweeps,
        id: "AccessKeyId",
        tags: TagSource::Untaggable,
        birth: Some("CreateDate"),
        ..IAM
    },
];

/// IAM returns a policy as percent-encoded text; the AWS CLI prints it as an object.
fn policy(text: &str) -> Value {
    if let Ok(policy) = serde_json::from_str(text) {
        return policy;
    }
    let decoded: Vec<(String, String)> = serde_urlencoded::from_str(&format!("policy={text}")).unwrap_or_default();
    let decoded = decoded.into_iter().next().map(|(_, decoded)| decoded);
    decoded.and_then(|decoded| serde_json::from_str(&decoded).ok()).unwrap_or_else(|| text.into())
}

fn users(regional: &Regional) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
    Box::pin(async move {
        let mut users = Vec::new();
        let mut marker = None;
        loop {
            let request = regional.iam().list_users().set_marker(marker).max_items(PAGE_SIZE);
            let answer = send!(regional, "iam" "ListUsers", request)?;
            users.extend(answer["Users"].as_array().into_iter().flatten().map(|u| text(u, "UserName").to_owned()));
            marker = next_page(&answer, "Marker");
            if marker.is_none() {
                return Ok(users);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_the_object_that_it_is() {
        let object = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow"}]});
        assert_eq!(policy(&object.to_string()), object);
        let encoded =
            "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%20%22Allow%22%7D%5D%7D";
        assert_eq!(policy(encoded), object);
        assert_eq!(policy("no policy"), "no policy");
    }
}
