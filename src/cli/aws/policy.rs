//! `elava iam-policy`: the permissions that a scan needs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::api::CloudScan;
use crate::cli::{Output, clouds, print, scan};
use crate::controller::validate::{Allowed, grants_needed, validate};

/// Called by every scan besides the listings.
const REGIONS: &str = "ec2:DescribeRegions";
/// Needed to list the accounts of an organization, in its management account or a delegated one.
const ORGANIZATION: [&str; 3] = [
    "organizations:ListAccounts",
    "organizations:ListAccountsForParent",
    "organizations:ListOrganizationalUnitsForParent",
];

#[derive(Debug, Args)]
pub struct IamPolicyArgs {
    /// Only what this CloudScan scans; - reads it from standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    filename: Option<PathBuf>,
    /// A policy document; a role with it for the accounts that are scanned; or the chart's values that allow the
    /// CloudScan to use its roles
    #[arg(long, value_enum, default_value = "json")]
    format: PolicyFormat,
    /// For --format values: the namespace of the CloudScan, if the manifest names none
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PolicyFormat {
    Json,
    Cloudformation,
    Terraform,
    Values,
}

pub fn iam_policy(args: IamPolicyArgs) -> anyhow::Result<()> {
    let scan = args.filename.as_deref().map(scan::read_manifest).transpose()?;
    let policy = policy(scan.as_ref())?;
    match args.format {
        PolicyFormat::Json => print::structured(&policy, Output::Json)?,
        PolicyFormat::Cloudformation => print::structured(&cloudformation(&policy), Output::Yaml)?,
        PolicyFormat::Terraform => print::write(&terraform(&policy)),
        PolicyFormat::Values => {
            let scan = scan.context("name the CloudScan: -f cloudscan.yaml")?;
            let namespace = scan.metadata.namespace.as_ref().unwrap_or(&args.namespace);
            let roles = scan.spec.provider.spec().map(|provider| grants_needed(&*provider)).unwrap_or_default();
            let grant = json!({ "namespaces": [namespace], "roles": roles });
            let grants = if roles.is_empty() { Vec::new() } else { vec![grant] };
            print::structured(&json!({ "allowedRoles": grants }), Output::Yaml)?;
        }
    }
    Ok(())
}

/// The minimum permissions in each account to scan all types, or those of a CloudScan.
fn policy(scan: Option<&CloudScan>) -> anyhow::Result<Value> {
    let types = clouds::types();
    let desired: Vec<&'static str> = match scan {
        None => types.iter().map(|info| info.name).collect(),
        Some(scan) => {
            validate(&scan.spec, "", |_| types.clone(), &Allowed::Anything)
                .context("the CloudScan was refused")?
                .types
        }
    };
    let of_types = types.iter().filter(|info| desired.contains(&info.name)).flat_map(|info| info.actions);
    let mut actions: BTreeSet<&str> = of_types.copied().collect();
    actions.insert(REGIONS);
    let mut statements = vec![statement("ElavaLooks", &actions)];
    let lists_accounts =
        scan.and_then(|scan| scan.spec.provider.spec()).is_some_and(|spec| spec.units().is_some());
    if lists_accounts {
        // Useless in the member accounts, and harmless.
        statements.push(statement("ElavaListsAccounts", &ORGANIZATION.into()));
    }
    Ok(json!({ "Version": "2012-10-17", "Statement": statements }))
}

fn statement(id: &str, actions: &BTreeSet<&str>) -> Value {
    json!({ "Sid": id, "Effect": "Allow", "Action": actions, "Resource": "*" })
}

/// The session tags of EKS Pod Identity are passed on when a role is assumed, which needs the second:
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>
const TRUST: [&str; 2] = ["sts:AssumeRole", "sts:TagSession"];

