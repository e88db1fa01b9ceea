//! The commands that are about AWS by their nature: `elava iam-policy` and `elava prices`.

pub mod policy;
pub mod prices;
