//! The ways in which a sweep can be wrong, row by row. In every row about a fault, a real deletion and a real loss of
//! tags in a scope without the fault are recorded in the same run.
//!
//! `cargo test --test integration truth::table -- --nocapture` prints the table.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use elava::cloud::Provider;
use elava::cloud::aws::Aws;
use elava::inventory::{
    ChangeKind, EndCause, Facts, LossLimits, Moment, Outcome, Presence, Reason, ScopeStatus, Snapshot, Subscriber,
    TagSet, Tags,
};
use elava::scanner::{Round, Subscription};
use futures::FutureExt;

use super::bed::{Bed, IRELAND, VIRGINIA, outcome, owner};
use serde_json::json;

use crate::support::aws::{Emulator, Hands};
use crate::support::proxy::{Call, Fault, Proxy, RuleId};

const VOLUME: &str = "AWS::EC2::Volume";
const INSTANCE: &str = "AWS::EC2::Instance";
const ADDRESS: &str = "AWS::EC2::EIP";
const BUCKET: &str = "AWS::S3::Bucket";
const TABLE: &str = "AWS::DynamoDB::Table";
const QUEUE: &str = "AWS::SQS::Queue";
/// The only one of these types whose API can't confirm by id whether a resource exists.
const VAULT: &str = "AWS::Backup::BackupVault";
const TYPES: [&str; 7] = [VOLUME, INSTANCE, ADDRESS, BUCKET, TABLE, QUEUE, VAULT];
const OWNED: &[(&str, &str)] = &[("owner", "a")];

struct Stage<'a> {
    bed: Bed,
    aws: &'a Emulator,
    proxy: &'a Proxy,
    virginia: Hands,
    /// In Virginia: a volume that is really deleted, one that really loses its tags, and one that stays.
    witnesses: [String; 3],
}

impl<'a> Stage<'a> {
    async fn new(number: usize, aws: &'a Emulator, proxy: &'a Proxy, provider: Arc<dyn Provider>) -> Self {
        let account = format!("{:012}", 200_000_000_000 + number);
        let bed = Bed::new(account.clone(), &TYPES, &[IRELAND, VIRGINIA], aws, proxy, provider).await;
        let virginia = aws.hands(&account, VIRGINIA).await;
        let witnesses = [virginia.volume(OWNED).await, virginia.volume(OWNED).await, virginia.volume(OWNED).await];
        Self { bed, aws, proxy, virginia, witnesses }
    }

    fn hands(&self) -> &Hands {
        &self.bed.hands
    }

    async fn volumes(&self, count: usize) -> Vec<String> {
        let mut volumes = Vec::new();
        for _ in 0..count {
            volumes.push(self.hands().volume(OWNED).await);
        }
        volumes
    }

    /// Adds a fault to the responses of Ireland, and to those of global services.
    fn fault(&self, matches: impl Fn(&Call) -> bool + Send + Sync + 'static, fault: Fault) -> RuleId {
        let is_mine = self.bed.is_mine();
        let is_here = move |c: &Call| is_mine(c) && (c.region == IRELAND || c.action.contains("Bucket"));
        self.proxy.fault(move |c| is_here(c) && matches(c), fault)
    }

    async fn sweep_once(&mut self) -> Round {
        self.bed.sweep_once().await
    }

    /// Sweeps when the listing of vaults is due again: sweeps that confirm each other are at least that far apart.
    async fn sweep_a_cadence_later(&mut self) -> Round {
        self.bed.pass(Duration::from_hours(6));
        self.sweep_once().await
    }

    async fn witness(&self) {
        self.virginia.delete_volume(&self.witnesses[0]).await;
        self.virginia.untag(&self.witnesses[1], &["owner"]).await;
    }

    /// The real changes elsewhere are recorded, and nothing else.
    fn assert_witnessed(&self) {
        let recorded = self.bed.recorded();
        assert!(!recorded[&self.witnesses[0]].is_live(), "a real deletion elsewhere is told");
        assert_eq!(recorded[&self.witnesses[1]].tags, Tags::Known(TagSet::default()), "a real loss of tags too");
        assert_eq!(owner(&recorded[&self.witnesses[2]]), Some("a"));
    }

    fn assert_live(&self, ids: &[String]) {
        let recorded = self.bed.recorded();
        for id in ids {
            let found = recorded.get(id).unwrap_or_else(|| panic!("{id} is recorded"));
            assert!(found.is_live(), "{id} is there, and said to be gone: {:?}", found.end);
            assert_eq!(owner(found), Some("a"), "{id} has its tags");
        }
    }

    fn presence(&self, id: &str) -> Presence {
        self.bed.recorded()[id].presence
    }

    fn end(&self, id: &str) -> Option<EndCause> {
        self.bed.recorded()[id].end.clone().map(|end| end.cause)
    }
}

fn refuse(status: u16, code: &'static str, message: &str) -> Fault {
    Fault::Refuse { status, code, message: message.to_owned() }
}

fn is_listing(c: &Call) -> bool {
    c.action == "DescribeVolumes" && !c.is_by_id()
}

async fn a_page_fails(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(12).await;
    stage.sweep_once().await;
    let rule = stage.fault(|c| is_listing(c) && c.page == 2, refuse(500, "InternalError", "no"));
    let new = stage.hands().volume(OWNED).await;
    stage.witness().await;
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Partial(Reason::ServerError));
    stage.assert_live(&volumes);
    stage.assert_witnessed();
    stage.proxy.heal(rule);
    stage.sweep_once().await;
    stage.assert_live(&[new]);
}

async fn throttled(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(7).await;
    stage.sweep_once().await;
    let rule = stage.fault(|c| is_listing(c) && c.page == 2, refuse(503, "RequestLimitExceeded", "slow down"));
    stage.witness().await;
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Partial(Reason::Throttled));
    assert!(stage.proxy.hits(rule) >= 2, "it is tried again");
    stage.assert_live(&volumes);
    stage.assert_witnessed();
}

async fn denied(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    let gone = stage.hands().address(OWNED).await;
    stage.sweep_once().await;
    stage.fault(is_listing, refuse(403, "UnauthorizedOperation", "You are not authorized"));
    stage.hands().ec2.release_address().allocation_id(&gone).send().await.unwrap();
    stage.witness().await;
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Failed(Reason::Denied));
    let error = round.scopes.values().find_map(|scope| scope.error.clone()).unwrap();
    assert_eq!(error.action.as_deref(), Some("ec2:DescribeVolumes"));
    stage.assert_live(&volumes);
    assert_eq!(stage.end(&gone), Some(EndCause::Absent), "other scopes go on");
    stage.assert_witnessed();
}

async fn denied_by_policy(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    let message =
        "not authorized to perform: ec2:DescribeVolumes with an explicit deny in a service control policy";
    stage.fault(is_listing, refuse(403, "UnauthorizedOperation", message));
    stage.witness().await;
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Failed(Reason::DeniedByPolicy));
    stage.assert_live(&volumes);
    stage.assert_witnessed();
    // This scope is swept daily, the others as usual.
    let is_requested = |round: &Round| {
        round.scopes.keys().any(|s| s.resource_type.as_str() == VOLUME && s.region.as_str() == IRELAND)
    };
    let hours = stage.bed.wait(Duration::from_hours(2)).await;
    assert!(!hours.scopes.is_empty() && !is_requested(&hours));
    assert!(is_requested(&stage.bed.wait(Duration::from_hours(30)).await));
}

