//! The encoding of documents in the file: zstd, with a dictionary of their type if there is one, or with the last
//! full version of the same resource as the dictionary.
//!
//! Described objects of a type are alike, so a dictionary contains most of each. A version mostly repeats the one
//! before, so a difference is a few dozen bytes. A difference is always based on a full document, never on another
//! difference: it takes one more read, however long the history is.
//!
//! ```text
//! [form] [length of the JSON] [argument: 0, number of a dictionary, revision] [zstd frame]
//! ```
//!
//! The three numbers are varints. The length of a difference is relative to its base. The frame is stored without
//! the magic number that all frames begin with.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::Value;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use crate::inventory::ResourceType;
use crate::store::StoreError;
use crate::store::file::log;
use crate::store::file::tables::{DOCUMENT_MAX_BYTES, Rid};

/// A higher level saves a few per cent and makes writes slower.
const ZSTD_LEVEL: i32 = 1;
/// Documents of a type that a dictionary is trained on. zstd recommends a hundred times its size, but common parts
/// show after a few hundred documents.
pub(in crate::store) const DICTIONARY_SAMPLES: usize = 400;
const DICTIONARY_BYTES: usize = 8 << 10;
/// A difference of at most this size is always written instead of a full document.
const DIFFERENCE_ALWAYS_MAX_BYTES: usize = 48;
/// The first four bytes of every zstd frame (RFC 8878, 3.1.1).
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

const PLAIN: u8 = 0;
const OF_TYPE: u8 = 1;
const DIFFERENCE: u8 = 2;

/// The dictionaries of a file: numbered, immutable, never dropped.
#[derive(Clone, Default)]
pub(in crate::store) struct Dictionaries {
    by_number: Vec<Arc<Dictionary>>,
    by_type: BTreeMap<ResourceType, u32>,
}

struct Dictionary {
    bytes: Vec<u8>,
    /// Prepared once: that takes longer than compressing a document.
    encoder: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

impl Dictionaries {
    pub fn add(&mut self, resource_type: ResourceType, bytes: Vec<u8>) -> u32 {
        let number = u32::try_from(self.by_number.len()).expect("fewer than 2^32 dictionaries");
        let encoder = EncoderDictionary::copy(&bytes, ZSTD_LEVEL);
        let decoder = DecoderDictionary::copy(&bytes);
        self.by_number.push(Arc::new(Dictionary { bytes, encoder, decoder }));
        self.by_type.insert(resource_type, number);
        number
    }

    /// The dictionaries from a number on: number, type, bytes.
    pub fn from(&self, first: usize) -> impl Iterator<Item = (u32, &ResourceType, &[u8])> {
        self.by_type
            .iter()
            .filter(move |(_, number)| **number as usize >= first)
            .map(|(resource_type, number)| (*number, resource_type, &*self.by_number[*number as usize].bytes))
    }

    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    fn of_type(&self, resource_type: &ResourceType) -> Option<(u32, &Dictionary)> {
        let number = *self.by_type.get(resource_type)?;
        Some((number, &self.by_number[number as usize]))
    }
}

/// Trains the dictionary of a type as soon as enough of its documents were seen.
pub(in crate::store) struct Trainer {
    dictionaries: Arc<Dictionaries>,
    /// Documents of types that have no dictionary yet; `None` once training was tried.
    samples: BTreeMap<ResourceType, Option<Vec<Vec<u8>>>>,
}

impl Trainer {
    pub fn new(dictionaries: Arc<Dictionaries>) -> Self {
        Self { dictionaries, samples: BTreeMap::new() }
    }

    pub fn dictionaries(&self) -> Arc<Dictionaries> {
        self.dictionaries.clone()
    }

    /// Takes documents of a type as samples while it has no dictionary. Returns all current dictionaries.
    pub fn sample<'a>(
        &mut self,
        resource_type: &ResourceType,
        documents: impl Iterator<Item = &'a [u8]>,
    ) -> Arc<Dictionaries> {
        if !self.dictionaries.by_type.contains_key(resource_type) {
            let samples = self.samples.entry(resource_type.clone()).or_insert_with(|| Some(Vec::new()));
            if let Some(collected) = samples {
                collected.extend(
                    documents.take(DICTIONARY_SAMPLES.saturating_sub(collected.len())).map(<[u8]>::to_vec),
                );
                if collected.len() >= DICTIONARY_SAMPLES {
                    if let Some(dictionary) = train(collected) {
                        Arc::make_mut(&mut self.dictionaries).add(resource_type.clone(), dictionary);
                    }
                    *samples = None;
                }
            }
        }
        self.dictionaries()
    }
}

