//! The AWS emulator, and clients that change its cloud through the AWS API.

use std::path::Path;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_ec2::types::{InstanceType, ResourceType, Tag, TagSpecification};

use super::process::Process;
use super::{DEADLINE, free_port, tools};

pub struct Emulator {
    pub url: String,
    _process: Process,
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
        let emulator = Self { url: format!("http://127.0.0.1:{port}"), _process: process };
        let started = Instant::now();
        while reqwest::get(format!("{}/moto-api/", emulator.url)).await.is_err() {
            assert!(started.elapsed() < DEADLINE, "the emulator is not ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        emulator
    }

    /// A client for the organization of the account that unknown keys belong to.
    pub fn organizations(&self) -> aws_sdk_organizations::Client {
        let keys = Credentials::new("root", "root", None, None, "test");
        aws_sdk_organizations::Client::new(&config(&self.url, "us-east-1", keys))
    }

    /// A client that may create users in the account that unknown keys belong to.
    pub fn iam(&self) -> aws_sdk_iam::Client {
        let keys = Credentials::new("root", "root", None, None, "test");
        aws_sdk_iam::Client::new(&config(&self.url, "us-east-1", keys))
    }

    /// Clients that may do everything in an account.
    pub async fn hands(&self, account: &str, region: &str) -> Hands {
        let base = config(&self.url, region, Credentials::new("root", "root", None, None, "test"));
        let role = format!("arn:aws:iam::{account}:role/hands");
        let assumed =
            aws_sdk_sts::Client::new(&base).assume_role().role_arn(role).role_session_name("hands").send();
        let assumed = assumed.await.expect("the emulator lets everybody assume every role");
        let keys = assumed.credentials().expect("an assumed role has credentials");
        let keys = Credentials::new(
            keys.access_key_id(),
            keys.secret_access_key(),
            Some(keys.session_token().to_owned()),
            None,
            "test",
        );
        Hands::new(config(&self.url, region, keys))
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
    pub s3: aws_sdk_s3::Client,
    pub rds: aws_sdk_rds::Client,
    pub secrets: aws_sdk_secretsmanager::Client,
    pub backup: aws_sdk_backup::Client,
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub sqs: aws_sdk_sqs::Client,
    pub balancing: aws_sdk_elasticloadbalancingv2::Client,
    pub logs: aws_sdk_cloudwatchlogs::Client,
    pub scaling: aws_sdk_autoscaling::Client,
    region: String,
}

pub type TagList<'a> = &'a [(&'a str, &'a str)];

fn ec2_tags(tags: TagList) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect()
}

fn tagged(kind: ResourceType, tags: TagList) -> Option<Vec<TagSpecification>> {
    let specification = TagSpecification::builder().resource_type(kind).set_tags(Some(ec2_tags(tags))).build();
    (!tags.is_empty()).then(|| vec![specification])
}

impl Hands {
    fn new(config: SdkConfig) -> Self {
        let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        Self {
            ec2: aws_sdk_ec2::Client::new(&config),
            s3: aws_sdk_s3::Client::from_conf(s3),
            rds: aws_sdk_rds::Client::new(&config),
            secrets: aws_sdk_secretsmanager::Client::new(&config),
            backup: aws_sdk_backup::Client::new(&config),
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            sqs: aws_sdk_sqs::Client::new(&config),
            balancing: aws_sdk_elasticloadbalancingv2::Client::new(&config),
            logs: aws_sdk_cloudwatchlogs::Client::new(&config),
            scaling: aws_sdk_autoscaling::Client::new(&config),
            region: config.region().expect("it is set").to_string(),
        }
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
        let launch = self.scaling.create_launch_configuration().launch_configuration_name(name);
        let launch = launch.image_id(self.image().await).instance_type("t3.micro");
        launch.send().await.expect("a launch configuration");
        let group = self.scaling.create_auto_scaling_group().auto_scaling_group_name(name);
        let group = group.launch_configuration_name(name).min_size(size).max_size(size);
        let zone = format!("{}a", self.region);
        group.availability_zones(zone).send().await.expect("a group");
        let described = self.scaling.describe_auto_scaling_groups().auto_scaling_group_names(name).send().await;
        let described = described.expect("it can be described");
        let instances = described.auto_scaling_groups()[0].instances();
        instances.iter().filter_map(|i| i.instance_id().map(str::to_owned)).collect()
    }