async fn wrong_account(stage: &mut Stage<'_>) {
    let role =
        stage.bed.subscription.target.access.identity.replace("arn:aws:iam::999988887777:role/elava".to_owned());
    stage.volumes(1).await;
    stage.sweep_once().await;
    let report = &stage.bed.scanner.reports[&stage.bed.subscription.subscriber];
    let error = report.credentials.clone().unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::WrongAccount, "{error}");
    assert!(stage.bed.recorded().is_empty(), "nothing is recorded");
    stage.bed.subscription.target.access.identity = role;
    stage.sweep_once().await;
    assert_eq!(stage.bed.recorded().len(), 4);
}

/// The credentials of the session were replaced meanwhile.
async fn another_account_meanwhile(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(3).await;
    stage.sweep_once().await;
    let is_mine = stage.bed.is_mine();
    let other = r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:aws:sts::999988887777:assumed-role/elava/elava</Arn><UserId>AROA:elava</UserId><Account>999988887777</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"#;
    let rule = stage.proxy.fault(move |c| is_mine(c) && c.action == "GetCallerIdentity", Fault::Show(other));
    // The other account would return none of this account's resources.
    let hidden = stage.fault(|c| c.action == "DescribeVolumes", Fault::Hide(volumes.clone()));
    let round = stage.sweep_once().await;
    assert!(round.scopes.is_empty(), "nothing is listed with them: {:?}", round.scopes);
    let report = &stage.bed.scanner.reports[&stage.bed.subscription.subscriber];
    let error = report.credentials.clone().unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::WrongAccount, "{error}");
    stage.assert_live(&volumes);
    stage.proxy.heal(rule);
    stage.proxy.heal(hidden);
    stage.sweep_once().await;
    stage.assert_live(&volumes);
}

async fn session_expires(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(12).await;
    stage.sweep_once().await;
    let rule =
        stage.fault(|c| is_listing(c) && c.page == 2, refuse(400, "RequestExpired", "Request has expired."));
    stage.witness().await;
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Partial(Reason::InvalidCredentials));
    stage.assert_live(&volumes);
    stage.assert_witnessed();
    stage.proxy.heal(rule);
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Complete, "with a fresh session");
}

async fn region_not_enabled(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    stage.fault(is_listing, refuse(401, "OptInRequired", "You are not subscribed to this service"));
    stage.witness().await;
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Failed(Reason::RegionDisabled));
    stage.assert_live(&volumes);
    stage.assert_witnessed();
}

async fn regions_not_listed(stage: &mut Stage<'_>) {
    stage.bed.subscription.target.include_regions = Vec::new();
    let all = ["eu-north-1", "ap-south-1", "eu-west-3", "eu-west-2", "sa-east-1", "ca-central-1"];
    let excluded = all.map(elava::inventory::Region::new);
    stage.bed.subscription.target.exclude_regions = excluded.to_vec();
    stage.bed.subscription.types = vec![VOLUME];
    let volumes = stage.volumes(2).await;
    let before = stage.sweep_once().await.scopes.len();
    let is_mine = stage.bed.is_mine();
    let rule = stage
        .proxy
        .fault(move |c| is_mine(c) && c.action == "DescribeRegions", refuse(500, "InternalError", "no"));
    stage.witness().await;
    let round = stage.sweep_once().await;
    assert_eq!(round.scopes.len(), before, "the last complete list stands");
    assert!(stage.proxy.hits(rule) > 0);
    stage.assert_live(&volumes);
    stage.assert_witnessed();
}

async fn account_suspended(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    let account = stage.bed.account.clone();
    let is_own =
        move |c: &Call| c.action == "AssumeRole" && c.params.get("RoleArn").is_some_and(|r| r.contains(&account));
    let rule = stage.proxy.fault(is_own, refuse(403, "AccessDenied", "no"));
    // A new process has no session yet.
    let Bed { provider, store, account, subscription, .. } = &stage.bed;
    let endpoint = subscription.target.endpoint.clone();
    let account = elava::inventory::AccountId::new(account.as_str());
    stage.bed.scanner = elava::scanner::AccountScanner::new(provider.clone(), store.clone(), account, endpoint);
    stage.sweep_once().await;
    stage.assert_live(&volumes);
    stage.bed.pass(Duration::from_hours(2));
    assert_eq!(stage.presence(&volumes[0]), Presence::Unknown, "what is known goes stale");
    stage.proxy.heal(rule);
    stage.sweep_once().await;
    assert_eq!(stage.presence(&volumes[0]), Presence::Present);
}

async fn no_longer_watched(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    stage.bed.subscription.types.retain(|name| *name != VOLUME);
    stage.sweep_once().await;
    stage.assert_live(&volumes);
    let views = stage.bed.store.snapshot(Moment::Now).unwrap().scopes();
    let of_volumes = views.iter().filter(|view| view.scope.resource_type.as_str() == VOLUME);
    assert!(of_volumes.clone().count() == 2 && of_volumes.clone().all(|v| v.status == ScopeStatus::NotWatched));
    assert_eq!(stage.presence(&volumes[0]), Presence::Unknown);
}

async fn first_sweep(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    assert!(volumes.iter().all(|id| stage.bed.recorded()[id].baseline), "they were there before");
    let new = stage.hands().volume(OWNED).await;
    stage.sweep_once().await;
    assert!(!stage.bed.recorded()[&new].baseline, "this one appeared");
    // Watched again: resources that exist were there before the new watch began.
    let types = stage.bed.subscription.types.clone();
    stage.bed.subscription.types.retain(|name| *name != VOLUME);
    stage.sweep_once().await;
    let meanwhile = stage.hands().volume(OWNED).await;
    stage.bed.subscription.types = types;
    stage.sweep_once().await;
    assert!(stage.bed.recorded()[&meanwhile].baseline);
    stage.assert_live(&volumes);
}

async fn eventually_consistent(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    let vault = stage.hands().vault("elava-eventually", OWNED).await;
    stage.sweep_once().await;
    let hidden = vec![volumes[0].clone(), vault.clone()];
    let rule = stage.fault(|c| is_listing(c) || c.service == "backup", Fault::Hide(hidden));
    stage.witness().await;
    stage.sweep_once().await;
    stage.assert_live(&volumes);
    stage.assert_live(std::slice::from_ref(&vault));
    assert!(stage.bed.recorded()[&vault].suspect.is_some(), "without a read by id it is a suspect");
    stage.assert_witnessed();
    stage.proxy.heal(rule);
    stage.sweep_once().await;
    assert!(stage.bed.recorded()[&vault].suspect.is_none());
    // Really gone: two sweeps agree.
    stage.hands().delete_vault(&vault).await;
    stage.sweep_once().await;
    stage.sweep_once().await;
    assert!(stage.end(&vault).is_none(), "two looks at once are one");
    stage.sweep_a_cadence_later().await;
    assert_eq!(stage.end(&vault), Some(EndCause::Absent));
}

/// ElastiCache does this during each nightly snapshot, also for the read by id.
async fn tag_call_finds_nothing(stage: &mut Stage<'_>) {
    let bucket = format!("elava-busy-{}", stage.bed.account);
    stage.hands().bucket(&bucket, OWNED).await;
    stage.sweep_once().await;
    let not_found = || refuse(404, "NoSuchBucket", "it is busy");
    stage.fault(|c| c.action == "GetBucketTagging", not_found());
    stage.witness().await;
    for _ in 0..3 {
        let round = stage.sweep_once().await;
        assert_eq!(outcome(&round, BUCKET, "global"), Outcome::Complete);
        let unread: usize = round.scopes.values().flat_map(|scope| scope.unread.values()).sum();
        assert!(unread >= 1, "blindness is told");
        stage.assert_live(std::slice::from_ref(&bucket));
    }
    stage.assert_witnessed();
}

