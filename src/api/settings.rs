//! Converts a spec into plain settings. What CEL can't check is reported here, with the path of the field.

use std::time::Duration;

use super::{CloudScanSpec, FindingExemption, TagSelector};
use crate::inventory::{
    self, Exemption, Expression, ExpressionError, FindingKind, FindingSettings, LossLimits,
    OBJECT_EXPRESSIONS_MAX_BYTES, OwnerSource, OwnershipSettings, RuleSettings, Selector, TagMatch,
};

/// An invalid field, and why.
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

    /// The caller adds exemptions: they are separate objects.
    pub fn rule_settings(&self) -> Result<RuleSettings, SpecError> {
        let required = self.tag_policy.required.iter().enumerate();
        let tag_grace = duration("spec.tagPolicy.gracePeriod", &self.tag_policy.grace_period)?;
        let orphan_grace = duration("spec.orphans.gracePeriod", &self.orphans.grace_period)?;
        let mut grace: std::collections::BTreeMap<FindingKind, Duration> =
            TAG_KINDS.into_iter().map(|kind| (kind, tag_grace)).collect();
        grace.insert(FindingKind::Orphaned, orphan_grace);
        let mut bytes = 0;
        let required_tags = required.map(|(i, tag)| {
            let path = || format!("spec.tagPolicy.required[{i}].pattern");
            let pattern = tag.pattern.as_deref().map(|pattern| whole(path(), pattern)).transpose()?;
            bytes += pattern.as_ref().map_or(0, Expression::bytes);
            if bytes > OBJECT_EXPRESSIONS_MAX_BYTES {
                let message = format!(
                    "with it the patterns of this CloudScan take more than {} KiB when they are compiled: repeat less, or \
                     [A-Za-z0-9_] in place of \\w",
                    OBJECT_EXPRESSIONS_MAX_BYTES >> 10
                );
                return Err(SpecError::new(path(), message));
            }
            Ok(inventory::RequiredTag { key: tag.key.clone(), aliases: tag.aliases.clone(), pattern })
        });
        Ok(RuleSettings {
            interval: self.interval()?,
            required_tags: required_tags.collect::<Result<_, SpecError>>()?,
            exempt_types: self.tag_policy.exempt_types.clone(),
            keep_disappeared: duration("spec.disappearance.keep", &self.disappearance.keep)?,
            ignored_ends: self
                .disappearance
                .ignore
                .iter()
                .map(|ignored| Selector {
                    types: ignored.resource_type.iter().cloned().collect(),
                    tags: tag_matches(&ignored.tags),
                    ..Selector::default()
                })
                .collect(),
            ownership: self.ownership_settings(),
            managed_by: self.management.as_ref().map(|management| tag_matches(&management.marks)),
            stopped_for: duration("spec.orphans.stoppedFor", &self.orphans.stopped_for)?,
            exemptions: Vec::new(),
            findings: FindingSettings {
                max_open: self.findings.max_open.into(),
                keep_resolved: duration("spec.findings.keepResolved", &self.findings.keep_resolved)?,
                excluded: kinds("spec.findings.exclude", &self.findings.exclude)?.into_iter().collect(),
                grace,
            },
        })
    }

    fn ownership_settings(&self) -> OwnershipSettings {
        let ownership = &self.ownership;
        let named = |name: &String| OwnerSource::ALL.into_iter().find(|source| source.as_str() == name);
        let sources: Vec<OwnerSource> = ownership.sources.iter().filter_map(named).collect();
        OwnershipSettings {
            sources: if sources.is_empty() { OwnerSource::ALL.to_vec() } else { sources },
            tag_keys: ownership.tag_keys.clone(),
            accounts: ownership.accounts.iter().map(|a| (a.id.clone(), a.owner.clone())).collect(),
        }
    }
}

/// The kinds that `tagPolicy.gracePeriod` applies to.
const TAG_KINDS: [FindingKind; 4] =
    [FindingKind::OwnershipLost, FindingKind::Untagged, FindingKind::TagsMissing, FindingKind::TagInvalid];

impl FindingExemption {
    /// The exemption as the rules use it.
    pub fn exemption(&self) -> Result<Exemption, SpecError> {
        let selector = &self.spec.selector;
        let pattern = selector.key_pattern.as_deref();
        Ok(Exemption {
            name: self.metadata.name.clone().unwrap_or_default(),
            kinds: kinds("spec.selector.kinds", &selector.kinds)?,
            selector: Selector {
                types: selector.resource_types.clone(),
                accounts: selector.accounts.clone(),
                regions: selector.regions.clone(),
                tags: tag_matches(&selector.tags),
                key: pattern.map(|pattern| whole("spec.selector.keyPattern", pattern)).transpose()?,
            },
            expires: self.spec.expires_at,
        })
    }
}

fn tag_matches(selectors: &[TagSelector]) -> Vec<TagMatch> {
    selectors.iter().map(|tag| TagMatch { key: tag.key.clone(), value: tag.value.clone() }).collect()
}

fn kinds(path: &str, names: &[String]) -> Result<Vec<FindingKind>, SpecError> {
    let parse = |(i, name): (usize, &String)| {
        name.parse()
            .map_err(|error: inventory::KindError| SpecError::new(format!("{path}[{i}]"), error.to_string()))
    };
    names.iter().enumerate().map(parse).collect()
}

fn whole(path: impl Into<String>, pattern: &str) -> Result<Expression, SpecError> {
    Expression::whole(pattern).map_err(|error| {
        let message = match error {
            ExpressionError::TooLarge => format!("'{pattern}' is too large: {error}"),
            ExpressionError::Syntax(why) => format!("'{pattern}' is not a regular expression: {why}"),
        };
        SpecError::new(path, message)
    })
}

fn duration(path: &str, text: &str) -> Result<Duration, SpecError> {
    humantime::parse_duration(text).map_err(|_| {
        SpecError::new(
            path,
            format!("'{text}' is not a duration: write whole numbers with units, such as 30s or 1h30m"),
        )
    })
}
