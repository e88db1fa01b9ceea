//! The cost of a month by list prices. If a price is unknown, the sum is unknown, never zero.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::EvaluationContext;
use crate::inventory::{Resource, Usage};

/// Hours in a month, as AWS's own calculator counts them.
const HOURS_A_MONTH: f64 = 730.0;
/// The built-in prices: only those that a public document states, each with its source.
const SHIPPED: &str = include_str!("prices.yaml");
/// The region of a price that applies to all regions.
const EVERY_REGION: &str = "*";

/// A price list as written to a file or a ConfigMap. See docs/prices.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriceList {
    /// ISO 4217.
    pub currency: String,
    /// The date of the prices.
    pub as_of: String,
    /// The prices, at most one for each item and region.
    pub prices: Vec<Price>,
}

/// The price of one item in one region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// `ebs.gp3`, `ipv4`, `nat-gateway`, `load-balancer.application`.
    pub item: String,
    /// A region, or `*` for every region without a price of its own.
    pub region: String,
    /// The unit that the price is of.
    pub unit: Unit,
    /// The price of one unit, in the currency of the list: finite and not negative.
    pub price: f64,
    /// The document that states the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// What a price is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// One GB for a month.
    #[serde(rename = "GB-month")]
    GbMonth,
    /// One piece for an hour. A month has 730 hours.
    #[serde(rename = "hour")]
    Hour,
}

impl Unit {
    fn as_str(self) -> &'static str {
        match self {
            Unit::GbMonth => "GB-month",
            Unit::Hour => "hour",
        }
    }
}

/// Why a price list is refused.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// It is not YAML, or has missing, unknown or misspelt fields.
    #[error("the price list is no YAML of the shape that docs/prices.md gives: {0}")]
    Shape(#[from] serde_yaml::Error),
    /// The price of an entry is negative or no finite number.
    #[error("prices[{index}]: {price} is no price: write a number from 0 on, of one unit in the currency")]
    Price {
        /// The position of the entry, from 0 on.
        index: usize,
        /// The number that it contains.
        price: f64,
    },
    /// Two entries have the same item and region.
    #[error("prices[{index}]: {item} in {region} has a price already")]
    Twice {
        /// The position of the second entry, from 0 on.
        index: usize,
        /// The item of both.
        item: String,
        /// The region of both.
        region: String,
    },
}

/// Prices indexed by item and region.
#[derive(Debug, Default)]
pub struct Prices {
    /// The currency of all prices: an ISO 4217 code; empty if there are no prices.
    pub currency: String,
    found: HashMap<(String, String), (f64, Unit)>,
}

impl Prices {
    /// The prices that ship with the program.
    pub fn shipped() -> Self {
        Self::parse(SHIPPED).expect("the committed list is one: a test reads it")
    }

    /// Reads a price list in YAML.
    ///
    /// # Errors
    ///
    /// [`PriceError`] if it has another shape, a price that is none, or two prices for the same item and region.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let list: PriceList = serde_yaml::from_str(text)?;
        let mut prices = Self { currency: list.currency, found: HashMap::new() };
        for (index, Price { item, region, unit, price, .. }) in list.prices.into_iter().enumerate() {
            if !price.is_finite() || price < 0.0 {
                return Err(PriceError::Price { index, price });
            }
            if prices.found.insert((item.clone(), region.clone()), (price, unit)).is_some() {
                return Err(PriceError::Twice { index, item, region });
            }
        }
        Ok(prices)
    }

    fn of(&self, item: &str, region: &str) -> Option<(f64, Unit)> {
        let at = |region: &str| self.found.get(&(item.to_owned(), region.to_owned())).copied();
        at(region).or_else(|| at(EVERY_REGION))
    }
}

/// Millionths of the currency unit per month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MonthlyCost(pub u64);

impl MonthlyCost {
    /// The cost of a month in units of the currency, with its fraction.
    #[allow(clippy::cast_precision_loss)] // Amounts of this size are exact to the cent.
    pub fn amount(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The sum of both. A sum that is too large becomes the largest cost.
    #[must_use]
    pub fn plus(self, other: MonthlyCost) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The cost over a time span.
    pub fn over(self, span: std::time::Duration) -> f64 {
        self.amount() * span.as_secs_f64() / (HOURS_A_MONTH * 3600.0)
    }
}

/// Rounded to the cent, as prices are written.
impl std::fmt::Display for MonthlyCost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.2}", self.amount()))
    }
}

impl EvaluationContext<'_> {
    /// Known only if the price of every part is known.
    pub(super) fn cost(
        &self,
        usages: &[Usage],
        resource: &Resource,
        evidence: &mut Vec<String>,
    ) -> Option<MonthlyCost> {
        if usages.is_empty() {
            return None;
        }
        let mut sum = 0.0;
        for usage in usages {
            let (price, unit) = self.prices.of(&usage.item, resource.key.region.as_str())?;
            sum += price * usage.quantity * if unit == Unit::Hour { HOURS_A_MONTH } else { 1.0 };
            if usages.len() == 1 {
                let (quantity, currency) = (usage.quantity, &self.prices.currency);
                evidence.push(format!(
                    "list price of {}: {price} {currency} a {}, {quantity} of it",
                    usage.item,
                    unit.as_str()
                ));
            }
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It saturates, and it is not negative.
        Some(MonthlyCost((sum * 1e6).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_names_its_source_for_every_price() {
        let list: PriceList = serde_yaml::from_str(SHIPPED).unwrap();
        assert!(!list.prices.is_empty());
        for price in &list.prices {
            assert!(price.source.as_deref().is_some_and(|s| s.starts_with("https://")), "{price:?}");
        }
        assert_eq!(Prices::shipped().found.len(), list.prices.len());
    }

    #[test]
    fn a_list_that_can_not_be_meant_is_refused_with_the_place() {
        let list = |rest: &str| format!("currency: USD\nasOf: 2026-11-01\nprices:\n{rest}");
        let refused = |rest: &str| Prices::parse(&list(rest)).unwrap_err().to_string();
        let good = "- {item: ipv4, region: '*', unit: hour, price: 0.005}\n";
        assert!(refused("- {item: ipv4, region: '*', unit: day, price: 1}").contains("unknown variant `day`"));
        assert!(refused("- {item: ipv4, region: '*', unit: hour, price: -1}").starts_with("prices[0]: -1"));
        assert!(refused(&format!("{good}{good}")).starts_with("prices[1]: ipv4 in * has a price already"));
        let prices = Prices::parse(&list(good)).unwrap();
        assert_eq!(prices.of("ipv4", "eu-west-1"), Some((0.005, Unit::Hour)));
        assert_eq!(prices.of("ebs.gp3", "eu-west-1"), None);
    }
}