async fn description_is_denied(stage: &mut Stage<'_>) {
    let (closed, open) = ("elava-closed", "elava-open");
    stage.hands().table(closed).await;
    stage.hands().table(open).await;
    stage.sweep_once().await;
    let names = [closed.to_owned(), open.to_owned()];
    let is_closed = |c: &Call| {
        c.action == "DescribeTable" && c.params.get("TableName").is_some_and(|name| name == "elava-closed")
    };
    stage.fault(is_closed, refuse(400, "AccessDeniedException", "the policy of the table is closed"));
    stage.witness().await;
    let before = stage.bed.store.revision();
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, TABLE, IRELAND), Outcome::Complete, "no error of its neighbours");
    let reported =
        round.scopes.values().flat_map(|scope| scope.unread.keys()).any(|u| u.action == "dynamodb:DescribeTable");
    assert!(reported, "the missing action is named");
    let recorded = stage.bed.recorded();
    assert!(names.iter().all(|name| recorded[name].is_live() && recorded[name].presence == Presence::Present));
    assert!(recorded[closed].changed <= before, "what was known of it goes on");
    stage.assert_witnessed();
}

/// "Not found" about another resource than the requested one, or with an undocumented code.
async fn another_not_found(stage: &mut Stage<'_>) {
    let table = "elava-other-code";
    stage.hands().table(table).await;
    stage.sweep_once().await;
    stage.fault(|c| c.action == "DescribeTable", refuse(400, "BackupNotFoundException", "of another thing"));
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, TABLE, IRELAND), Outcome::Complete, "it is listed");
    assert_eq!(stage.presence(table), Presence::Present);
    stage.fault(|c| c.action == "ListTables", Fault::Show(r#"{"TableNames": []}"#));
    stage.witness().await;
    for _ in 0..3 {
        stage.sweep_once().await;
        assert!(stage.bed.recorded()[table].is_live(), "nothing says that it is gone");
    }
    stage.assert_witnessed();
}

/// Outside the region where the partition began, a bucket's date changes with each change of its policy.
async fn moving_date(stage: &mut Stage<'_>) {
    let (aws, proxy, provider) = (stage.aws, stage.proxy, stage.bed.provider.clone());
    let mut china = Bed::new(stage.bed.account.clone(), &[BUCKET], &["cn-north-1"], aws, proxy, provider).await;
    china.sweep_once().await;
    for date in ["2026-01-01", "2026-02-01"] {
        let show = format!(
            "<ListAllMyBucketsResult><Buckets><Bucket><Name>elava-moves</Name>\
             <CreationDate>{date}T08:00:00.000Z</CreationDate><BucketRegion>cn-north-1</BucketRegion></Bucket></Buckets>\
             </ListAllMyBucketsResult>"
        );
        let is_mine = china.is_mine();
        let rule = stage.proxy.fault(move |c| is_mine(c) && c.action == "ListBuckets", Fault::Show(show.leak()));
        let round = china.sweep_once().await;
        assert_eq!(outcome(&round, BUCKET, "global"), Outcome::Complete);
        let reported: Vec<_> = round.changes.iter().map(|change| change.change).collect();
        let first = date == "2026-01-01";
        assert_eq!(reported, if first { vec![ChangeKind::Appeared] } else { Vec::new() }, "{date}");
        stage.proxy.heal(rule);
    }
    assert_eq!(china.recorded()["elava-moves"].birth, None, "no birth is known of it");
}

/// The strictest CloudScan of a shared scope sets how many sweeps must agree, whichever CloudScan lists it.
async fn strictest_confirmations(stage: &mut Stage<'_>) {
    let vault = stage.hands().vault("elava-strict", OWNED).await;
    let [one, mut other] = stage.bed.two_cloud_scans();
    other.confirmations = 4;
    let both = [one, other];
    stage.bed.sweep_for(&both).await;
    stage.hands().delete_vault(&vault).await;
    for _ in 0..3 {
        stage.bed.pass(Duration::from_hours(6));
        stage.bed.sweep_for(&both).await;
        assert!(stage.bed.recorded()[&vault].is_live(), "four must agree");
    }
    stage.bed.pass(Duration::from_hours(6));
    stage.bed.sweep_for(&both).await;
    assert_eq!(stage.end(&vault), Some(EndCause::Absent));
}

/// The CloudScan of the bed, and another team's with its own role.
fn with_another_role(stage: &Stage<'_>) -> [Subscription; 2] {
    let [one, mut other] = stage.bed.two_cloud_scans();
    other.target.access.identity = Some(format!("arn:aws:iam::{}:role/other", stage.bed.account));
    [one, other]
}

fn is_visible_to(stage: &Stage<'_>, subscriber: &str) -> bool {
    let visibilities = stage.bed.store.visibilities();
    visibilities.iter().any(|(v, scope)| {
        v.as_str() == subscriber && scope.resource_type.as_str() == VOLUME && scope.region.as_str() == IRELAND
    })
}

/// Earlier states stay readable: visibility is part of each state.
async fn visibility_ends_with_its_rights(stage: &mut Stage<'_>) {
    stage.volumes(2).await;
    let both = with_another_role(stage);
    for _ in 0..2 {
        stage.bed.sweep_for(&both).await;
    }
    assert!(is_visible_to(stage, "team-a/one") && is_visible_to(stage, "team-b/two"), "each has proven itself");
    let seen = stage.bed.store.revision();
    stage
        .fault(|c| c.role == "other" && c.action == "DescribeVolumes", refuse(403, "UnauthorizedOperation", "no"));
    stage.bed.sweep_for(&both).await;
    assert!(is_visible_to(stage, "team-b/two"), "a proof is good for a while");
    stage.bed.pass(Duration::from_hours(13));
    // Both must be renewed: one after the other.
    stage.bed.sweep_for(&both).await;
    stage.bed.sweep_for(&both).await;
    assert!(!is_visible_to(stage, "team-b/two"), "and ends where it can't be renewed");
    assert!(is_visible_to(stage, "team-a/one"));
    let past = stage.bed.store.snapshot(Moment::Revision(seen)).unwrap();
    let visible = past.visible(&Subscriber::new("team-b/two"));
    assert!(visible.keys().any(|scope| scope.resource_type.as_str() == VOLUME), "the past that it saw is its own");
}

async fn visibility_ends_after_its_day(stage: &mut Stage<'_>) {
    stage.volumes(2).await;
    let both = with_another_role(stage);
    for _ in 0..2 {
        stage.bed.sweep_for(&both).await;
    }
    // The other role cannot be assumed from here on, and nobody says that it may not.
    stage.proxy.fault(assumes_other_role(stage), refuse(500, "InternalFailure", "no"));
    stage.bed.scanner = stage.bed.another_scanner();
    stage.bed.pass(Duration::from_hours(23));
    stage.bed.sweep_for(&both).await;
    assert!(is_visible_to(stage, "team-b/two"), "within its day");
    stage.bed.pass(Duration::from_hours(1));
    stage.bed.sweep_for(&both).await;
    assert!(!is_visible_to(stage, "team-b/two"), "what others see is not its to see");
}

/// Nobody scanned for longer than a proof is valid: the first sweep of one shows nothing to the other unless its own
/// credentials list the scope in that sweep, and takes nothing from it if they do.
async fn lapsed_while_nobody_scanned(stage: &mut Stage<'_>) {
    stage.volumes(2).await;
    let both = with_another_role(stage);
    for _ in 0..2 {
        stage.bed.sweep_for(&both).await;
    }
    stage.bed.pass(Duration::from_hours(25));
    stage.bed.sweep_for(&both).await;
    assert!(is_visible_to(stage, "team-a/one") && is_visible_to(stage, "team-b/two"), "both list it");
    stage.bed.pass(Duration::from_hours(25));
    // The older proof is tried first: each is once the one whose listing is recorded.
    stage.bed.sweep_for(&both).await;
    assert!(is_visible_to(stage, "team-a/one") && is_visible_to(stage, "team-b/two"), "both list it");
    stage.fault(|c| c.role == "other" && c.action == "DescribeVolumes", refuse(500, "InternalError", "try again"));
    stage.bed.scanner = stage.bed.another_scanner().with_page_bytes(1);
    stage.bed.pass(Duration::from_hours(25));
    stage.bed.sweep_for(&both).await;
    assert!(!is_visible_to(stage, "team-b/two"), "it could not list what is recorded now");
    assert!(is_visible_to(stage, "team-a/one"));
}

fn assumes_other_role(stage: &Stage<'_>) -> impl Fn(&Call) -> bool + Send + Sync + 'static {
    let other = format!("arn:aws:iam::{}:role/other", stage.bed.account);
    move |c: &Call| c.action == "AssumeRole" && c.params.get("RoleArn") == Some(&other)
}

async fn visibility_ends_with_the_role(stage: &mut Stage<'_>) {
    stage.volumes(2).await;
    let both = with_another_role(stage);
    for _ in 0..2 {
        stage.bed.sweep_for(&both).await;
    }
    assert!(is_visible_to(stage, "team-b/two"));
    stage.proxy.fault(
        assumes_other_role(stage),
        refuse(403, "AccessDenied", "not authorized to perform: sts:AssumeRole"),
    );
    // A session that lives goes on until its keys expire; a new one does not begin.
    stage.bed.scanner = stage.bed.another_scanner();
    stage.bed.sweep_for(&both).await;
    assert!(!is_visible_to(stage, "team-b/two"), "its role is not its any more");
    assert!(is_visible_to(stage, "team-a/one"));
}

async fn visibility_ends_with_the_permission(stage: &mut Stage<'_>) {
    stage.volumes(2).await;
    let both = with_another_role(stage);
    for _ in 0..2 {
        stage.bed.sweep_for(&both).await;
    }
    // Its spec was edited, and is refused: nothing is scanned for it.
    stage.bed.sweep_for(&both[..1]).await;
    assert!(is_visible_to(stage, "team-b/two"), "a refused spec keeps what was seen");
    let refused = elava::scanner::WithoutAccess::default();
    refused.lock().unwrap().insert(Subscriber::new("team-b/two"));
    stage.bed.scanner = stage.bed.another_scanner().without_access_of(refused);
    stage.bed.sweep_for(&both[..1]).await;
    assert!(!is_visible_to(stage, "team-b/two"), "the administrator does not allow its role any more");
    assert!(is_visible_to(stage, "team-a/one"));
}

async fn visibility_ends_with_the_account(stage: &mut Stage<'_>) {
    stage.volumes(2).await;
    let mut both = with_another_role(stage);
    for _ in 0..2 {
        stage.bed.sweep_for(&both).await;
    }
    assert!(is_visible_to(stage, "team-b/two"));
    both[1].target.access.identity = Some("arn:aws:iam::999988887777:role/other".to_owned());
    stage.bed.sweep_for(&both).await;
    assert!(!is_visible_to(stage, "team-b/two"), "credentials of another account see nothing of what others list");
    assert!(stage.bed.scanner.reports[&Subscriber::new("team-b/two")].next.is_none(), "nor when they do");
}

/// Its credentials list the tables but may not read their tags: tags that other credentials read are not visible to it.
async fn half_a_proof(stage: &mut Stage<'_>) {
    stage.hands().table("elava-half-proven").await;
    let [one, other] = with_another_role(stage);
    let reads_tags = |c: &Call| c.role == "other" && c.action == "ListTagsOfResource";
    stage.fault(reads_tags, refuse(400, "AccessDeniedException", "no"));
    let visibilities = |stage: &Stage<'_>, subscriber: &str| {
        let visible = stage.bed.store.snapshot(Moment::Now).unwrap().visible(&Subscriber::new(subscriber));
        visible.keys().any(|scope| scope.resource_type.as_str() == TABLE && scope.region.as_str() == IRELAND)
    };
    stage.bed.sweep_for(std::slice::from_ref(&other)).await;
    assert!(visibilities(stage, "team-b/two"), "what it reads by itself is its own");
    for _ in 0..2 {
        stage.bed.sweep_for(&[one.clone(), other.clone()]).await;
    }
    stage.bed.pass(Duration::from_hours(13));
    for _ in 0..2 {
        stage.bed.sweep_for(&[one.clone(), other.clone()]).await;
    }
    assert!(visibilities(stage, "team-a/one"));
    assert!(!visibilities(stage, "team-b/two"), "the tags are another's");
    let report = &stage.bed.scanner.reports[&other.subscriber];
    let reported = report.scopes.iter().find(|(_, scope)| scope.outcome == Outcome::Failed(Reason::Denied));
    let (_, reported) = reported.expect("it is reported");
    assert_eq!(
        reported.error.as_ref().and_then(|error| error.action.as_deref()),
        Some("dynamodb:ListTagsOfResource")
    );
}

/// A CloudScan without proven visibility can't make other credentials do more than they do anyway.
async fn steered_by_a_stranger(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(4).await;
    let [one, mut other] = with_another_role(stage);
    stage.bed.sweep_for(std::slice::from_ref(&one)).await;
    let is_stranger = |c: &Call| c.role == "other" && c.service == "ec2" && c.action != "DescribeRegions";
    stage.fault(is_stranger, refuse(403, "UnauthorizedOperation", "no"));
    other.interval = Duration::from_secs(1);
    other.confirmations = 9;
    other.loss = LossLimits { percent: 1, minimum: 1 };
    let listed = stage.fault(|c| c.role == "elava" && is_listing(c), Fault::Slow(Duration::ZERO));
    for second in 0..10 {
        other.requested_at = Some(second.to_string());
        stage.bed.pass(Duration::from_secs(1));
        stage.bed.scanner.round(&[one.clone(), other.clone()], false, &|_, _| {}).await;
    }
    assert_eq!(stage.proxy.hits(listed), 0, "ten requests, and an interval of a second");
    let report = &stage.bed.scanner.reports[&other.subscriber];
    let denied = report.scopes.values().filter(|scope| scope.outcome == Outcome::Failed(Reason::Denied)).count();
    assert!(denied > 0, "it hears that it is denied");
    stage.hands().delete_volume(&volumes[0]).await;
    let round = stage.bed.sweep_for(&[one, other]).await;
    assert!(round.scopes.values().all(|scope| !scope.held), "its limits hold nobody's losses");
    assert_eq!(stage.end(&volumes[0]), Some(EndCause::Absent));
    stage.assert_live(&volumes[1..]);
}

/// Listings leave out service-managed resources unless the request includes them, also by id.
async fn hidden_by_default(stage: &mut Stage<'_>) {
    let managed = stage.volumes(2).await;
    let (instance, _) = stage.hands().instance(OWNED).await;
    let requests = |c: &Call| c.params.get("IncludeManagedResources").is_some_and(|requests| requests == "true");
    for (action, ids) in [("DescribeVolumes", managed.clone()), ("DescribeInstances", vec![instance.clone()])] {
        stage.fault(move |c| c.action == action && !requests(c), Fault::Hide(ids));
    }
    stage.sweep_once().await;
    stage.sweep_once().await;
    stage.assert_live(&managed);
    stage.assert_live(&[instance]);
}

/// A resource that another account shares is listed without its tags: this account is not to tag it.
async fn shared_by_another(stage: &mut Stage<'_>) {
    const SHARED: &str = r#"<DescribeSubnetsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><subnetSet><item><subnetId>subnet-shared</subnetId><ownerId>999988887777</ownerId><state>available</state></item></subnetSet></DescribeSubnetsResponse>"#;
    let types = ["AWS::EC2::Subnet"];
    let (aws, proxy, provider) = (stage.aws, stage.proxy, stage.bed.provider.clone());
    let mut bed = Bed::new(stage.bed.account.clone(), &types, &[IRELAND], aws, proxy, provider).await;
    stage.fault(|c| c.action == "DescribeSubnets", Fault::Show(SHARED));
    bed.sweep_once().await;
    let recorded = bed.recorded();
    let shared = &recorded["subnet-shared"];
    assert_eq!(shared.tags, Tags::Untaggable);
    let attributes = bed.store.snapshot(Moment::Now).unwrap().attributes(shared).unwrap();
    let facts = Facts::of([Aws::default().facts()]);
    assert_eq!(facts.shared_by(&shared.key, &attributes), Some("999988887777"));
}

async fn tag_calls_are_throttled(stage: &mut Stage<'_>) {
    let bucket = format!("elava-throttled-{}", stage.bed.account);
    stage.hands().bucket(&bucket, OWNED).await;
    stage.sweep_once().await;
    let rule = stage.fault(|c| c.action == "GetBucketTagging", refuse(503, "SlowDown", "slow down"));
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, BUCKET, "global"), Outcome::Complete);
    assert!(stage.proxy.hits(rule) >= 2, "it is tried again");
    let unread =
        round.scopes.values().flat_map(|scope| scope.unread.keys()).any(|u| u.reason == Reason::Throttled);
    assert!(unread, "and told");
    stage.assert_live(&[bucket]);
}

