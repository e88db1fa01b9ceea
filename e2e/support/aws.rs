//! The AWS emulator, and clients that change its cloud through the AWS API.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_ec2::types::{InstanceType, ResourceType, Tag, TagSpecification};

use serde_json::{Value, json};

use super::process::Process;
use super::{DEADLINE, free_port, tools};

pub struct Emulator {
    pub url: String,
    _process: Process,
    cli: Arc<Cli>,
}

/// Calls through the AWS CLI's own library (e2e/tools/aws/hands.py): an SDK crate for each service would take most of the
/// time that the tests take to build.
struct Cli(Mutex<Option<CliProcess>>);

struct CliProcess {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for CliProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl CliProcess {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/tools/aws/hands.py");
        let mut python = Command::new(tools().join("aws/bin/python"));
        let mut child =
            python.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python runs");
        let (to, from) = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        Self { child, to, from: BufReader::new(from) }
    }
}

impl Cli {
    /// Blocks until the answer is there.
    fn call(&self, call: &Value) -> Value {
        let mut process = self.0.lock().expect("no call panicked");
        let process = process.get_or_insert_with(CliProcess::start);
        writeln!(process.to, "{call}").expect("it reads");
        let mut answer = String::new();
        process.from.read_line(&mut answer).expect("it answers");
        serde_json::from_str(&answer).expect("it answers with JSON")
    }
}

/// Who makes calls, and where.
pub struct Caller {
    cli: Arc<Cli>,
    url: String,
    region: String,
    keys: [Option<String>; 3],
}

impl Caller {
    /// One call of any service, by the names of its API.
    pub async fn call(&self, service: &str, operation: &str, input: Value) -> Value {
        let call = json!({
            "url": self.url, "region": self.region, "keys": self.keys,
            "service": service, "operation": operation, "input": input,
        });
        let cli = self.cli.clone();
        let mut answer = tokio::task::spawn_blocking(move || cli.call(&call)).await.expect("it answers");
        assert!(answer["error"].is_null(), "{}", answer["error"]);
        answer["answer"].take()
    }
}

impl Emulator {
    pub async fn start(dir: &Path) -> Self {
        let port = free_port();
        let process = Process::start(
            dir,
            "moto",
            &tools().join("aws/bin/moto_server"),
            ["-H".to_owned(), "127.0.0.1".to_owned(), "-p".to_owned(), port.to_string()],
            // By default each region has 500 images and their 1300 snapshots, which every account owns.
            &[("MOTO_EC2_LOAD_DEFAULT_AMIS", "false".to_owned())],
        );
        let emulator = Self {
            url: format!("http://127.0.0.1:{port}"),
            _process: process,
            cli: Arc::new(Cli(Mutex::default())),
        };
        let started = Instant::now();
        while reqwest::get(format!("{}/moto-api/", emulator.url)).await.is_err() {
            assert!(started.elapsed() < DEADLINE, "the emulator is not ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        emulator
    }

    /// Calls in the account that unknown keys belong to, with all rights.
    pub fn root(&self) -> Caller {
        self.caller("us-east-1", [Some("root".to_owned()), Some("root".to_owned()), None])
    }

    fn caller(&self, region: &str, keys: [Option<String>; 3]) -> Caller {
        Caller { cli: self.cli.clone(), url: self.url.clone(), region: region.to_owned(), keys }
    }

    /// Clients that may do everything in an account.
    pub async fn hands(&self, account: &str, region: &str) -> Hands {
        let base = config(&self.url, region, Credentials::new("root", "root", None, None, "test"));
        let role = format!("arn:aws:iam::{account}:role/hands");
        let assumed =
            aws_sdk_sts::Client::new(&base).assume_role().role_arn(role).role_session_name("hands").send();
        let assumed = assumed.await.expect("the emulator lets everybody assume every role");
        let keys = assumed.credentials().expect("an assumed role has credentials");
        let (id, secret) = (keys.access_key_id().to_owned(), keys.secret_access_key().to_owned());
        let token = keys.session_token().to_owned();
        let keys = Credentials::new(&id, &secret, Some(token.clone()), None, "test");
        Hands {
            ec2: aws_sdk_ec2::Client::new(&config(&self.url, region, keys)),
            others: self.caller(region, [Some(id), Some(secret), Some(token)]),
            region: region.to_owned(),
        }
    }
}

fn config(url: &str, region: &str, keys: Credentials) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new(region.to_owned()))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(keys))
        .build()
}

