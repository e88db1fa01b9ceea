//! `elava prices`: the list that costs are estimated from. Its format is documented in docs/prices.md.

use std::collections::{BTreeMap, HashMap};
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use serde::Deserialize;

use crate::cli::print::{self, note};
use crate::policy::{Price, PriceList, Unit};

#[derive(Debug, Subcommand)]
pub enum PricesCommand {
    /// Make a price list from AWS's published offer files, and print it
    Import {
        /// Offer files as AWS publishes them (AmazonEC2, AmazonVPC, AWSELB), as JSON
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Only these regions; may be repeated
        #[arg(long)]
        region: Vec<String>,
    },
}

pub fn prices(command: PricesCommand) -> anyhow::Result<()> {
    let PricesCommand::Import { files, region } = command;
    let mut found: BTreeMap<(String, String), Price> = BTreeMap::new();
    let mut published: Option<String> = None;
    for path in &files {
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let offer: Offer = serde_json::from_reader(BufReader::new(file))
            .with_context(|| format!("{} is no offer file of AWS's price list", path.display()))?;
        published = published.max(Some(offer.publication_date.clone()));
        let before = found.len();
        for price in of_offer(&offer, &region) {
            found.entry((price.item.clone(), price.region.clone())).or_insert(price);
        }
        note!("{}: {} prices of {}", path.display(), found.len() - before, offer.code);
    }
    anyhow::ensure!(!found.is_empty(), "no price that Elava asks for is in these files: see docs/prices.md");
    let day = published.unwrap_or_default().chars().take(10).collect();
    let list = PriceList { currency: CURRENCY.to_owned(), as_of: day, prices: found.into_values().collect() };
    print::write(&serde_yaml::to_string(&list)?);
    Ok(())
}

const CURRENCY: &str = "USD";

/// AWS's offer file: <https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/reading-service-price-list-file-for-services.html>.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Offer {
    #[serde(rename = "offerCode")]
    code: String,
    publication_date: String,
    products: HashMap<String, Product>,
    terms: Terms,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Product {
    #[serde(default)]
    product_family: String,
    attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    #[serde(default)]
    region_code: String,
    #[serde(default)]
    location_type: String,
    #[serde(default)]
    volume_api_name: String,
    #[serde(default)]
    usagetype: String,
}