async fn moved_or_shared(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    let recorded = stage.bed.recorded();
    assert!(volumes.iter().all(|id| recorded[id].is_live()));
    // Both regions return it, as both accounts return a shared resource.
    let show = r#"<DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><volumeSet><item><volumeId>vol-twice</volumeId><status>available</status></item></volumeSet></DescribeVolumesResponse>"#;
    let is_mine = stage.bed.is_mine();
    let rule = stage.proxy.fault(move |c| is_mine(c) && c.action == "DescribeVolumes", Fault::Show(show));
    let both = stage.sweep_once().await;
    assert!(both.changes.iter().all(|change| !change.moved), "{:?}", both.changes);
    stage.proxy.heal(rule);
}

/// Scopes are not due together: no scope and no round loses enough to be held alone.
async fn lost_by_and_by(stage: &mut Stage<'_>) {
    let (_, volumes) = eight_of_each(stage).await;
    stage.sweep_once().await;
    let mut rules = lose(stage, &[]);
    let round = stage.sweep_once().await;
    assert!(round.scopes.values().all(|scope| !scope.held), "eight are no mass");
    rules.push(stage.fault(|c| c.action == "DescribeVolumes", Fault::Hide(volumes.clone())));
    let round = stage.sweep_once().await;
    assert!(round.scopes.values().any(|scope| scope.held), "sixteen are: {:?}", round.scopes);
    stage.assert_live(&volumes);
    healed(stage, rules, &volumes).await;
}

