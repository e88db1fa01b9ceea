//! The plain settings of the rules: what `api` converts a CloudScan's policy into.

use std::time::Duration;

use regex::Regex;

/// A tag key that must be there, under its own name or an alias.
#[derive(Clone, Debug)]
pub struct RequiredTag {
    pub key: String,
    pub aliases: Vec<String>,
    /// A value that does not match counts as missing. Anchored at both ends.
    pub pattern: Option<Regex>,
}

#[derive(Clone, Debug)]
pub struct FindingSettings {
    /// The most findings that are published as open at once; the rest are counted.
    pub max_open: usize,
    /// How long a resolved finding stays before its object goes.
    pub keep_resolved: Duration,
}

/// When so much vanishes at once that the look is doubted before the cloud is.
#[derive(Clone, Copy, Debug)]
pub struct LossLimits {
    pub percent: u32,
    pub minimum: u32,
}

impl LossLimits {
    /// The limits that design.md gives as the default.
    pub const DEFAULT: LossLimits = LossLimits { percent: 20, minimum: 10 };

    /// Strictest of both, for a scope that two CloudScans share.
    #[must_use]
    pub fn strictest(self, other: LossLimits) -> LossLimits {
        LossLimits { percent: self.percent.min(other.percent), minimum: self.minimum.min(other.minimum) }
    }

    /// Whether `missing` of `live` is more than may vanish at once.
    pub fn exceeded(self, missing: usize, live: usize) -> bool {
        missing >= self.minimum as usize && missing * 100 > live * self.percent as usize
    }
}

#[derive(Clone, Debug)]
pub struct RuleSettings {
    pub required_tags: Vec<RequiredTag>,
    /// How long a resource may lack tags before that is a finding.
    pub grace_period: Duration,
    /// Types that no tag rule looks at.
    pub exempt_types: Vec<String>,
    /// How long a `Disappeared` finding stays open.
    pub keep_disappeared: Duration,
    pub findings: FindingSettings,
}

impl Default for RuleSettings {
    fn default() -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            required_tags: Vec::new(),
            grace_period: Duration::ZERO,
            exempt_types: Vec::new(),
            keep_disappeared: 7 * DAY,
            findings: FindingSettings { max_open: 2000, keep_resolved: DAY },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_needs_both_the_share_and_the_number() {
        let limits = LossLimits::DEFAULT;
        assert!(!limits.exceeded(9, 9), "a handful is not a mass");
        assert!(!limits.exceeded(20, 100), "exactly the share is allowed");
        assert!(limits.exceeded(21, 100));
        assert!(limits.exceeded(10, 10));
    }
}