#[derive(Deserialize)]
struct Terms {
    #[serde(rename = "OnDemand", default)]
    on_demand: HashMap<String, HashMap<String, Term>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Term {
    price_dimensions: HashMap<String, Dimension>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dimension {
    unit: String,
    #[serde(default)]
    begin_range: String,
    price_per_unit: HashMap<String, String>,
}

fn of_offer(offer: &Offer, regions: &[String]) -> Vec<Price> {
    let desired = |product: &Product| {
        let place = &product.attributes;
        // Not Outposts, Local Zones or Wavelength: their prices differ.
        (place.location_type.is_empty() || place.location_type == "AWS Region")
            && (regions.is_empty() || regions.contains(&place.region_code))
    };
    let price = |(sku, product): (&String, &Product)| {
        let item = item(product)?;
        let terms = offer.terms.on_demand.get(sku)?;
        // Of a price in tiers, the first that is not free counts.
        let mut dimensions: Vec<(f64, f64, &Dimension)> = terms
            .values()
            .flat_map(|term| term.price_dimensions.values())
            .filter_map(|d| {
                Some((d.begin_range.parse().unwrap_or(0.0), d.price_per_unit.get(CURRENCY)?.parse().ok()?, d))
            })
            .collect();
        dimensions.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (_, price, dimension) = dimensions.into_iter().find(|(_, price, _)| *price > 0.0)?;
        let unit = match dimension.unit.as_str() {
            "GB-Mo" => Unit::GbMonth,
            "Hrs" | "Hours" | "hours" => Unit::Hour,
            _ => return None,
        };
        let source = Some(format!("AWS price list {}, {sku}", offer.code));
        Some(Price { item, region: product.attributes.region_code.clone(), unit, price, source })
    };
    let mut prices: Vec<Price> =
        offer.products.iter().filter(|(_, product)| desired(product)).filter_map(price).collect();
    // The file is a map: the list must not depend on its order.
    prices.sort_by(|a, b| (&a.item, &a.region, &a.source).cmp(&(&b.item, &b.region, &b.source)));
    prices
}

/// The name of a product in the price list; none if it is not used.
fn item(product: &Product) -> Option<String> {
    let usage = product.attributes.usagetype.as_str();
    let volume = product.attributes.volume_api_name.as_str();
    // `NatGateway-Hours`, `EUW1-NatGateway-Hours`: the prefix is the region. Other products have a longer prefix:
    // `EUW1-TS-LoadBalancerUsage`, `Outposts-LoadBalancerUsage`.
    let is_region =
        |prefix: &str| !prefix.is_empty() && prefix.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    let ends = |suffix: &str| {
        usage == suffix || usage.strip_suffix(suffix).and_then(|p| p.strip_suffix('-')).is_some_and(is_region)
    };
    match product.product_family.as_str() {
        "Storage" if !volume.is_empty() && usage.contains("EBS:VolumeUsage") => Some(format!("ebs.{volume}")),
        "NAT Gateway" if ends("NatGateway-Hours") => Some("nat-gateway".to_owned()),
        "Load Balancer-Application" if ends("LoadBalancerUsage") => Some("load-balancer.application".to_owned()),
        "Load Balancer-Network" if ends("LoadBalancerUsage") => Some("load-balancer.network".to_owned()),
        "Load Balancer-Gateway" if ends("LoadBalancerUsage") => Some("load-balancer.gateway".to_owned()),
        _ if ends("PublicIPv4:IdleAddress") => Some("ipv4".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn offer() -> Offer {
        let term = |unit: &str, price: &str, from: &str| json!({"T": {"priceDimensions": {"D": {"unit": unit, "beginRange": from, "pricePerUnit": {"USD": price}}}}});
        let product = |family: &str, usage: &str, volume: &str, place: &str| {
            json!({"productFamily": family, "attributes": {
                "regionCode": "eu-west-1", "locationType": place, "usagetype": usage, "volumeApiName": volume,
                "servicecode": "AmazonEC2",
            }})
        };
        let region = "AWS Region";
        serde_json::from_value(json!({
            "formatVersion": "v1.0", "offerCode": "AmazonEC2", "publicationDate": "2026-11-20T00:00:00Z",
            "products": {
                "A": product("Storage", "EU-EBS:VolumeUsage.gp3", "gp3", region),
                "B": product("Storage", "EU-EBS:VolumeUsage.gp3", "gp3", "AWS Outposts"),
                "C": product("NAT Gateway", "EU-NatGateway-Hours", "", region),
                "D": product("NAT Gateway", "EU-NatGateway-Bytes", "", region),
                "E": product("Compute Instance", "EU-BoxUsage:t3.micro", "", region),
                "F": product("System Operation", "EU-EBS:VolumeP-IOPS.gp3", "gp3", region),
                "G": product("NAT Gateway", "EU-RegionalNatGateway-Hours", "", region),
                "H": product("Load Balancer-Application", "EU-TS-LoadBalancerUsage", "", region),
                "I": product("Load Balancer-Application", "EU-LoadBalancerUsage", "", region),
                "J": product("", "EU-PublicIPv4:IdleAddress", "", region),
            },
            "terms": {"OnDemand": {
                "A": term("GB-Mo", "0.0880000000", "0"), "B": term("GB-Mo", "0.2", "0"),
                "C": term("Hrs", "0.0480000000", "0"), "D": term("GB", "0.048", "0"),
                "E": term("Hrs", "0.01", "0"), "F": term("IOPS-Mo", "0.005", "0"),
                "G": term("Hrs", "0.07", "0"), "H": term("Hrs", "0.006", "0"), "I": term("Hrs", "0.0252", "0"),
                // A free tier first.
                "J": {"T": {"priceDimensions": {
                    "D": {"unit": "Hrs", "beginRange": "0", "pricePerUnit": {"USD": "0.0000000000"}},
                    "E": {"unit": "Hrs", "beginRange": "750", "pricePerUnit": {"USD": "0.0050000000"}},
                }}},
            }},
        }))
        .unwrap()
    }

    #[test]
    fn the_requested_prices_are_taken_with_unit_region_and_source_and_nothing_else() {
        let prices = of_offer(&offer(), &[]);
        let reported: Vec<String> =
            prices.iter().map(|p| format!("{} {} {:?} {}", p.item, p.region, p.unit, p.price)).collect();
        let expected = [
            "ebs.gp3 eu-west-1 GbMonth 0.088",
            "ipv4 eu-west-1 Hour 0.005",
            "load-balancer.application eu-west-1 Hour 0.0252",
            "nat-gateway eu-west-1 Hour 0.048",
        ];
        assert_eq!(reported, expected);
        assert_eq!(prices[0].source.as_deref(), Some("AWS price list AmazonEC2, A"));
        assert!(of_offer(&offer(), &["us-east-1".to_owned()]).is_empty());
    }
}