/// As in the operator: each scope is swept when it is due, not all of them at once.
async fn lost_on_schedule(stage: &mut Stage<'_>) {
    let (tables, volumes) = eight_of_each(stage).await;
    stage.sweep_once().await;
    let rules = lose(stage, &volumes);
    let mut held = 0;
    for _ in 0..400 {
        let round = stage.bed.wait(Duration::from_secs(1)).await;
        held += round.scopes.values().filter(|scope| scope.held).count();
    }
    assert!(held > 0, "sixteen within minutes are held, whichever are looked at first");
    let recorded = stage.bed.recorded();
    let gone = tables.iter().chain(&volumes).filter(|id| !recorded[*id].is_live()).count();
    assert!(gone <= 8, "one scope's at most, which alone are no mass: {gone}");
    healed(stage, rules, &volumes).await;
}

async fn lost_over_a_restart(stage: &mut Stage<'_>) {
    let (tables, volumes) = eight_of_each(stage).await;
    stage.sweep_once().await;
    let mut rules = lose(stage, &[]);
    stage.sweep_once().await;
    let recorded = stage.bed.recorded();
    assert!(tables.iter().all(|id| !recorded[id].is_live()), "eight are no mass");
    stage.bed.scanner = stage.bed.another_scanner();
    rules.push(stage.fault(|c| c.action == "DescribeVolumes", Fault::Hide(volumes.clone())));
    let round = stage.sweep_once().await;
    assert!(round.scopes.values().any(|scope| scope.held), "sixteen are: {:?}", round.scopes);
    stage.assert_live(&volumes);
    healed(stage, rules, &volumes).await;
}

/// After these rules are removed, all of these volumes are seen again.
async fn healed(stage: &mut Stage<'_>, rules: Vec<RuleId>, volumes: &[String]) {
    for rule in rules {
        stage.proxy.heal(rule);
    }
    stage.sweep_once().await;
    stage.assert_live(volumes);
}

async fn eight_of_each(stage: &Stage<'_>) -> (Vec<String>, Vec<String>) {
    let mut tables = Vec::new();
    for number in 0..8 {
        let name = format!("elava-by-and-by-{number}");
        stage.hands().table(&name).await;
        tables.push(name);
    }
    (tables, stage.volumes(8).await)
}