/// A StackSet deploys it to every account of an organization.
fn cloudformation(policy: &Value) -> Value {
    json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "The role that Elava assumes to scan this account. It only reads.",
        "Parameters": {
            "RoleName": { "Type": "String", "Default": "elava" },
            "TrustedPrincipalArn": {
                "Type": "String",
                "Description": "Who may assume it: the ARN of the role that Elava's pod runs as",
            },
            "ExternalId": { "Type": "String", "Default": "", "NoEcho": true },
        },
        "Conditions": { "HasExternalId": { "Fn::Not": [{ "Fn::Equals": [{ "Ref": "ExternalId" }, ""] }] } },
        "Resources": {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "RoleName": { "Ref": "RoleName" },
                    "AssumeRolePolicyDocument": {
                        "Version": "2012-10-17",
                        "Statement": [{
                            "Effect": "Allow",
                            "Principal": { "AWS": { "Ref": "TrustedPrincipalArn" } },
                            "Action": TRUST,
                            "Condition": { "Fn::If": [
                                "HasExternalId",
                                { "StringEquals": { "sts:ExternalId": { "Ref": "ExternalId" } } },
                                { "Ref": "AWS::NoValue" },
                            ] },
                        }],
                    },
                    "Policies": [{ "PolicyName": "elava", "PolicyDocument": policy }],
                },
            },
        },
        "Outputs": { "RoleArn": { "Value": { "Fn::GetAtt": ["Role", "Arn"] } } },
    })
}

fn terraform(policy: &Value) -> String {
    let policy = serde_json::to_string_pretty(policy).expect("a policy is JSON");
    format!(
        r#"# The role that Elava assumes to scan this account. It only reads.
variable "elava_trusted_principal_arn" {{
  description = "Who may assume it: the ARN of the role that Elava's pod runs as"
  type        = string
}}

variable "elava_external_id" {{
  type      = string
  default   = null
  sensitive = true
}}

resource "aws_iam_role" "elava" {{
  name = "elava"
  assume_role_policy = jsonencode({{
    Version = "2012-10-17"
    Statement = [merge(
      {{
        Effect    = "Allow"
        Principal = {{ AWS = var.elava_trusted_principal_arn }}
        Action    = {TRUST:?}
      }},
      var.elava_external_id == null ? {{}} : {{
        Condition = {{ StringEquals = {{ "sts:ExternalId" = var.elava_external_id }} }}
      }}
    )]
  }})
}}

resource "aws_iam_role_policy" "elava" {{
  name   = "elava"
  role   = aws_iam_role.elava.id
  policy = <<-POLICY
{policy}
POLICY
}}

output "elava_role_arn" {{
  value = aws_iam_role.elava.arn
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(spec: Value) -> CloudScan {
        let scan = json!({
            "apiVersion": "elava.dev/v1alpha1", "kind": "CloudScan", "metadata": {"name": "x"}, "spec": spec,
        });
        serde_json::from_value(scan).unwrap()
    }

    #[test]
    fn a_policy_holds_what_the_types_need_and_nothing_else() {
        let volumes = json!({"provider": {"aws": {}}, "resourceTypes": {"include": ["AWS::EC2::Volume"]}});
        let policy = policy(Some(&scan(volumes))).unwrap();
        let statement = &policy["Statement"][0];
        assert_eq!(statement["Action"], json!(["ec2:DescribeRegions", "ec2:DescribeTags", "ec2:DescribeVolumes"]));
        assert_eq!((&statement["Effect"], policy["Statement"].as_array().unwrap().len()), (&"Allow".into(), 1));
    }

    #[test]
    fn every_action_only_reads() {
        let all = policy(None).unwrap();
        let actions = all["Statement"][0]["Action"].as_array().unwrap().clone();
        assert!(actions.len() > 80, "{}", actions.len());
        for action in actions {
            let action = action.as_str().unwrap();
            let verb = action.split(':').nth(1).unwrap();
            assert!(["Describe", "List", "Get", "GET"].iter().any(|v| verb.starts_with(v)), "{action}");
        }
    }

    #[test]
    fn a_cloudscan_of_an_organization_may_list_its_accounts() {
        let organization = json!({"provider": {"aws": {"organization": {"roleName": "elava"}}}});
        let policy = policy(Some(&scan(organization))).unwrap();
        assert_eq!(policy["Statement"][1]["Action"][0], "organizations:ListAccounts");
        let role = cloudformation(&policy);
        assert_eq!(role["Resources"]["Role"]["Properties"]["Policies"][0]["PolicyDocument"], policy);
        assert!(terraform(&policy).contains("\"organizations:ListAccounts\""));
    }
}
