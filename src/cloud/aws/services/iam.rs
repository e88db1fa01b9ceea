//! IAM: roles, users and their access keys.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::cloud::CadenceClass;
use crate::cloud::aws::Regional;
use crate::cloud::aws::declare::{ById, Declaration, TagSource, call, described, tags_in, text};
use crate::cloud::aws::error::Failure;
use crate::inventory::Tags;

/// The maximum that its listings take.
const PAGE_SIZE: i64 = 1000;

const IAM: Declaration =
    Declaration { next_page: "Marker", global: true, cadence: CadenceClass::Slow, ..Declaration::USUAL };

pub(super) const TYPES: &[Declaration] = &[
    Declaration {
        name: "AWS::IAM::Role",
        actions: &["iam:ListRoles", "iam:GetRole", "iam:ListRoleTags"],
        list: call("iam", "ListRoles").paged("Marker", "MaxItems", PAGE_SIZE),
        items: &["Roles"],
        describe: Some(|regional, role| {
            Box::pin(async move {
                if role.get("RoleId").is_none() {
                    *role = described(
                        regional.send("iam", "GetRole", json!({ "RoleName": text(role, "RoleName") })).await?,
                        "Role",
                    )?;
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
                Ok(tags_in(
                    &regional
                        .send(
                            "iam",
                            "ListRoleTags",
                            json!({ "RoleName": text(role, "RoleName"), "MaxItems": PAGE_SIZE }),
                        )
                        .await?,
                    "Tags",
                ))
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
        list: call("iam", "ListUsers").paged("Marker", "MaxItems", PAGE_SIZE),
        items: &["Users"],
        describe: Some(|regional, user| {
            Box::pin(async move {
                if user.get("UserId").is_none() {
                    *user = described(
                        regional.send("iam", "GetUser", json!({ "UserName": text(user, "UserName") })).await?,
                        "User",
                    )?;
                }
                Ok(())
            })
        }),
        by_id: ById::Describe(|name| json!({ "UserName": name })),
        id: "UserName",
        not_found: &["NoSuchEntity"],
        tags: TagSource::Call(|regional, user| {
            Box::pin(async move {
                Ok(tags_in(
                    &regional
                        .send(
                            "iam",
                            "ListUserTags",
                            json!({ "UserName": text(user, "UserName"), "MaxItems": PAGE_SIZE }),
                        )
                        .await?,
                    "Tags",
                ))
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
        list: call("iam", "ListAccessKeys").in_parent("UserName").paged("Marker", "MaxItems", PAGE_SIZE),
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
        let list = call("iam", "ListUsers").paged("Marker", "MaxItems", PAGE_SIZE);
        let users = regional.send_all(&list, json!({}), &["Users"], "Marker").await?;
        Ok(users.iter().map(|user| text(user, "UserName").to_owned()).collect())
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
