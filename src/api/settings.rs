//! A spec as plain settings. What CEL can't see is told here, with the path of the field.

use std::time::Duration;

use regex::Regex;

use super::CloudScanSpec;
use crate::inventory::{self, FindingSettings, LossLimits, RuleSettings};

/// A field that can't be worked with, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SpecError {
    pub path: String,
    pub message: String,
}

impl SpecError {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl CloudScanSpec {
    pub fn interval(&self) -> Result<Duration, SpecError> {
        duration("spec.interval", &self.interval)
    }

    pub fn loss_limits(&self) -> LossLimits {
        let limits = &self.disappearance.mass_loss;
        LossLimits { percent: limits.percent.into(), minimum: limits.minimum }
    }

    pub fn rule_settings(&self) -> Result<RuleSettings, SpecError> {
        let required = self.tag_policy.required.iter().enumerate();
        Ok(RuleSettings {
            required_tags: required
                .map(|(i, tag)| {
                    let pattern = match &tag.pattern {
                        None => None,
                        // The whole value: an unanchored pattern would let `xteam-a` pass for `team-a`.
                        Some(pattern) => Some(Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
                            SpecError::new(
                                format!("spec.tagPolicy.required[{i}].pattern"),
                                format!(
                                    "'{pattern}' is not a regular expression: {}",
                                    last_line(&error.to_string())
                                ),
                            )
                        })?),
                    };
                    Ok(inventory::RequiredTag { key: tag.key.clone(), aliases: tag.aliases.clone(), pattern })
                })
                .collect::<Result<_, SpecError>>()?,
            grace_period: duration("spec.tagPolicy.gracePeriod", &self.tag_policy.grace_period)?,
            exempt_types: self.tag_policy.exempt_types.clone(),
            keep_disappeared: duration("spec.disappearance.keep", &self.disappearance.keep)?,
            findings: FindingSettings {
                max_open: self.findings.max_open.into(),
                keep_resolved: duration("spec.findings.keepResolved", &self.findings.keep_resolved)?,
            },
        })
    }
}

fn duration(path: &str, text: &str) -> Result<Duration, SpecError> {
    humantime::parse_duration(text).map_err(|_| {
        SpecError::new(
            path,
            format!("'{text}' is not a duration: write whole numbers with units, such as 30s or 1h30m"),
        )
    })
}

/// The regex crate draws a picture first; what is wrong comes last.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ")
}
