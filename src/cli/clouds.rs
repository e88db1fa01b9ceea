//! The providers that this program is built with: all other modules know them by their traits alone.

use std::sync::Arc;

use crate::cloud::aws::Aws;
use crate::cloud::{Provider, TypeInfo};
use crate::inventory::Facts;

/// A provider for one command, without a limit that is shared with others.
pub fn provider() -> Arc<dyn Provider> {
    Arc::new(Aws::default())
}

pub fn types() -> Vec<TypeInfo> {
    provider().types()
}

/// What the rules and queries know of the types.
pub fn facts() -> Facts {
    Facts::of([provider().facts()])
}