/// Hides all tables and these volumes, also from reads by id.
fn lose(stage: &Stage<'_>, volumes: &[String]) -> Vec<RuleId> {
    let mut rules = vec![
        stage.fault(|c| c.action == "ListTables", Fault::Show(r#"{"TableNames": []}"#)),
        stage.fault(|c| c.action == "DescribeTable", refuse(400, "ResourceNotFoundException", "no")),
    ];
    if !volumes.is_empty() {
        rules.push(stage.fault(|c| c.action == "DescribeVolumes", Fault::Hide(volumes.to_vec())));
    }
    rules
}

async fn mass_loss(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(12).await;
    stage.sweep_once().await;
    // Hidden from reads by id, too: the cloud is wrong for a while.
    let rule = stage.fault(|c| c.action == "DescribeVolumes", Fault::Hide(volumes.clone()));
    let round = stage.sweep_once().await;
    assert!(round.scopes.values().any(|scope| scope.held), "it is held");
    stage.assert_live(&volumes);
    stage.proxy.heal(rule);
    stage.sweep_once().await;
    stage.assert_live(&volumes);
    for volume in &volumes {
        stage.hands().delete_volume(volume).await;
    }
    stage.sweep_once().await;
    stage.assert_live(&volumes);
    stage.witness().await;
    stage.sweep_once().await;
    assert!(volumes.iter().all(|id| stage.end(id) == Some(EndCause::Absent)), "a second look releases it");
    stage.assert_witnessed();
}

async fn mass_loss_that_nothing_can_prove(stage: &mut Stage<'_>) {
    let mut vaults = Vec::new();
    for number in 0..12 {
        vaults.push(stage.hands().vault(&format!("elava-all-{number}"), OWNED).await);
    }
    stage.sweep_once().await;
    let rule = stage.fault(|c| c.service == "backup", Fault::Hide(vaults.clone()));
    for _ in 0..3 {
        let round = stage.sweep_once().await;
        assert!(round.scopes.values().any(|scope| scope.awaits_release), "looks that agree prove nothing");
        stage.assert_live(&vaults);
    }
    stage.proxy.heal(rule);
    stage.sweep_once().await;
    assert!(vaults.iter().all(|id| stage.bed.recorded()[id].suspect.is_none()));
    for vault in &vaults {
        stage.hands().delete_vault(vault).await;
    }
    for _ in 0..3 {
        stage.sweep_once().await;
    }
    stage.assert_live(&vaults);
    stage.bed.subscription.released = vec![stage.bed.account.clone()];
    stage.witness().await;
    stage.sweep_once().await;
    stage.sweep_a_cadence_later().await;
    assert!(vaults.iter().all(|id| stage.end(id) == Some(EndCause::Absent)), "somebody says that they are gone");
    stage.assert_witnessed();
    // A new loss is held again, also if nothing else is swept.
    let mut more = Vec::new();
    for number in 0..12 {
        more.push(stage.hands().vault(&format!("elava-more-{number}"), OWNED).await);
    }
    stage.sweep_once().await;
    stage.fault(|c| c.service == "backup", Fault::Hide(more.clone()));
    assert!(stage.sweep_once().await.scopes.values().any(|scope| scope.held && scope.awaits_release));
    stage.assert_live(&more);
}

async fn mass_loss_of_a_part(stage: &mut Stage<'_>) {
    let mut vaults = Vec::new();
    for number in 0..12 {
        vaults.push(stage.hands().vault(&format!("elava-part-{number}"), OWNED).await);
    }
    let volumes = stage.volumes(60).await;
    stage.sweep_once().await;
    for vault in &vaults {
        stage.hands().delete_vault(vault).await;
    }
    let round = stage.sweep_once().await;
    assert!(round.scopes.values().any(|scope| scope.held && !scope.awaits_release), "all of the scope at once");
    stage.sweep_once().await;
    stage.sweep_a_cadence_later().await;
    assert!(vaults.iter().all(|id| stage.end(id) == Some(EndCause::Absent)), "it is no loss all over the account");
    stage.assert_live(&volumes);
}

/// The second page is denied after the first was recorded.
async fn a_page_fails_of_many(stage: &mut Stage<'_>) {
    stage.bed.scanner = stage.bed.another_scanner().with_page_bytes(1);
    let volumes = stage.volumes(8).await;
    let rule = stage.fault(
        |c| c.action == "DescribeVolumes" && c.page == 2,
        Fault::Refuse { status: 403, code: "UnauthorizedOperation", message: "no".to_owned() },
    );
    let cut_off = stage.sweep_once().await;
    assert_eq!(outcome(&cut_off, VOLUME, IRELAND), Outcome::Partial(Reason::Denied));
    let seen = stage.bed.recorded().len();
    assert!(seen > 0, "what was seen is recorded");
    stage.proxy.heal(rule);
    stage.witness().await;
    stage.hands().delete_volume(&volumes[0]).await;
    let whole = stage.sweep_once().await;
    assert_eq!(outcome(&whole, VOLUME, IRELAND), Outcome::Complete);
    assert_eq!(stage.end(&volumes[0]).is_some(), stage.bed.recorded().contains_key(&volumes[0]));
    stage.assert_live(&volumes[1..]);
    stage.assert_witnessed();
}

/// The first of two CloudScans is denied a page after its first page was recorded; the second gets all pages.
async fn a_page_fails_of_one_of_two(stage: &mut Stage<'_>) {
    stage.bed.scanner = stage.bed.another_scanner().with_page_bytes(1);
    let volumes = stage.volumes(8).await;
    let both = stage.bed.two_cloud_scans();
    stage.bed.sweep_for(&both).await;
    stage.witness().await;
    stage.hands().delete_volume(&volumes[7]).await;
    stage.hands().untag(&volumes[0], &["owner"]).await;
    let listings = AtomicUsize::new(0);
    let is_first = move |c: &Call| is_listing(c) && c.page == 2 && listings.fetch_add(1, Ordering::Relaxed) == 0;
    let rule = stage.fault(is_first, refuse(403, "UnauthorizedOperation", "no"));
    let round = stage.bed.sweep_for(&both).await;
    assert_eq!(stage.proxy.hits(rule), 1);
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Complete, "the second saw all of it");
    assert_eq!(stage.end(&volumes[7]), Some(EndCause::Absent));
    stage.assert_live(&volumes[1..7]);
    assert_eq!(stage.bed.recorded()[&volumes[0]].tags, Tags::Known(TagSet::default()));
    let untagged = round.changes.iter().filter(|c| *c.resource.id == *volumes[0]).count();
    assert_eq!(untagged, 1, "what both pages showed is told once");
    stage.assert_witnessed();
}

/// The volume that [`seen_later`] shows.
static SEEN_TWICE: OnceLock<String> = OnceLock::new();

/// One page with a large document, with another owner than before, and with more pages to come.
fn seen_later(_: &Call) -> String {
    let id = SEEN_TWICE.get().map_or("", String::as_str);
    let attached =
        "<item><instanceId>i-0123456789abcdef0</instanceId><device>/dev/sdf</device></item>".repeat(100);
    format!(
        "<DescribeVolumesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId><volumeSet><item>\
         <volumeId>{id}</volumeId><size>8</size><attachmentSet>{attached}</attachmentSet>\
         <tagSet><item><key>owner</key><value>b</value></item></tagSet></item></volumeSet>\
         <nextToken>proxy-more-5</nextToken></DescribeVolumesResponse>"
    )
}

/// Each of two CloudScans is denied the second page: the first had recorded nothing yet, and had seen more.
async fn both_are_cut_off(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(8).await;
    let both = stage.bed.two_cloud_scans();
    stage.bed.sweep_for(&both).await;
    let log = stage.proxy.log();
    let is_mine = stage.bed.is_mine();
    let shown = log
        .iter()
        .rfind(|l| is_mine(&l.call) && is_listing(&l.call) && l.call.page == 1 && l.call.region == IRELAND);
    let shown = &shown.expect("it was listed").body;
    let twice = volumes.iter().find(|id| shown.contains(id.as_str())).expect("the first page shows some");
    SEEN_TWICE.set(twice.clone()).expect("this row is played once");
    stage.bed.scanner = stage.bed.another_scanner().with_page_bytes(4 << 10);
    let pages = AtomicUsize::new(0);
    let later = move |c: &Call| is_listing(c) && c.page == 1 && pages.fetch_add(1, Ordering::Relaxed) == 1;
    let later = stage.fault(later, Fault::Make(seen_later));
    let denied = stage.fault(|c| is_listing(c) && c.page == 2, refuse(403, "UnauthorizedOperation", "no"));
    stage.witness().await;
    let round = stage.bed.sweep_for(&both).await;
    assert_eq!((stage.proxy.hits(later), stage.proxy.hits(denied)), (1, 2));
    assert_eq!(outcome(&round, VOLUME, IRELAND), Outcome::Partial(Reason::Denied));
    assert_eq!(owner(&stage.bed.recorded()[twice]), Some("b"), "what was seen last stands");
    stage.assert_witnessed();
}

/// S3 is queried by the prefix of a name.
async fn names_that_begin_alike(stage: &mut Stage<'_>) {
    let name = format!("alike-{}", stage.bed.account);
    let others = [format!("{name}-1"), format!("{name}-2")];
    for bucket in [&name, &others[0], &others[1]] {
        stage.hands().bucket(bucket, OWNED).await;
    }
    stage.sweep_once().await;
    stage.hands().delete_bucket(&name).await;
    stage.witness().await;
    let is_mine = stage.bed.is_mine();
    let tags_requested = |stage: &Stage<'_>| {
        let log = stage.proxy.log();
        log.iter().filter(|l| is_mine(&l.call) && l.call.action == "GetBucketTagging").count()
    };
    let before = tags_requested(stage);
    stage.sweep_once().await;
    assert_eq!(stage.end(&name), Some(EndCause::Absent));
    assert_eq!(tags_requested(stage) - before, 2, "by the listing, for each that it shows, and not again");
    stage.assert_live(&others);
    stage.assert_witnessed();
}