    /// Deletes the group with all its instances.
    pub async fn delete_scaling_group(&self, name: &str) {
        let call = self.scaling.delete_auto_scaling_group().auto_scaling_group_name(name).force_delete(true);
        call.send().await.expect("the group goes");
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
        let mut call = self.s3.create_bucket().bucket(name);
        if self.region != "us-east-1" {
            let place = aws_sdk_s3::types::BucketLocationConstraint::from(self.region.as_str());
            let place = aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(place).build();
            call = call.create_bucket_configuration(place);
        }
        call.send().await.expect("a bucket");
        if !tags.is_empty() {
            let tag = |(key, value): &(&str, &str)| {
                aws_sdk_s3::types::Tag::builder().key(*key).value(*value).build().expect("key and value are set")
            };
            let set = aws_sdk_s3::types::Tagging::builder().set_tag_set(Some(tags.iter().map(tag).collect()));
            let set = set.build().expect("the set is there");
            self.s3.put_bucket_tagging().bucket(name).tagging(set).send().await.expect("its tags");
        }
    }

    pub async fn database(&self, id: &str, tags: TagList<'_>) {
        let tag = |(key, value): &(&str, &str)| aws_sdk_rds::types::Tag::builder().key(*key).value(*value).build();
        let call = self.rds.create_db_instance().db_instance_identifier(id).engine("postgres");
        let call = call.db_instance_class("db.t3.micro").allocated_storage(20).master_username("u");
        let call = call.master_user_password("not-a-secret").set_tags(Some(tags.iter().map(tag).collect()));
        call.send().await.expect("a database");
    }

    /// Creates a secret. Returns its ARN.
    pub async fn secret(&self, name: &str, tags: TagList<'_>) -> String {
        let tag = |(key, value): &(&str, &str)| {
            aws_sdk_secretsmanager::types::Tag::builder().key(*key).value(*value).build()
        };
        let call = self.secrets.create_secret().name(name).secret_string("not-a-secret");
        let made = call.set_tags(Some(tags.iter().map(tag).collect())).send().await;
        made.expect("a secret").arn.expect("it has an ARN")
    }

    /// Creates a backup vault. Returns its name.
    pub async fn vault(&self, name: &str, tags: TagList<'_>) -> String {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let call = self.backup.create_backup_vault().backup_vault_name(name).set_backup_vault_tags(Some(tags));
        call.send().await.expect("a vault").backup_vault_name.expect("it has a name")
    }

    pub async fn delete_vault(&self, name: &str) {
        self.backup.delete_backup_vault().backup_vault_name(name).send().await.expect("the vault goes");
    }

    pub async fn table(&self, name: &str) {
        use aws_sdk_dynamodb::types as dynamodb;
        let key = dynamodb::KeySchemaElement::builder().attribute_name("k").key_type(dynamodb::KeyType::Hash);
        let attribute = dynamodb::AttributeDefinition::builder();
        let attribute = attribute.attribute_name("k").attribute_type(dynamodb::ScalarAttributeType::S);
        let call = self.dynamodb.create_table().table_name(name);
        let call = call.billing_mode(dynamodb::BillingMode::PayPerRequest);
        let call = call.key_schema(key.build().expect("it is whole"));
        call.attribute_definitions(attribute.build().expect("it is whole")).send().await.expect("a table");
    }

    /// Creates a queue. Returns its URL.
    pub async fn queue(&self, name: &str) -> String {
        let made = self.sqs.create_queue().queue_name(name).send().await;
        made.expect("a queue").queue_url.expect("it has a URL")
    }

    pub async fn delete_secret(&self, arn: &str) {
        let call = self.secrets.delete_secret().secret_id(arn).force_delete_without_recovery(true);
        call.send().await.expect("the secret goes");
    }

    pub async fn tag(&self, id: &str, tags: TagList<'_>) {
        self.ec2.create_tags().resources(id).set_tags(Some(ec2_tags(tags))).send().await.expect("tags");
    }

    pub async fn untag(&self, id: &str, keys: &[&str]) {
        let tags = keys.iter().map(|key| Tag::builder().key(*key).build()).collect();
        self.ec2.delete_tags().resources(id).set_tags(Some(tags)).send().await.expect("tags go");
    }
}