/// The dictionary of many documents; `None` if they have too little in common, or are too few.
pub(in crate::store) fn train(samples: &[Vec<u8>]) -> Option<Vec<u8>> {
    zstd::dict::from_samples(samples, DICTIONARY_BYTES).ok()
}

/// The full document that the document of a revision is, or is based on: its revision and text.
pub(in crate::store) fn full(
    revision: u64,
    dictionaries: &Dictionaries,
    read: impl Fn(u64) -> Result<Vec<u8>, StoreError>,
) -> Result<(u64, Vec<u8>), StoreError> {
    let mut bytes = read(revision)?;
    let mut at = revision;
    if let Some(base) = base_of(&bytes)? {
        bytes = read(base)?;
        at = base;
    }
    Ok((at, decode(&bytes, dictionaries, None)?))
}

/// The document of a revision.
pub(in crate::store) fn document(
    revision: u64,
    dictionaries: &Dictionaries,
    read: impl Fn(u64) -> Result<Vec<u8>, StoreError>,
) -> Result<Value, StoreError> {
    of_bytes(&read(revision)?, dictionaries, read)
}

/// Decodes an encoded document; `read` reads its base.
pub(in crate::store) fn of_bytes(
    bytes: &[u8],
    dictionaries: &Dictionaries,
    read: impl Fn(u64) -> Result<Vec<u8>, StoreError>,
) -> Result<Value, StoreError> {
    let base = match base_of(bytes)? {
        None => None,
        Some(base) => Some(decode(&read(base)?, dictionaries, None)?),
    };
    let text = decode(bytes, dictionaries, base.as_deref())?;
    serde_json::from_slice(&text).map_err(|_| damaged())
}

/// Reads documents, each of which is mostly the next version of the one before: what they share is read once.
pub(in crate::store) struct Documents {
    log: redb::ReadOnlyTable<(u64, Rid), &'static [u8]>,
    dictionaries: Arc<Dictionaries>,
    /// Encoded documents of one resource that were read already.
    found: (Rid, BTreeMap<u64, Vec<u8>>),
    /// The last full document, by its revision.
    full: Option<(u64, Rid, Vec<u8>)>,
    last: Option<(u64, Rid, Arc<Value>)>,
}

impl Documents {
    pub fn new(log: redb::ReadOnlyTable<(u64, Rid), &'static [u8]>, dictionaries: Arc<Dictionaries>) -> Self {
        Self { log, dictionaries, found: (0, BTreeMap::new()), full: None, last: None }
    }

    /// Adds an encoded document that was read already, so that it is not read again.
    pub fn found(&mut self, revision: u64, rid: Rid, bytes: Vec<u8>) {
        if self.found.0 != rid {
            self.found = (rid, BTreeMap::new());
        }
        if !bytes.is_empty() {
            self.found.1.insert(revision, bytes);
        }
    }

    pub fn get(&mut self, revision: u64, rid: Rid) -> Result<Arc<Value>, StoreError> {
        if let Some((of, who, document)) = &self.last
            && (*of, *who) == (revision, rid)
        {
            return Ok(document.clone());
        }
        let bytes = self.read(revision, rid)?;
        let text = match base_of(&bytes)? {
            None => {
                let text = decode(&bytes, &self.dictionaries, None)?;
                self.full = Some((revision, rid, text.clone()));
                text
            }
            Some(base) => {
                if self.full.as_ref().is_none_or(|(of, who, _)| (*of, *who) != (base, rid)) {
                    let bytes = self.read(base, rid)?;
                    self.full = Some((base, rid, decode(&bytes, &self.dictionaries, None)?));
                }
                decode(&bytes, &self.dictionaries, self.full.as_ref().map(|(_, _, text)| &**text))?
            }
        };
        let document: Arc<Value> = Arc::new(serde_json::from_slice(&text).map_err(|_| damaged())?);
        self.last = Some((revision, rid, document.clone()));
        Ok(document)
    }

    fn read(&self, revision: u64, rid: Rid) -> Result<Vec<u8>, StoreError> {
        match self.found.1.get(&revision) {
            Some(bytes) if self.found.0 == rid => Ok(bytes.clone()),
            _ => log::document(&self.log, revision, rid),
        }
    }
}

