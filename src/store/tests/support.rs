//! Values, and a store with a clock that the test moves.

use super::*;

pub(crate) fn scope(region: &str) -> Scope {
    Scope {
        provider: "aws".into(),
        partition: "aws".into(),
        endpoint: "".into(),
        account: AccountId::new("111122223333"),
        region: Region::new(region),
        resource_type: ResourceType::new("AWS::EC2::Volume"),
    }
}

/// An empty complete sweep of one second.
pub(crate) fn sweep(started: Timestamp) -> Sweep {
    Sweep {
        scope: scope("eu-west-1"),
        started,
        ended: started.plus(Duration::from_secs(1)),
        cadence: None,
        shape: 1,
        ids: IdReuse::Unique,
        confirmation: Confirmation::ReadById,
        outcome: Outcome::Complete,
        observations: Vec::new(),
        absences: BTreeMap::new(),
        held: false,
        skew_millis: 0,
    }
}

pub(crate) fn observation(id: &str, tags: &[(&str, &str)], size: u64) -> Observation {
    Observation {
        id: id.to_owned(),
        tags: Tags::Known(tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
        attributes: (&serde_json::json!({"VolumeId": id, "Size": size})).into(),
        birth: None,
        end_state: None,
        unread: Vec::new(),
    }
}

/// A store with a clock that the test moves.
pub(super) struct Bed {
    pub store: Option<Store>,
    pub now: Arc<Mutex<Timestamp>>,
    pub dir: tempfile::TempDir,
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(Mutex::new("2026-11-24T00:00:00Z".parse::<Timestamp>().unwrap()));
        let mut bed = Self { store: None, now, dir };
        bed.reopen();
        bed
    }

    pub fn reopen(&mut self) {
        self.store = None;
        let now = self.now.clone();
        let clock: Clock = Arc::new(move || *now.lock().unwrap());
        self.store = Some(Store::open(&self.dir.path().join("elava.redb"), clock).unwrap());
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn pass(&self, seconds: u64) {
        let mut now = self.now.lock().unwrap();
        *now = now.plus(Duration::from_secs(seconds));
    }

    /// A sweep five minutes later, changed by `with`.
    pub fn sweep_with(&self, with: impl FnOnce(&mut Sweep)) -> Delta {
        self.pass(300);
        let mut sweep = sweep(self.store().now().minus(Duration::from_secs(1)));
        with(&mut sweep);
        // A sweep is committed a while after it ended.
        self.pass(2);
        self.store().commit(&sweep, None).unwrap()
    }

    pub fn see(&self, observations: &[Observation]) -> Delta {
        self.sweep_with(|s| s.observations = observations.to_vec())
    }

    /// A complete sweep that shows only these, and whose reads by id return NotFound for the missing ones.
    pub fn miss(&self, observations: &[Observation], missing: &[&str]) -> Delta {
        self.sweep_with(|s| {
            s.observations = observations.to_vec();
            s.absences = missing.iter().map(|id| ((*id).to_owned(), Absence::NotFound)).collect();
        })
    }

    pub fn live(&self, moment: Moment) -> Vec<String> {
        let snapshot = self.store().snapshot(moment).unwrap();
        snapshot.resources(&Filter::default()).unwrap().into_iter().map(|r| r.key.id.to_string()).collect()
    }
}

pub(super) fn kinds(delta: &Delta) -> Vec<(ChangeKind, String)> {
    delta.changes.iter().map(|c| (c.change, c.resource.id.to_string())).collect()
}

/// Documents that can't be compressed.
pub(super) fn large(ids: std::ops::Range<u32>) -> Vec<Observation> {
    let of = |id: u32| {
        let mut rng = SmallRng::seed_from_u64(id.into());
        let note: String = (0..1_500).map(|_| char::from(rng.random_range(b'!'..b'~'))).collect();
        let document = serde_json::json!({"VolumeId": format!("vol-{id}"), "Note": note});
        Observation { attributes: (&document).into(), ..observation(&format!("vol-{id}"), &[], 8) }
    };
    ids.map(of).collect()
}

/// The answers of a store, with everything that was ever in it.
pub(super) fn everything(store: &Store) -> String {
    let kept = |r: &u64| store.state().kept.is_kept(Revision(*r));
    let newest = store.state().kept.logged(store.revision().0);
    let states: Vec<_> = (1..=newest).filter(kept).map(|r| faults::state(store, Revision(r)).unwrap()).collect();
    let snapshot = store.snapshot(Moment::Revision(Revision(newest))).unwrap();
    format!("{states:#?} {}", serde_json::to_string(&snapshot.scopes()).unwrap())
}

/// With an end, a suspect, a visibility, notes, a checkpoint, and thinned days.
pub(super) fn well_used() -> Bed {
    let bed = Bed::new();
    let subscriber = Subscriber::from("team-a/one");
    for day in 0..6u64 {
        for n in 0..4u64 {
            bed.pass(3600 * 5);
            let mut sweep = sweep(bed.store().now().minus(Duration::from_secs(1)));
            sweep.cadence = Some(Duration::from_hours(6));
            sweep.observations =
                (day..day + 4).map(|id| observation(&format!("vol-{id}"), &[("Owner", "a")], n)).collect();
            sweep.absences = (0..day).map(|id| (format!("vol-{id}"), Absence::NotFound)).collect();
            bed.store().commit(&sweep, Some(&subscriber)).unwrap();
        }
        bed.store().write_notes(&subscriber, &[(format!("day/{day}"), Some(b"seen".to_vec()))]).unwrap();
    }
    bed.store().checkpoint().unwrap();
    bed.store()
        .retain(Retention { detail: Duration::from_hours(50), horizon: Duration::from_hours(1_000) })
        .unwrap();
    bed.see(&[observation("vol-9", &[], 1)]);
    bed
}

pub(super) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
