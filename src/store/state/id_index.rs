//! An index of lives by id.
//!
//! Open addressing over row numbers; the ids are in the heads. The index of a scope is built at its first query,
//! and updated with what begins and ends from then on.

use xxhash_rust::xxh3::xxh3_64;

use crate::store::file::tables::{NO_RID, Rid};

#[derive(Clone, Debug)]
pub(in crate::store) struct IdIndex {
    /// [`NO_RID`] is an empty slot; at least a fifth are empty.
    slots: Vec<Rid>,
    len: usize,
}

impl IdIndex {
    pub fn of<'a>(order: &[Rid], id: impl Fn(Rid) -> &'a str) -> Self {
        // With some room for new lives.
        let room = order.len() + order.len() / 16 + 4;
        let mut index = Self { slots: vec![NO_RID; room + room / 4], len: 0 };
        for rid in order {
            index.insert(*rid, id(*rid));
        }
        index
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        (self.len + 1) * 5 <= self.slots.len() * 4
    }

    /// The slot where the search for an id begins.
    fn home(&self, id: &str) -> usize {
        let at = (u128::from(xxh3_64(id.as_bytes())) * self.slots.len() as u128) >> 64;
        usize::try_from(at).expect("it is less than the number of slots")
    }

    fn next(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }

    pub fn insert(&mut self, rid: Rid, id: &str) {
        assert!(self.has_room(), "the caller has checked");
        let mut slot = self.home(id);
        while self.slots[slot] != NO_RID {
            slot = self.next(slot);
        }
        self.slots[slot] = rid;
        self.len += 1;
    }

    /// The first life in the slots of an id that `is_it` accepts.
    pub fn find(&self, id: &str, is_it: impl Fn(Rid) -> bool) -> Option<Rid> {
        let mut slot = self.home(id);
        loop {
            match self.slots[slot] {
                NO_RID => return None,
                rid if is_it(rid) => return Some(rid),
                _ => slot = self.next(slot),
            }
        }
    }

    /// Removes a life that is in the index. The lives behind it move up, so that searches still find them.
    pub fn remove<'a>(&mut self, rid: Rid, id_of: impl Fn(Rid) -> &'a str) {
        let mut hole = self.home(id_of(rid));
        while self.slots[hole] != rid {
            assert!(self.slots[hole] != NO_RID, "what lives is in the index");
            hole = self.next(hole);
        }
        self.len -= 1;
        let mut slot = hole;
        loop {
            slot = self.next(slot);
            let other = self.slots[slot];
            if other == NO_RID {
                break;
            }
            let home = self.home(id_of(other));
            // It may move into the hole unless its search begins behind the hole.
            let is_behind = if hole < slot { home > hole && home <= slot } else { home > hole || home <= slot };
            if !is_behind {
                self.slots[hole] = other;
                hole = slot;
            }
        }
        self.slots[hole] = NO_RID;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_was_inserted_and_not_removed(steps in prop::collection::vec(1..60u32, 1..400)) {
            let ids: Vec<String> = (0..60).map(|rid| format!("vol-{rid}")).collect();
            let id = |rid: Rid| ids[rid as usize].as_str();
            let (mut index, mut set) = (IdIndex::of(&[], id), BTreeSet::new());
            for rid in steps {
                if set.remove(&rid) {
                    index.remove(rid, id);
                } else {
                    set.insert(rid);
                    if index.has_room() {
                        index.insert(rid, id(rid));
                    } else {
                        index = IdIndex::of(&set.iter().copied().collect::<Vec<_>>(), id);
                    }
                }
            }
            for rid in 1..60 {
                prop_assert_eq!(index.find(id(rid), |found| id(found) == id(rid)), set.contains(&rid).then_some(rid));
            }
            prop_assert_eq!(index.find("vol-none", |found| id(found) == "vol-none"), None);
        }
    }
}