/// Compresses documents of one type.
pub(in crate::store) struct Encoder<'a> {
    form: u8,
    argument: u64,
    full: Compressor<'a>,
    difference: Compressor<'static>,
}

impl<'a> Encoder<'a> {
    pub fn new(resource_type: &ResourceType, dictionaries: &'a Dictionaries) -> Self {
        let (form, argument, full) = match dictionaries.of_type(resource_type) {
            None => (PLAIN, 0, Compressor::new(ZSTD_LEVEL)),
            Some((number, dictionary)) => {
                (OF_TYPE, number.into(), Compressor::with_prepared_dictionary(&dictionary.encoder))
            }
        };
        let ready = |compressor: io::Result<Compressor<'a>>| {
            let mut compressor = compressor.expect("the level is a constant");
            plain_frames(&mut compressor);
            compressor
        };
        let mut difference = Compressor::new(ZSTD_LEVEL).expect("the level is a constant");
        plain_frames(&mut difference);
        Self { form, argument, full: ready(full), difference }
    }

    /// `base` is the last full version of the same resource: its revision and text.
    pub fn encode(&mut self, text: &[u8], base: Option<(u64, Vec<u8>)>) -> Vec<u8> {
        if let Some((revision, base)) = base {
            self.difference.set_dictionary(ZSTD_LEVEL, &base).expect("any bytes are a dictionary");
            let difference = framed(DIFFERENCE, (base.len(), revision), text, &mut self.difference);
            if difference.len() <= DIFFERENCE_ALWAYS_MAX_BYTES {
                return difference;
            }
            let full = framed(self.form, (0, self.argument), text, &mut self.full);
            return if difference.len() <= worth(full.len()) { difference } else { full };
        }
        framed(self.form, (0, self.argument), text, &mut self.full)
    }
}

/// The length is in our own header, and the record has its own checksum.
fn plain_frames(compressor: &mut Compressor<'_>) {
    compressor.include_contentsize(false).expect("a parameter that zstd knows");
    compressor.include_dictid(false).expect("a parameter that zstd knows");
}

/// The longest difference that is written instead of a full document of this length. A full document is due when
/// the changes since the last one cost half of it. A difference of a few dozen bytes is always better, since
/// hardly anything is shorter.
fn worth(full: usize) -> usize {
    (full / 2).max(DIFFERENCE_ALWAYS_MAX_BYTES.min(full))
}

/// `base` is the length of the base of a difference, otherwise 0.
fn framed(form: u8, (base, argument): (usize, u64), text: &[u8], compressor: &mut Compressor<'_>) -> Vec<u8> {
    let longer_by = signed(text.len()) - signed(base);
    let header = (form, longer_by, argument);
    let mut out = postcard::to_stdvec(&header).expect("numbers can be written to memory");
    let frame = compressor.compress(text).expect("memory can be compressed to memory");
    out.extend(frame.strip_prefix(&MAGIC).expect("every frame begins with it"));
    out
}

/// The revision of the full document that a difference is based on.
pub(in crate::store) fn base_of(bytes: &[u8]) -> Result<Option<u64>, StoreError> {
    let (form, _, argument, _) = parts(bytes)?;
    Ok((form == DIFFERENCE).then_some(argument))
}

/// The text of a document; `base` is the text that a difference is based on.
pub(in crate::store) fn decode(
    bytes: &[u8],
    dictionaries: &Dictionaries,
    base: Option<&[u8]>,
) -> Result<Vec<u8>, StoreError> {
    let (form, longer_by, argument, frame) = parts(bytes)?;
    let of_base = if form == DIFFERENCE { base.map_or(0, <[u8]>::len) } else { 0 };
    let length = usize::try_from(longer_by.saturating_add(signed(of_base))).map_err(|_| damaged())?;
    if length > DOCUMENT_MAX_BYTES {
        return Err(damaged());
    }
    let of_type =
        || -> Option<&Dictionary> { Some(dictionaries.by_number.get(usize::try_from(argument).ok()?)?.as_ref()) };
    let mut decompressor = match form {
        PLAIN => Decompressor::new(),
        OF_TYPE => Decompressor::with_prepared_dictionary(&of_type().ok_or_else(damaged)?.decoder),
        _ => Decompressor::with_dictionary(base.ok_or_else(damaged)?),
    }
    .map_err(|_| damaged())?;
    match decompressor.decompress(&[&MAGIC, frame].concat(), length) {
        Ok(text) if text.len() == length => Ok(text),
        _ => Err(damaged()),
    }
}

