//! An index of the interned tag sets by tag. Sets are only ever added, so one index serves every state: each uses
//! only the sets that it knows.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use imbl::Vector;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::inventory::{Filter, TagSet, is_untagged};
use crate::store::file::tables::TagsRef;

/// Minimum size of the unsorted tail before it is sorted in.
const UNSORTED_TAIL_MAX: usize = 4_096;

#[derive(Debug, Default)]
struct Known {
    /// Number of sets that are in the index.
    sets: usize,
    /// (hash of key and value, set), sorted; later ones are in `tail`. 64 bits: among a million different tags,
    /// two have the same hash in one store in 30 million.
    tags: Vec<(u64, u32)>,
    tail: Vec<(u64, u32)>,
    keys: HashMap<Box<str>, Vec<u32>>,
    untagged: Vec<u32>,
}

#[derive(Debug, Default)]
pub(in crate::store) struct TagIndex(RwLock<Known>);

/// For each reference to tags, whether it matches.
pub(in crate::store) struct TagMatches(Vec<u8>);

impl TagMatches {
    pub fn has(&self, tags: TagsRef) -> bool {
        // A reference that was added later is not in the queried state.
        self.0.get(tags.index()).is_some_and(|matches| *matches != 0)
    }
}

fn hash(key: &str, value: &str) -> u64 {
    let mut hash = Xxh3::with_seed(xxh3_64(key.as_bytes()));
    hash.update(value.as_bytes());
    hash.digest()
}

impl Known {
    fn add(&mut self, number: u32, set: &TagSet) {
        for (key, value) in set.iter() {
            self.tail.push((hash(key, value), number));
            match self.keys.get_mut(key) {
                Some(sets) => sets.push(number),
                None => drop(self.keys.insert(key.into(), vec![number])),
            }
        }
        if is_untagged(set) {
            self.untagged.push(number);
        }
    }

    fn sort(&mut self) {
        self.tags.append(&mut self.tail);
        self.tail.shrink_to_fit();
        self.tags.sort_unstable();
        self.tags.shrink_to_fit();
    }

    fn each(&self, (key, value): &(String, Option<String>), mut report: impl FnMut(u32)) {
        let Some(value) = value else {
            self.keys.get(key.as_str()).into_iter().flatten().for_each(|number| report(*number));
            return;
        };
        let hash = hash(key, value);
        let from = self.tags.partition_point(|(other, _)| *other < hash);
        self.tags[from..].iter().take_while(|(other, _)| *other == hash).for_each(|(_, number)| report(*number));
        self.tail.iter().filter(|(other, _)| *other == hash).for_each(|(_, number)| report(*number));
    }
}

impl TagIndex {
    /// Adds the sets that are new since the last call.
    pub fn update(&self, sets: &Vector<TagSet>) {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).sets >= sets.len() {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (number, set) in sets.iter().enumerate().skip(known.sets) {
            known.add(u32::try_from(number).expect("interned under a u32"), set);
        }
        known.sets = known.sets.max(sets.len());
        if known.tail.len() > UNSORTED_TAIL_MAX.max(known.tags.len() / 8) {
            known.sort();
        }
    }

    /// The sets of a state that match a filter; `None` if it has no conditions on tags.
    pub fn matches(&self, sets: &Vector<TagSet>, filter: &Filter) -> Option<TagMatches> {
        let conditions = filter.tags.len() + usize::from(filter.untagged);
        if conditions == 0 {
            return None;
        }
        self.update(sets);
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // A set matches when every condition has counted it.
        let Ok(all) = u8::try_from(conditions) else {
            let has_all = |set: &TagSet| filter.matches_tags(&crate::inventory::Tags::Known(set.clone()));
            return Some(TagMatches(
                [0, 0].into_iter().chain(sets.iter().map(|s| u8::from(has_all(s)))).collect(),
            ));
        };
        let mut counted = vec![0_u8; sets.len() + 2];
        let mut round = 0;
        let mut count = |number: u32, round: u8| {
            if let Some(place) = counted.get_mut(TagsRef::set(number).index())
                && *place == round
            {
                *place += 1;
            }
        };
        for tag in &filter.tags {
            known.each(tag, |number| count(number, round));
            round += 1;
        }
        if filter.untagged {
            known.untagged.iter().for_each(|number| count(*number, round));
        }
        for place in &mut counted {
            *place = u8::from(*place == all);
        }
        Some(TagMatches(counted))
    }
}