pub struct Hands {
    pub ec2: aws_sdk_ec2::Client,
    /// All services but EC2.
    pub others: Caller,
    region: String,
}

pub type TagList<'a> = &'a [(&'a str, &'a str)];

fn ec2_tags(tags: TagList) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect()
}

fn tag_list(tags: TagList) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect()
}

fn tagged(kind: ResourceType, tags: TagList) -> Option<Vec<TagSpecification>> {
    let specification = TagSpecification::builder().resource_type(kind).set_tags(Some(ec2_tags(tags))).build();
    (!tags.is_empty()).then(|| vec![specification])
}

impl Hands {
    /// One call of any service but EC2, by the names of its API.
    pub async fn call(&self, service: &str, operation: &str, input: Value) -> Value {
        self.others.call(service, operation, input).await
    }

    pub async fn volume(&self, tags: TagList<'_>) -> String {
        let call = self.ec2.create_volume().availability_zone(format!("{}a", self.region)).size(10);
        let made = call.set_tag_specifications(tagged(ResourceType::Volume, tags)).send().await;
        made.expect("a volume").volume_id.expect("it has an id")
    }

    pub async fn delete_volume(&self, id: &str) {
        self.ec2.delete_volume().volume_id(id).send().await.expect("the volume goes");
    }

    /// Creates an instance. Returns its id and the id of its root volume, which stays when the instance is terminated.
    pub async fn instance(&self, tags: TagList<'_>) -> (String, String) {
        let image = self.image().await;
        let device = aws_sdk_ec2::types::BlockDeviceMapping::builder()
            .device_name("/dev/sda1")
            .ebs(aws_sdk_ec2::types::EbsBlockDevice::builder().volume_size(8).delete_on_termination(false).build())
            .build();
        let call = self.ec2.run_instances().image_id(image).min_count(1).max_count(1);
        let made = call
            .instance_type(InstanceType::T3Micro)
            .block_device_mappings(device)
            .set_tag_specifications(tagged(ResourceType::Instance, tags))
            .send()
            .await
            .expect("an instance");
        let id = made.instances()[0].instance_id.clone().expect("it has an id");
        let described = self.ec2.describe_instances().instance_ids(&id).send().await.expect("it can be described");
        let instance = &described.reservations()[0].instances()[0];
        let volume = instance.block_device_mappings()[0].ebs().and_then(|e| e.volume_id()).expect("it has a root");
        (id, volume.to_owned())
    }

    /// Creates an Auto Scaling group of this size. Returns the ids of its instances.
    pub async fn scaling_group(&self, name: &str, size: i32) -> Vec<String> {
        let launch = json!({
            "LaunchConfigurationName": name, "ImageId": self.image().await, "InstanceType": "t3.micro",
        });
        self.call("autoscaling", "CreateLaunchConfiguration", launch).await;
        let group = json!({
            "AutoScalingGroupName": name, "LaunchConfigurationName": name, "MinSize": size, "MaxSize": size,
            "AvailabilityZones": [format!("{}a", self.region)],
        });
        self.call("autoscaling", "CreateAutoScalingGroup", group).await;
        let of_it = json!({ "AutoScalingGroupNames": [name] });
        let described = self.call("autoscaling", "DescribeAutoScalingGroups", of_it).await;
        let instances = described["AutoScalingGroups"][0]["Instances"].as_array().expect("it has instances");
        instances.iter().filter_map(|instance| instance["InstanceId"].as_str().map(str::to_owned)).collect()
    }

    /// Deletes the group with all its instances.
    pub async fn delete_scaling_group(&self, name: &str) {
        let input = json!({ "AutoScalingGroupName": name, "ForceDelete": true });
        self.call("autoscaling", "DeleteAutoScalingGroup", input).await;
    }

    async fn image(&self) -> String {
        let owned = self.ec2.describe_images().owners("self").send().await.expect("images");
        if let Some(id) = owned.images().first().and_then(|i| i.image_id()) {
            return id.to_owned();
        }
        let made = self.ec2.register_image().name("base").root_device_name("/dev/sda1");
        let id = made.send().await.expect("an image").image_id.expect("it has an id");
        let described = self.ec2.describe_images().image_ids(&id).send().await.expect("it can be described");
        let mappings =
            described.images().first().map(aws_sdk_ec2::types::Image::block_device_mappings).unwrap_or_default();
        let owned = [("owner", "platform"), ("Name", "base")];
        for snapshot in mappings.iter().filter_map(|m| m.ebs()?.snapshot_id()) {
            self.tag(snapshot, &owned).await;
        }
        self.tag(&id, &owned).await;
        id
    }