fn parts(bytes: &[u8]) -> Result<(u8, i64, u64, &[u8]), StoreError> {
    let ((form, longer_by, argument), frame) =
        postcard::take_from_bytes::<(u8, i64, u64)>(bytes).map_err(|_| damaged())?;
    if form > DIFFERENCE { Err(damaged()) } else { Ok((form, longer_by, argument, frame)) }
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).expect("documents are short")
}

fn damaged() -> StoreError {
    StoreError::Damaged { table: "log" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(n: usize, size: u32) -> Vec<u8> {
        let zone = ["eu-west-1a", "eu-west-1b"][n % 2];
        text(&json!({
            "Attachments": [{"AttachTime": "2026-11-01T00:00:00+00:00", "Device": "/dev/sda1", "InstanceId": format!("i-{:017x}", n * 7919), "State": "attached", "VolumeId": format!("vol-{n:017x}")}],
            "AvailabilityZone": zone, "CreateTime": "2026-11-01T00:00:00+00:00",
            "Encrypted": n.is_multiple_of(3), "Iops": 3000, "MultiAttachEnabled": false, "Size": size, "SnapshotId": "",
            "State": "in-use", "Throughput": 125, "VolumeId": format!("vol-{n:017x}"), "VolumeType": "gp3",
        }))
    }

    fn text(document: &Value) -> Vec<u8> {
        serde_json::to_vec(document).unwrap()
    }

    fn encode(
        text: &[u8],
        kind: &ResourceType,
        dictionaries: &Dictionaries,
        base: Option<(u64, Vec<u8>)>,
    ) -> Vec<u8> {
        Encoder::new(kind, dictionaries).encode(text, base)
    }

    fn kind() -> ResourceType {
        ResourceType::new("AWS::EC2::Volume")
    }

    fn trained() -> Dictionaries {
        let samples: Vec<Vec<u8>> = (0..DICTIONARY_SAMPLES).map(|n| volume(n, 8)).collect();
        let mut dictionaries = Dictionaries::default();
        dictionaries.add(kind(), train(&samples).expect("alike enough"));
        dictionaries
    }

    #[test]
    fn every_form_gives_back_what_it_took() {
        let (none, trained) = (Dictionaries::default(), trained());
        let (old, new) = (volume(9_999, 8), volume(9_999, 9));
        for (dictionaries, base, form) in
            [(&none, None, PLAIN), (&trained, None, OF_TYPE), (&trained, Some((7, old.clone())), DIFFERENCE)]
        {
            let bytes = encode(&new, &kind(), dictionaries, base);
            assert_eq!(bytes[0], form);
            assert_eq!(base_of(&bytes).unwrap(), (form == DIFFERENCE).then_some(7));
            assert_eq!(decode(&bytes, dictionaries, Some(&old)).unwrap(), new);
        }
        let empty = encode(b"{}", &kind(), &none, None);
        assert_eq!(decode(&empty, &none, None).unwrap(), b"{}");
    }

    #[test]
    fn a_dictionary_saves_most_of_a_document_and_a_difference_most_of_that() {
        let trained = trained();
        let (old, new) = (volume(9_999, 8), volume(9_999, 9));
        let full = encode(&old, &kind(), &trained, None).len();
        let difference = encode(&new, &kind(), &trained, Some((7, old.clone()))).len();
        assert!(full * 4 < old.len(), "{full} of {}", old.len());
        assert!(difference <= 40, "{difference} bytes for one changed number");
        let other = text(&json!({"Nothing": "alike", "List": (0..200).map(|n| n * n).collect::<Vec<_>>()}));
        let rewritten = encode(&other, &kind(), &trained, Some((7, old)));
        assert_eq!(rewritten[0], OF_TYPE, "what differs in most is written in full");
    }

    #[test]
    fn what_is_no_document_is_damaged_and_never_a_panic() {
        let trained = trained();
        let good = encode(&volume(1, 8), &kind(), &trained, Some((7, volume(1, 9))));
        for cut in 0..good.len() {
            assert!(decode(&good[..cut], &trained, Some(&volume(1, 9))).is_err(), "cut at {cut}");
        }
        assert!(decode(&good, &trained, None).is_err(), "without its base");
        let of_type = encode(&volume(1, 8), &kind(), &trained, None);
        assert!(decode(&of_type, &Dictionaries::default(), None).is_err(), "without its dictionary");
    }
}
