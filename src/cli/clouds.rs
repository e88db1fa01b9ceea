//! The providers that this program is built with: all other modules know them by their traits alone.

use std::sync::Arc;

use crate::cloud::aws::Aws;
use crate::cloud::{Providers, TypeInfo};
use crate::inventory::Facts;

/// What the page of the types states about them.
pub struct TypesPage {
    pub declared_in: &'static str,
    pub named: &'static str,
    pub emulator: &'static str,
}

pub const TYPES_PAGE: TypesPage = TypesPage {
    declared_in: "src/cloud/aws/services",
    named: "named as CloudFormation names them",
    emulator: "an AWS emulator",
};

/// For one command.
pub fn providers() -> Providers {
    Providers::of([Arc::new(Aws::default()) as _])
}

/// For an operator, which leaves a part of each account's API rate limits to the account's other users.
pub fn sharing_providers(api_share: f64) -> Providers {
    Providers::of([Arc::new(Aws::new(api_share)) as _])
}

pub fn types() -> Vec<TypeInfo> {
    providers().all_types()
}

/// What the rules and queries know of the types.
pub fn facts() -> Facts {
    providers().facts()
}