async fn huge_scope(stage: &mut Stage<'_>) {
    stage.bed.scanner = stage.bed.another_scanner().with_page_bytes(1);
    let volumes = stage.volumes(7).await;
    let first = stage.sweep_once().await;
    assert_eq!(first.changes.iter().filter(|c| volumes.contains(&c.resource.id.to_string())).count(), 7);
    assert!(first.changes.iter().all(|c| c.baseline));
    let before = stage.bed.store.revision();
    stage.sweep_once().await;
    assert_eq!(stage.bed.store.revision(), before, "pages that show nothing new change nothing");
    stage.witness().await;
    stage.hands().delete_volume(&volumes[3]).await;
    stage.sweep_once().await;
    assert_eq!(stage.end(&volumes[3]), Some(EndCause::Absent));
    let left: Vec<String> = volumes.iter().filter(|id| **id != volumes[3]).cloned().collect();
    stage.assert_live(&left);
    stage.assert_witnessed();
}

async fn end_state(stage: &mut Stage<'_>) {
    let (instance, _) = stage.hands().instance(OWNED).await;
    stage.sweep_once().await;
    stage.hands().terminate(&instance).await;
    let round = stage.sweep_once().await;
    let ends = |round: &Round| round.changes.iter().filter(|c| *c.resource.id == *instance).count();
    assert_eq!(stage.end(&instance), Some(EndCause::Listed("terminated".to_owned())));
    assert_eq!(ends(&round), 1);
    assert_eq!(ends(&stage.sweep_once().await), 0, "not a second time");
}

async fn empty_tags(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(3).await;
    stage.sweep_once().await;
    stage.fault(is_listing, Fault::EmptyTags);
    stage.hands().untag(&volumes[0], &["owner"]).await;
    stage.witness().await;
    stage.sweep_once().await;
    let recorded = stage.bed.recorded();
    assert_eq!(recorded[&volumes[0]].tags, Tags::Known(TagSet::default()), "DescribeTags confirms it");
    stage.assert_live(&volumes[1..]);
    stage.assert_witnessed();
    let changes = stage.bed.store.snapshot(Moment::Now).unwrap().history(&recorded[&volumes[1]]).unwrap();
    assert_eq!(changes.len(), 1, "it appeared, and that is all");
}

async fn tag_call_fails(stage: &mut Stage<'_>) {
    let bucket = "elava-truth-tags";
    stage.hands().bucket(bucket, OWNED).await;
    let read = stage.sweep_once().await;
    let read = read.scopes.iter().find(|(scope, _)| scope.resource_type.as_str() == BUCKET).map(|(_, r)| r.ended);
    stage.fault(|c| c.action == "GetBucketTagging", refuse(403, "AccessDenied", "no"));
    stage.witness().await;
    for _ in 0..2 {
        let round = stage.sweep_once().await;
        let earlier: Vec<_> = round.earlier_tags().flat_map(|(_, tags)| (*tags).clone()).collect();
        assert_eq!(earlier, [(bucket.to_owned(), read)], "of when its tags are");
    }
    stage.assert_live(&[bucket.to_owned()]);
    stage.assert_witnessed();
    stage.bed.scanner = stage.bed.another_scanner();
    let round = stage.sweep_once().await;
    let earlier: Vec<_> = round.earlier_tags().flat_map(|(_, tags)| (*tags).clone()).collect();
    assert_eq!(earlier, [(bucket.to_owned(), None)], "before this process began");
}

async fn no_such_tag_set(stage: &mut Stage<'_>) {
    stage.hands().bucket("elava-truth-bare", &[]).await;
    let rule = stage.fault(|c| c.action == "GetBucketTagging", refuse(403, "AccessDenied", "no"));
    stage.sweep_once().await;
    let tags = |stage: &Stage| stage.bed.recorded()["elava-truth-bare"].tags.clone();
    assert_eq!(tags(stage), Tags::Unknown);
    stage.proxy.heal(rule);
    stage.sweep_once().await;
    assert_eq!(tags(stage), Tags::Known(TagSet::default()), "untagged");
}