    pub async fn terminate(&self, id: &str) {
        self.ec2.terminate_instances().instance_ids(id).send().await.expect("the instance goes");
    }

    pub async fn snapshot(&self, volume: &str, tags: TagList<'_>) -> String {
        let call = self.ec2.create_snapshot().volume_id(volume);
        let made = call.set_tag_specifications(tagged(ResourceType::Snapshot, tags)).send().await;
        made.expect("a snapshot").snapshot_id.expect("it has an id")
    }

    pub async fn address(&self, tags: TagList<'_>) -> String {
        let call = self.ec2.allocate_address().domain(aws_sdk_ec2::types::DomainType::Vpc);
        let made = call.set_tag_specifications(tagged(ResourceType::ElasticIp, tags)).send().await;
        made.expect("an address").allocation_id.expect("it has an id")
    }

    pub async fn bucket(&self, name: &str, tags: TagList<'_>) {
        let mut input = json!({ "Bucket": name });
        if self.region != "us-east-1" {
            input["CreateBucketConfiguration"] = json!({ "LocationConstraint": self.region });
        }
        self.call("s3", "CreateBucket", input).await;
        if !tags.is_empty() {
            let input = json!({ "Bucket": name, "Tagging": { "TagSet": tag_list(tags) } });
            self.call("s3", "PutBucketTagging", input).await;
        }
    }

    pub async fn delete_bucket(&self, name: &str) {
        self.call("s3", "DeleteBucket", json!({ "Bucket": name })).await;
    }

    pub async fn database(&self, id: &str, tags: TagList<'_>) {
        let input = json!({
            "DBInstanceIdentifier": id, "Engine": "postgres", "DBInstanceClass": "db.t3.micro",
            "AllocatedStorage": 20, "MasterUsername": "u", "MasterUserPassword": "not-a-secret",
            "Tags": tag_list(tags),
        });
        self.call("rds", "CreateDBInstance", input).await;
    }

    /// Creates a secret. Returns its ARN.
    pub async fn secret(&self, name: &str, tags: TagList<'_>) -> String {
        let input = json!({ "Name": name, "SecretString": "not-a-secret", "Tags": tag_list(tags) });
        let made = self.call("secretsmanager", "CreateSecret", input).await;
        made["ARN"].as_str().expect("it has an ARN").to_owned()
    }

    /// Creates a backup vault. Returns its name.
    pub async fn vault(&self, name: &str, tags: TagList<'_>) -> String {
        let tags: serde_json::Map<String, Value> =
            tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let input = json!({ "BackupVaultName": name, "BackupVaultTags": tags });
        let made = self.call("backup", "CreateBackupVault", input).await;
        made["BackupVaultName"].as_str().expect("it has a name").to_owned()
    }

    pub async fn delete_vault(&self, name: &str) {
        self.call("backup", "DeleteBackupVault", json!({ "BackupVaultName": name })).await;
    }

    pub async fn table(&self, name: &str) {
        let input = json!({
            "TableName": name, "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{ "AttributeName": "k", "KeyType": "HASH" }],
            "AttributeDefinitions": [{ "AttributeName": "k", "AttributeType": "S" }],
        });
        self.call("dynamodb", "CreateTable", input).await;
    }

    pub async fn delete_table(&self, name: &str) {
        self.call("dynamodb", "DeleteTable", json!({ "TableName": name })).await;
    }

    /// Creates a queue. Returns its URL.
    pub async fn queue(&self, name: &str) -> String {
        let made = self.call("sqs", "CreateQueue", json!({ "QueueName": name })).await;
        made["QueueUrl"].as_str().expect("it has a URL").to_owned()
    }

    pub async fn delete_secret(&self, arn: &str) {
        let input = json!({ "SecretId": arn, "ForceDeleteWithoutRecovery": true });
        self.call("secretsmanager", "DeleteSecret", input).await;
    }

    pub async fn tag(&self, id: &str, tags: TagList<'_>) {
        self.ec2.create_tags().resources(id).set_tags(Some(ec2_tags(tags))).send().await.expect("tags");
    }

    pub async fn untag(&self, id: &str, keys: &[&str]) {
        let tags = keys.iter().map(|key| Tag::builder().key(*key).build()).collect();
        self.ec2.delete_tags().resources(id).set_tags(Some(tags)).send().await.expect("tags go");
    }
}
