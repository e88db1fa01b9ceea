#!/usr/bin/env python3
"""Creates one resource of every type that Elava scans, each with the tag owner=a if the type supports tags.

    everything.py make URL ACCOUNT REGION      prints {"AWS::EC2::Volume": "vol-...", ...}

Types that the emulator can't create are left out, and reported on standard error.
"""
import json
import sys

import boto3

TAG = {"Key": "owner", "Value": "a"}
LOWER = {"key": "owner", "value": "a"}
MAP = {"owner": "a"}


def main(url, account, region):
    sts = boto3.client("sts", endpoint_url=url, region_name=region, aws_access_key_id="x", aws_secret_access_key="x")
    keys = sts.assume_role(RoleArn=f"arn:aws:iam::{account}:role/hands", RoleSessionName="hands")["Credentials"]
    session = boto3.Session(
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
        region_name=region,
    )

    def client(name):
        return session.client(name, endpoint_url=url)

    made = {}

    def make(name, work):
        try:
            made[name] = work()
        except Exception as error:  # Any failure of the emulator.
            print(f"{name}: {error}", file=sys.stderr)

    ec2 = client("ec2")

    def spec(kind):
        return {"TagSpecifications": [{"ResourceType": kind, "Tags": [TAG]}]}

    zone = region + "a"
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16", **spec("vpc"))["Vpc"]["VpcId"]
    made["AWS::EC2::VPC"] = vpc
    other = ec2.create_vpc(CidrBlock="10.2.0.0/16", **spec("vpc"))["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.1.0/24", AvailabilityZone=zone, **spec("subnet"))
    subnet = made["AWS::EC2::Subnet"] = subnet["Subnet"]["SubnetId"]
    second = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.2.0/24", AvailabilityZone=region + "b", **spec("subnet"))
    second = second["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc, **spec("security-group"))["GroupId"]
    made["AWS::EC2::SecurityGroup"] = group
    image = ec2.register_image(Name="base", RootDeviceName="/dev/sda1")["ImageId"]
    ec2.create_tags(Resources=[image], Tags=[TAG])
    made["AWS::EC2::Image"] = image
    make("AWS::EC2::Instance", lambda: ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet, **spec("instance"))["Instances"][0]["InstanceId"])
    volume = ec2.create_volume(AvailabilityZone=zone, Size=10, **spec("volume"))["VolumeId"]
    made["AWS::EC2::Volume"] = volume
    make("AWS::EC2::Snapshot", lambda: ec2.create_snapshot(VolumeId=volume, **spec("snapshot"))["SnapshotId"])
    make("AWS::EC2::EIP", lambda: ec2.allocate_address(Domain="vpc", **spec("elastic-ip"))["AllocationId"])
    make("AWS::EC2::NetworkInterface", lambda: ec2.create_network_interface(
        SubnetId=subnet, **spec("network-interface"))["NetworkInterface"]["NetworkInterfaceId"])
    make("AWS::EC2::RouteTable", lambda: ec2.create_route_table(
        VpcId=vpc, **spec("route-table"))["RouteTable"]["RouteTableId"])
    make("AWS::EC2::InternetGateway", lambda: ec2.create_internet_gateway(
        **spec("internet-gateway"))["InternetGateway"]["InternetGatewayId"])
    make("AWS::EC2::NatGateway", lambda: ec2.create_nat_gateway(
        SubnetId=subnet, **spec("natgateway"))["NatGateway"]["NatGatewayId"])
    make("AWS::EC2::KeyPair", lambda: ec2.create_key_pair(KeyName="k", **spec("key-pair"))["KeyPairId"])
    make("AWS::EC2::LaunchTemplate", lambda: ec2.create_launch_template(
        LaunchTemplateName="t", LaunchTemplateData={"ImageId": image},
        **spec("launch-template"))["LaunchTemplate"]["LaunchTemplateId"])
    make("AWS::EC2::VPCEndpoint", lambda: ec2.create_vpc_endpoint(
        VpcId=vpc, ServiceName=f"com.amazonaws.{region}.s3", **spec("vpc-endpoint"))["VpcEndpoint"]["VpcEndpointId"])
    make("AWS::EC2::VPCPeeringConnection", lambda: ec2.create_vpc_peering_connection(
        VpcId=vpc, PeerVpcId=other,
        **spec("vpc-peering-connection"))["VpcPeeringConnection"]["VpcPeeringConnectionId"])
    transit = ec2.create_transit_gateway(**spec("transit-gateway"))["TransitGateway"]["TransitGatewayId"]
    made["AWS::EC2::TransitGateway"] = transit

    def attachment():
        made = ec2.create_transit_gateway_vpc_attachment(TransitGatewayId=transit, VpcId=vpc, SubnetIds=[subnet])
        made = made["TransitGatewayVpcAttachment"]["TransitGatewayAttachmentId"]
        ec2.create_tags(Resources=[made], Tags=[TAG])
        return made

    make("AWS::EC2::TransitGatewayAttachment", attachment)

    def vpn():
        customer = ec2.create_customer_gateway(Type="ipsec.1", PublicIp="203.0.113.1", BgpAsn=65000)
        customer = customer["CustomerGateway"]["CustomerGatewayId"]
        connection = ec2.create_vpn_connection(
            Type="ipsec.1", CustomerGatewayId=customer, TransitGatewayId=transit, **spec("vpn-connection"))
        return connection["VpnConnection"]["VpnConnectionId"]

    make("AWS::EC2::VPNConnection", vpn)
    make("AWS::EC2::NetworkAcl", lambda: ec2.create_network_acl(
        VpcId=vpc, **spec("network-acl"))["NetworkAcl"]["NetworkAclId"])
    client("s3").create_bucket(
        Bucket="elava-flow", CreateBucketConfiguration={"LocationConstraint": region})
    make("AWS::EC2::FlowLog", lambda: ec2.create_flow_logs(
        ResourceIds=[vpc], ResourceType="VPC", TrafficType="ALL", LogDestinationType="s3",
        LogDestination="arn:aws:s3:::elava-flow", **spec("vpc-flow-log"))["FlowLogIds"][0])
    elb = client("elbv2")
    make("AWS::ElasticLoadBalancingV2::LoadBalancer", lambda: elb.create_load_balancer(
        Name="lb", Subnets=[subnet, second], Tags=[TAG])["LoadBalancers"][0]["LoadBalancerArn"])
    make("AWS::ElasticLoadBalancingV2::TargetGroup", lambda: elb.create_target_group(
        Name="tg", Protocol="HTTP", Port=80, VpcId=vpc, Tags=[TAG])["TargetGroups"][0]["TargetGroupArn"])

    def group_of_instances():
        scaling = client("autoscaling")
        scaling.create_launch_configuration(LaunchConfigurationName="lc", ImageId=image, InstanceType="t3.micro")
        scaling.create_auto_scaling_group(
            AutoScalingGroupName="asg", LaunchConfigurationName="lc", MinSize=0, MaxSize=0,
            VPCZoneIdentifier=subnet, Tags=[{**TAG, "PropagateAtLaunch": True}])
        return "asg"

    make("AWS::AutoScaling::AutoScalingGroup", group_of_instances)

    rds = client("rds")
    database = dict(Engine="postgres", MasterUsername="u", MasterUserPassword="not-a-secret")
    make("AWS::RDS::DBInstance", lambda: rds.create_db_instance(
        DBInstanceIdentifier="db", DBInstanceClass="db.t3.micro", AllocatedStorage=20, Tags=[TAG],
        **database)["DBInstance"]["DBInstanceIdentifier"])
    make("AWS::RDS::DBCluster", lambda: rds.create_db_cluster(
        DBClusterIdentifier="cluster", Tags=[TAG],
        **{**database, "Engine": "aurora-postgresql"})["DBCluster"]["DBClusterIdentifier"])
    make("AWS::RDS::DBSnapshot", lambda: rds.create_db_snapshot(
        DBSnapshotIdentifier="snap", DBInstanceIdentifier="db", Tags=[TAG])["DBSnapshot"]["DBSnapshotIdentifier"])
    make("AWS::RDS::DBClusterSnapshot", lambda: rds.create_db_cluster_snapshot(
        DBClusterSnapshotIdentifier="csnap", DBClusterIdentifier="cluster",
        Tags=[TAG])["DBClusterSnapshot"]["DBClusterSnapshotIdentifier"])

    def bucket():
        s3 = client("s3")
        s3.create_bucket(Bucket="elava-every", CreateBucketConfiguration={"LocationConstraint": region})
        s3.put_bucket_tagging(Bucket="elava-every", Tagging={"TagSet": [TAG]})
        return "elava-every"

    make("AWS::S3::Bucket", bucket)
    cache = client("elasticache")
    make("AWS::ElastiCache::CacheCluster", lambda: cache.create_cache_cluster(
        CacheClusterId="cache", Engine="redis", CacheNodeType="cache.t3.micro", NumCacheNodes=1,
        Tags=[TAG])["CacheCluster"]["CacheClusterId"])
    make("AWS::ElastiCache::ReplicationGroup", lambda: cache.create_replication_group(
        ReplicationGroupId="rg", ReplicationGroupDescription="rg", Engine="redis", CacheNodeType="cache.t3.micro",
        Tags=[TAG])["ReplicationGroup"]["ReplicationGroupId"])
    make("AWS::Redshift::Cluster", lambda: client("redshift").create_cluster(
        ClusterIdentifier="red", NodeType="ra3.xlplus", MasterUsername="u", MasterUserPassword="Not-a-secret1",
        Tags=[TAG])["Cluster"]["ClusterIdentifier"])
    make("AWS::OpenSearchService::Domain", lambda: client("opensearch").create_domain(
        DomainName="search", TagList=[TAG])["DomainStatus"]["DomainName"])
    make("AWS::DynamoDB::Table", lambda: client("dynamodb").create_table(
        TableName="table", KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}], BillingMode="PAY_PER_REQUEST",
        Tags=[TAG])["TableDescription"]["TableName"])
    make("AWS::EFS::FileSystem", lambda: client("efs").create_file_system(
        CreationToken="t", Tags=[TAG])["FileSystemId"])
    make("AWS::FSx::FileSystem", lambda: client("fsx").create_file_system(
        FileSystemType="LUSTRE", StorageCapacity=1200, SubnetIds=[subnet],
        Tags=[TAG])["FileSystem"]["FileSystemId"])

    iam = client("iam")
    trust = json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]})
    role = iam.create_role(RoleName="every", AssumeRolePolicyDocument=trust, Tags=[TAG])["Role"]
    made["AWS::IAM::Role"] = "every"
    make("AWS::IAM::User", lambda: iam.create_user(UserName="user", Tags=[TAG])["User"]["UserName"])
    make("AWS::IAM::AccessKey", lambda: iam.create_access_key(UserName="user")["AccessKey"]["AccessKeyId"])

    def function():
        import io
        import zipfile
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("f.py", "def f(event, context): pass")
        return client("lambda").create_function(
            FunctionName="f", Runtime="python3.12", Role=role["Arn"], Handler="f.f", Code={"ZipFile": code.getvalue()},
            Environment={"Variables": {"PASSWORD": "hunter2"}}, Tags=MAP)["FunctionName"]

    make("AWS::Lambda::Function", function)
    ecs = client("ecs")
    make("AWS::ECS::Cluster", lambda: ecs.create_cluster(
        clusterName="ecs", tags=[LOWER])["cluster"]["clusterArn"])

    def service():
        ecs.register_task_definition(family="task", containerDefinitions=[{"name": "c", "image": "i", "memory": 64}])
        return ecs.create_service(
            cluster="ecs", serviceName="service", taskDefinition="task", desiredCount=0,
            tags=[LOWER])["service"]["serviceArn"]

    make("AWS::ECS::Service", service)
    eks = client("eks")
    make("AWS::EKS::Cluster", lambda: eks.create_cluster(
        name="eks", roleArn=role["Arn"], resourcesVpcConfig={"subnetIds": [subnet, second]},
        tags=MAP)["cluster"]["name"])
    make("AWS::EKS::Nodegroup", lambda: eks.create_nodegroup(
        clusterName="eks", nodegroupName="nodes", subnets=[subnet], nodeRole=role["Arn"],
        tags=MAP)["nodegroup"]["nodegroupArn"])
    make("AWS::ECR::Repository", lambda: client("ecr").create_repository(
        repositoryName="repository", tags=[TAG])["repository"]["repositoryName"])
    make("AWS::ApiGateway::RestApi", lambda: client("apigateway").create_rest_api(name="api", tags=MAP)["id"])

    def distribution():
        origin = {"Id": "o", "DomainName": "elava-every.s3.amazonaws.com", "S3OriginConfig": {"OriginAccessIdentity": ""}}
        config = {
            "CallerReference": "c", "Comment": "", "Enabled": True, "Origins": {"Quantity": 1, "Items": [origin]},
            "DefaultCacheBehavior": {"TargetOriginId": "o", "ViewerProtocolPolicy": "allow-all"},
        }
        made = client("cloudfront").create_distribution_with_tags(
            DistributionConfigWithTags={"DistributionConfig": config, "Tags": {"Items": [TAG]}})
        return made["Distribution"]["Id"]

    make("AWS::CloudFront::Distribution", distribution)

    def zone_of_names():
        route53 = client("route53")
        zone_id = route53.create_hosted_zone(Name="example.com", CallerReference="r")["HostedZone"]["Id"]
        zone_id = zone_id.rsplit("/", 1)[-1]
        route53.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id, AddTags=[TAG])
        return zone_id

    make("AWS::Route53::HostedZone", zone_of_names)
    make("AWS::CertificateManager::Certificate", lambda: client("acm").request_certificate(
        DomainName="example.com", Tags=[TAG])["CertificateArn"])
    make("AWS::SQS::Queue", lambda: client("sqs").create_queue(QueueName="queue", tags=MAP)["QueueUrl"])
    make("AWS::SNS::Topic", lambda: client("sns").create_topic(Name="topic", Tags=[TAG])["TopicArn"])

    def stream():
        kinesis = client("kinesis")
        kinesis.create_stream(StreamName="stream", ShardCount=1)
        kinesis.add_tags_to_stream(StreamName="stream", Tags=MAP)
        return "stream"

    make("AWS::Kinesis::Stream", stream)
    make("AWS::MSK::Cluster", lambda: client("kafka").create_cluster_v2(
        ClusterName="msk", Tags=MAP,
        Serverless={"VpcConfigs": [{"SubnetIds": [subnet]}]})["ClusterArn"])
    make("AWS::StepFunctions::StateMachine", lambda: client("stepfunctions").create_state_machine(
        name="machine", roleArn=role["Arn"], tags=[LOWER],
        definition='{"StartAt": "A", "States": {"A": {"Type": "Pass", "End": true}}}')["stateMachineArn"])
    make("AWS::KMS::Key", lambda: client("kms").create_key(
        Tags=[{"TagKey": "owner", "TagValue": "a"}])["KeyMetadata"]["KeyId"])
    make("AWS::SecretsManager::Secret", lambda: client("secretsmanager").create_secret(
        Name="secret", SecretString="hunter2", Tags=[TAG])["ARN"])

    def log_group():
        client("logs").create_log_group(logGroupName="/group", tags=MAP)
        return "/group"

    make("AWS::Logs::LogGroup", log_group)
    template = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {
        "TopicName": "of-stack", "Tags": [TAG]}}}})
    make("AWS::CloudFormation::Stack", lambda: client("cloudformation").create_stack(
        StackName="stack", TemplateBody=template, Tags=[TAG])["StackId"])
    make("AWS::EMR::Cluster", lambda: client("emr").run_job_flow(
        Name="emr", ReleaseLabel="emr-7.0.0", Tags=[TAG], ServiceRole="every", JobFlowRole="every",
        Instances={"MasterInstanceType": "m5.xlarge", "InstanceCount": 1,
                   "KeepJobFlowAliveWhenNoSteps": True})["JobFlowId"])

    sagemaker = client("sagemaker")

    def endpoint():
        sagemaker.create_model(ModelName="m", ExecutionRoleArn=role["Arn"], PrimaryContainer={"Image": "i"})
        variant = {"VariantName": "v", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.t2.medium"}
        sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
        sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="c", Tags=[TAG])
        return "endpoint"

    make("AWS::SageMaker::Endpoint", endpoint)

    def notebook():
        sagemaker.create_notebook_instance(
            NotebookInstanceName="notebook", InstanceType="ml.t2.medium", RoleArn=role["Arn"], Tags=[TAG])
        return "notebook"

    make("AWS::SageMaker::NotebookInstance", notebook)
    make("AWS::Backup::BackupVault", lambda: client("backup").create_backup_vault(
        BackupVaultName="vault", BackupVaultTags=MAP)["BackupVaultName"])
    json.dump(made, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[2:])