async fn vanishes_between_list_and_describe(stage: &mut Stage<'_>) {
    stage.hands().table("kept").await;
    stage.hands().table("vanishes").await;
    stage.sweep_once().await;
    stage.hands().delete_table("vanishes").await;
    // The listing is older than the deletion.
    stage.fault(|c| c.action == "ListTables", Fault::Show(r#"{"TableNames":["kept","vanishes"]}"#));
    let round = stage.sweep_once().await;
    assert_eq!(outcome(&round, TABLE, IRELAND), Outcome::Complete);
    assert_eq!(stage.end("vanishes"), Some(EndCause::Absent));
    assert!(stage.end("kept").is_none());
}

async fn comes_back(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    let rule = stage.fault(|c| c.action == "DescribeVolumes", Fault::Hide(volumes[..1].to_vec()));
    stage.sweep_once().await;
    assert_eq!(stage.end(&volumes[0]), Some(EndCause::Absent), "the cloud itself said so");
    stage.proxy.heal(rule);
    stage.sweep_once().await;
    let back = &stage.bed.recorded()[&volumes[0]];
    assert!(back.is_live() && back.retracted && back.baseline, "the same life goes on: {back:?}");
}

async fn replaced(stage: &mut Stage<'_>) {
    stage.hands().table("orders").await;
    stage.sweep_once().await;
    stage.hands().delete_table("orders").await;
    stage.hands().table("orders").await;
    let round = stage.sweep_once().await;
    let of_table: Vec<_> = round.changes.iter().filter(|c| &*c.resource.id == "orders").collect();
    assert_eq!(of_table.len(), 2, "{of_table:?}");
    assert_eq!(of_table[0].end.as_ref().map(|end| end.cause.clone()), Some(EndCause::Replaced));
    assert!(of_table[1].replaced && !of_table[1].baseline);
}

async fn a_week_away(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    let last_seen = stage.bed.store.now();
    stage.hands().delete_volume(&volumes[0]).await;
    stage.bed.pass(Duration::from_hours(7 * 24));
    assert_eq!(stage.presence(&volumes[0]), Presence::Unknown, "nobody looked");
    stage.sweep_once().await;
    let end = stage.bed.recorded()[&volumes[0]].end.clone().unwrap();
    assert!(end.last_seen <= last_seen && end.first_missed.since(end.last_seen) > Duration::from_hours(7 * 24));
    let new = stage.hands().volume(OWNED).await;
    stage.sweep_once().await;
    assert!(!stage.bed.recorded()[&new].baseline, "after a time of unknown things appear");
}

async fn volatile_fields(stage: &mut Stage<'_>) {
    let url = stage.hands().queue("orders").await;
    stage.sweep_once().await;
    let message = json!({ "QueueUrl": url, "MessageBody": "m" });
    stage.hands().call("sqs", "SendMessage", message).await;
    let round = stage.sweep_once().await;
    assert!(round.changes.is_empty(), "{:?}", round.changes);
    let attributes = json!({ "QueueUrl": url, "Attributes": { "VisibilityTimeout": "77" } });
    stage.hands().call("sqs", "SetQueueAttributes", attributes).await;
    assert_eq!(stage.sweep_once().await.changes.len(), 1, "what people set is a change");
}

async fn other_endpoint(stage: &mut Stage<'_>) {
    let volumes = stage.volumes(2).await;
    stage.sweep_once().await;
    // The same emulator at another address is another cloud.
    let elsewhere: Arc<str> = stage.aws.url.as_str().into();
    let Bed { provider, store, account, .. } = &stage.bed;
    let account = elava::inventory::AccountId::new(account.as_str());
    let mut scanner =
        elava::scanner::AccountScanner::new(provider.clone(), store.clone(), account, elsewhere.clone());
    let mut subscription = stage.bed.subscription.clone();
    subscription.target.endpoint = elsewhere.clone();
    stage.bed.pass(Duration::from_mins(5));
    scanner.round(std::slice::from_ref(&subscription), true, &|_, _| {}).await;
    let lives = stage.bed.store.snapshot(Moment::Now).unwrap();
    let lives = lives.resources(&elava::inventory::Filter { id: Some(volumes[0].clone()), ..Default::default() });
    assert_eq!(lives.unwrap().len(), 2, "one life here, one there: they share nothing");
}

async fn the_public_catalogue(stage: &mut Stage<'_>) {
    stage.bed.subscription.types = vec!["AWS::EC2::Snapshot", "AWS::EC2::Image"];
    stage.sweep_once().await;
    let is_mine = stage.bed.is_mine();
    let requested: Vec<Call> =
        stage.proxy.log().into_iter().map(|logged| logged.call).filter(|c| is_mine(c)).collect();
    for action in ["DescribeSnapshots", "DescribeImages"] {
        let calls: Vec<&Call> = requested.iter().filter(|c| c.action == action).collect();
        assert!(
            !calls.is_empty() && calls.iter().all(|c| c.params.get("Owner.1").is_some_and(|o| o == "self")),
            "{action}"
        );
    }
}

macro_rules! rows {
    ($($row:ident: $what:literal => $must:literal;)*) => {
        const ROWS: &[(&str, &str)] = &[$(($what, $must)),*];

        async fn play(number: usize, stage: &mut Stage<'_>) {
            let mut row = 0;
            $(
                if row == number {
                    return $row(stage).await;
                }
                row += 1;
            )*
            unreachable!("row {number} of {row}");
        }
    };
}

rows! {
    a_page_fails: "a page in the middle fails, for good, after retries" => "Partial: what was seen is recorded, nothing disappears";
    throttled: "throttled until the retries are spent" => "Partial(Throttled)";
    denied: "AccessDenied on one API of one account" => "Failed(Denied), the action named; other scopes go on";
    denied_by_policy: "an explicit deny by a service control policy" => "Failed(DeniedByPolicy)";
    another_account_meanwhile: "credentials come to answer for another account while their session lives" => "WrongAccount, nothing recorded, nothing gone";
    wrong_account: "the credentials answer for another account" => "WrongAccount, nothing recorded";
    other_endpoint: "another endpoint" => "another scope: nothing is shared";
    session_expires: "the session expires in the middle" => "Partial, a fresh session next";
    region_not_enabled: "the region is not enabled" => "Failed(RegionDisabled): unknown, not absent";
    regions_not_listed: "the list of regions fails" => "the last complete list stands, nothing closes";
    account_suspended: "nobody gets into the account any more" => "unknown with a reason";
    no_longer_watched: "a type is removed from the CloudScan" => "no longer watched, not disappeared";
    first_sweep: "the first complete look, also after it was closed" => "first seen, not appeared";
    eventually_consistent: "missing from one listing, back in the next" => "a suspect until confirmed";
    mass_loss: "more than 20 % and at least 10 vanish at once" => "held until a second look agrees";
    mass_loss_that_nothing_can_prove: "the same all over the account, of what has no read by id" => "held until somebody says that it is gone";
    mass_loss_of_a_part: "the same of a part of the account" => "looks that agree decide";
    a_page_fails_of_many: "a page fails of what is recorded page by page" => "what was seen is recorded, nothing disappears";
    a_page_fails_of_one_of_two: "the same, and another CloudScan gets them all" => "the whole truth, each change told once";
    both_are_cut_off: "the same, and the other one's is cut off, too" => "what was seen last stands";
    names_that_begin_alike: "a name that others begin with is asked for" => "it is gone, and of the others nothing is asked";
    huge_scope: "a scope of many pages, recorded page by page" => "the same as in one piece";
    end_state: "a listed end state" => "the end of that life, once";
    empty_tags: "tags come back empty under load" => "a loss counts when DescribeTags confirms it";
    tag_call_finds_nothing: "a tag call does not find what is busy, by id as well" => "there, its tags as they were, and told";
    description_is_denied: "one of those that are listed may not be described" => "there, attributes as they were, and told; its neighbours too";
    another_not_found: "an error says of something else that it is not found" => "nothing is gone";
    moving_date: "the date of a bucket moves, as it does where the partition did not begin" => "the same bucket, no change";
    strictest_confirmations: "two CloudScans share a scope and want different numbers of sweeps" => "the strictest holds";
    half_a_proof: "one of two CloudScans may not read the tags of what it lists" => "it sees nothing that the other's credentials read";
    visibility_ends_with_its_rights: "the listing of one of two CloudScans is denied" => "it sees the present no more, the past it does";
    visibility_ends_with_the_account: "the credentials of one of two CloudScans answer for another account" => "it sees the present no more";
    visibility_ends_with_the_role: "the role of one of two CloudScans may not be assumed any more" => "it sees the present no more";
    visibility_ends_with_the_permission: "the administrator does not allow the role of one of two CloudScans any more" => "it sees the present no more";
    lapsed_while_nobody_scanned: "nobody scanned for longer than a proof is valid" => "who can't list the scope in the first sweep sees nothing of it";
    visibility_ends_after_its_day: "one of two CloudScans can't get in any more" => "it sees the present for a day";
    steered_by_a_stranger: "a CloudScan that may see nothing asks for much" => "nobody else's listings, limits or confirmations change";
    hidden_by_default: "a listing leaves out what services manage unless it is asked for" => "it is asked for, by id as well";
    shared_by_another: "another account shares a subnet" => "no tags are asked of it, and its owner is told";
    tag_calls_are_throttled: "the tag calls are throttled until the retries are spent" => "unknown: the last known set goes on, and it is told";
    moved_or_shared: "the volume of another account's id is listed here, too" => "not moved while both live";
    lost_by_and_by: "a loss all over the account shows in one scope after the other" => "held once the sum is too much";
    lost_on_schedule: "the same, as scopes become due one by one" => "held once the sum is too much";
    lost_over_a_restart: "the same, and the operator restarts in between" => "held once the sum is too much";
    tag_call_fails: "the tag call of one resource fails" => "unknown: the last known set goes on";
    no_such_tag_set: "S3: AccessDenied on tags, or NoSuchTagSet" => "unknown, or untagged";
    vanishes_between_list_and_describe: "it vanishes between list and describe" => "absent by NotFound, no error of the look";
    comes_back: "a thing comes back" => "the same life: the tombstone is retracted";
    replaced: "deleted and made again between two looks" => "Replaced, by its birth field";
    a_week_away: "the operator was down for a week" => "absence dated between last seen and first missed";
    volatile_fields: "only volatile fields change" => "no change";
    the_public_catalogue: "snapshots and images" => "listed with owner=self alone";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_ends_as_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let aws = Emulator::start(dir.path()).await;
    let proxy = Proxy::start(&aws.url);
    let provider: Arc<dyn Provider> = Arc::new(Aws::new(1.0));
    let mut failed = Vec::new();
    for (number, (what, must)) in ROWS.iter().enumerate() {
        let mut stage = Stage::new(number, &aws, &proxy, provider.clone()).await;
        let played = AssertUnwindSafe(play(number, &mut stage)).catch_unwind().await;
        println!("| {} | {what} | {must} |", if played.is_ok() { "ok" } else { "LIE" });
        if played.is_err() {
            failed.push(*what);
        }
    }
    assert!(failed.is_empty(), "rows that did not end as they must: {failed:#?}");
}
