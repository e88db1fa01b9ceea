//! Revisions and times.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A u64 that increases by one with each delta that contains a change; it is never reused and never decreases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The empty state before anything was recorded. The first change has revision 1.
    pub const ZERO: Revision = Revision(0);

    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment in milliseconds since the Unix epoch: RFC 3339 for people and JSON, an integer in the store.
///
/// Milliseconds, because AWS birth fields are no more precise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text that is not a time. It contains that text.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a time: write RFC 3339, such as 2026-11-24T08:30:00Z")]
pub struct TimestampError(String);

impl TimestampError {
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Timestamp {
    /// Before every time that can occur.
    pub const MIN: Timestamp = Timestamp(i64::MIN);

    /// A moment from milliseconds since the Unix epoch; negative before it.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch; negative before it.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The time that passed since `earlier`; zero if `earlier` is in fact later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The moment that lies `span` before this one, but not before [`Timestamp::MIN`].
    #[must_use]
    pub fn minus(self, span: Duration) -> Timestamp {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The moment that lies `span` after this one, but not after the latest that can be stored.
    #[must_use]
    pub fn plus(self, span: Duration) -> Timestamp {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The same moment for arithmetic with calendars. A moment out of jiff's range becomes the first or last in
    /// it.
    pub fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(t: jiff::Timestamp) -> Self {
        Self(t.as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_jiff().fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse::<jiff::Timestamp>().map(Self::from).map_err(|_| TimestampError(s.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            i64::deserialize(d).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_survives_text_and_binary() {
        let t: Timestamp = "2026-11-24T08:30:00.123Z".parse().unwrap();
        assert_eq!(t.to_string(), "2026-11-24T08:30:00.123Z");
        assert_eq!(serde_json::from_str::<Timestamp>(&serde_json::to_string(&t).unwrap()).unwrap(), t);
        assert_eq!(postcard::from_bytes::<Timestamp>(&postcard::to_stdvec(&t).unwrap()).unwrap(), t);
        assert!("yesterday-ish".parse::<Timestamp>().unwrap_err().to_string().contains("RFC 3339"));
    }

    #[test]
    fn a_clock_that_stepped_back_gives_no_negative_span() {
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
    }
}
