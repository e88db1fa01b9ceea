//! Unused resources, on the emulator: findings open, and resolve when the resources are used again.

use aws_sdk_ec2::types::DomainType;
use elava::api::FindingState;
use serde_json::json;

use crate::support::aws::Hands;
use crate::support::proxy::Fault;
use crate::support::world::{IRELAND, World};

const A: &str = "111122223333";
const OWNED: &[(&str, &str)] = &[("owner", "team-a")];

/// Scans everything with a short interval: an absence is concluded after two sweeps.
fn spec(world: &World, types: &[&str]) -> serde_json::Value {
    let mut spec = world.scan_spec(&[A]);
    spec["interval"] = json!("1s");
    spec["provider"]["aws"]["regions"] = json!({"include": [IRELAND]});
    spec["resourceTypes"] = json!({"include": types});
    spec["orphans"] = json!({"gracePeriod": "0s", "stoppedFor": "0s"});
    spec["tagPolicy"] = json!({"exemptTypes": types});
    spec
}

async fn wait_for(world: &World, id: &str, state: FindingState) -> elava::api::FindingStatus {
    let check = || async {
        let findings = world.findings("team-a").await;
        let reported: Vec<_> =
            findings.into_iter().filter_map(|f| f.status).filter(|s| s.kind == "Orphaned").collect();
        let found = reported.iter().find(|s| s.id == id && s.state == state);
        found
            .cloned()
            .ok_or_else(|| format!("{:?}", reported.iter().map(|s| (&s.id, s.state)).collect::<Vec<_>>()))
    };
    crate::support::eventually(&format!("{id} is {state:?}"), check).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_addresses_and_instances_that_serve_nothing_are_reported_with_their_cost() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (volume, address) = (hands.volume(OWNED).await, hands.address(OWNED).await);
    let (instance, _root) = hands.instance(OWNED).await;
    let types = ["AWS::EC2::Volume", "AWS::EC2::EIP", "AWS::EC2::Instance", "AWS::EC2::NatGateway"];
    world.apply_scan("team-a", "one", &spec(&world, &types));
    let reported = wait_for(&world, &volume, FindingState::Open).await;
    assert!(reported.message.contains("serves nothing: it is attached to no instance"), "{}", reported.message);
    assert_eq!(reported.owner.map(|owner| (owner.name, owner.source)), Some(("team-a".into(), "Tags".into())));
    assert_eq!(reported.monthly_cost, None, "no price of it ships: unknown, not zero");
    let reported = wait_for(&world, &address, FindingState::Open).await;
    assert_eq!(reported.monthly_cost.as_deref(), Some("3.65"), "0.005 USD for 730 hours");

    // Used again, each finding resolves.
    let attach = hands.ec2.attach_volume().volume_id(&volume).instance_id(&instance).device("/dev/sdf");
    attach.send().await.expect("it is attached");
    wait_for(&world, &volume, FindingState::Resolved).await;
    hands.ec2.associate_address().allocation_id(&address).instance_id(&instance).send().await.expect("it is");
    wait_for(&world, &address, FindingState::Resolved).await;

    hands.ec2.stop_instances().instance_ids(&instance).send().await.expect("it stops");
    let reported = wait_for(&world, &instance, FindingState::Open).await;
    assert!(reported.message.contains("its volumes are billed"), "{}", reported.message);
    hands.ec2.start_instances().instance_ids(&instance).send().await.expect("it starts");
    let reported = wait_for(&world, &instance, FindingState::Resolved).await;
    assert_eq!(reported.resolution.as_deref(), Some("Fixed"));

    let all = world.operator.answer(&["findings", "--all", "--kind", "orphaned"]);
    assert_eq!(all["findings"].as_array().map(Vec::len), Some(3), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_no_route_uses_is_reported_only_to_who_sees_the_routes() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let vpc = hands.ec2.create_vpc().cidr_block("10.1.0.0/16").send().await.expect("a VPC");
    let vpc = vpc.vpc.and_then(|vpc| vpc.vpc_id).expect("it has an id");
    let subnet = hands.ec2.create_subnet().vpc_id(&vpc).cidr_block("10.1.0.0/24").send().await.expect("a subnet");
    let subnet = subnet.subnet.and_then(|subnet| subnet.subnet_id).expect("it has an id");
    let address = hands.ec2.allocate_address().domain(DomainType::Vpc).send().await.expect("an address");
    let address = address.allocation_id.expect("it has an id");
    let gateway = hands.ec2.create_nat_gateway().subnet_id(&subnet).allocation_id(&address).send().await;
    let gateway = gateway.expect("a gateway").nat_gateway.and_then(|g| g.nat_gateway_id).expect("it has an id");

    let denied = world.proxy.fault(
        |call| call.action == "DescribeRouteTables",
        Fault::Refuse {
            status: 403,
            code: "UnauthorizedOperation",
            message: "You are not authorized to perform this operation.".to_owned(),
        },
    );
    let types = ["AWS::EC2::NatGateway", "AWS::EC2::RouteTable", "AWS::EC2::EIP"];
    world.apply_scan("team-a", "one", &spec(&world, &types));
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;
    for _ in 0..3 {
        world.scan_now("team-a", "one").await;
    }
    assert_eq!(world.open_findings("team-a").await, Vec::<String>::new(), "who can't see the routes can't tell");
    world.proxy.heal(denied);
    let reported = wait_for(&world, &gateway, FindingState::Open).await;
    assert_eq!(reported.severity, "Medium");
    assert!(reported.evidence.iter().any(|e| e.starts_with("swept completely, twice")), "{:?}", reported.evidence);

    let tree = world.operator.answer(&["tree", &gateway]);
    let below: Vec<&str> =
        tree["root"]["branches"].as_array().unwrap().iter().filter_map(|b| b["relation"].as_str()).collect();
    assert!(below.contains(&"uses") && below.contains(&"lies in"), "{tree}");

    let tables = hands.ec2.describe_route_tables().send().await.expect("route tables");
    let table = tables.route_tables().iter().find(|table| table.vpc_id() == Some(&vpc)).expect("the VPC's own");
    let route = hands.ec2.create_route().route_table_id(table.route_table_id().unwrap_or_default());
    route.destination_cidr_block("0.0.0.0/0").nat_gateway_id(&gateway).send().await.expect("a route");
    wait_for(&world, &gateway, FindingState::Resolved).await;
}

async fn balancer(hands: &Hands, name: &str) -> (String, String) {
    let subnets = hands.ec2.describe_subnets().send().await.expect("subnets");
    let vpc = subnets.subnets()[0].vpc_id().unwrap_or_default().to_owned();
    let in_it = subnets.subnets().iter().filter(|s| s.vpc_id() == Some(&vpc)).filter_map(|s| s.subnet_id());
    let subnets: Vec<&str> = in_it.take(2).collect();
    let made = hands.call("elbv2", "CreateLoadBalancer", json!({ "Name": name, "Subnets": subnets })).await;
    let balancer = made["LoadBalancers"][0]["LoadBalancerArn"].as_str().expect("it has an ARN").to_owned();
    let group = json!({ "Name": name, "Protocol": "HTTP", "Port": 80, "VpcId": vpc });
    let made = hands.call("elbv2", "CreateTargetGroup", group).await;
    let group = made["TargetGroups"][0]["TargetGroupArn"].as_str().expect("it has an ARN").to_owned();
    let listener = json!({
        "LoadBalancerArn": balancer, "Protocol": "HTTP", "Port": 80,
        "DefaultActions": [{ "Type": "forward", "TargetGroupArn": group }],
    });
    hands.call("elbv2", "CreateListener", listener).await;
    (balancer, group)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balancers_images_snapshots_groups_and_logs_without_use_are_reported_until_they_are_used() {
    let world = World::start().await;
    let hands = world.hands(A, IRELAND).await;
    let (balancer, group) = balancer(&hands, "shop").await;
    let volume = hands.volume(OWNED).await;
    let snapshot = hands.snapshot(&volume, OWNED).await;
    hands.delete_volume(&volume).await;
    hands.call("logs", "CreateLogGroup", json!({ "logGroupName": "/shop" })).await;
    let subnets = hands.ec2.describe_subnets().send().await.expect("subnets");
    let vpc = subnets.subnets()[0].vpc_id().unwrap_or_default();
    let security =
        hands.ec2.create_security_group().group_name("left").description("left").vpc_id(vpc).send().await;
    let security = security.expect("a group").group_id.expect("it has an id");
    let subnet = subnets.subnets()[0].subnet_id().unwrap_or_default();
    let interface = hands.ec2.create_network_interface().subnet_id(subnet).send().await.expect("an interface");
    let interface = interface.network_interface.and_then(|i| i.network_interface_id).expect("it has an id");
    let types = [
        "AWS::EC2::Volume",
        "AWS::EC2::Snapshot",
        "AWS::EC2::Image",
        "AWS::EC2::Instance",
        "AWS::EC2::LaunchTemplate",
        "AWS::EC2::NetworkInterface",
        "AWS::EC2::SecurityGroup",
        "AWS::EC2::VPCEndpoint",
        "AWS::EKS::Cluster",
        "AWS::RDS::DBCluster",
        "AWS::ElasticLoadBalancingV2::LoadBalancer",
        "AWS::ElasticLoadBalancingV2::TargetGroup",
        "AWS::AutoScaling::AutoScalingGroup",
        "AWS::Lambda::Function",
        "AWS::ECS::Service",
        "AWS::RDS::DBInstance",
        "AWS::Logs::LogGroup",
    ];
    world.apply_scan("team-a", "one", &spec(&world, &types));
    world.wait_for_condition("team-a", "one", "FirstScanComplete", "True").await;
    // Empty scopes are swept less and less often, unless a scan is requested.
    for _ in 0..4 {
        world.scan_now("team-a", "one").await;
    }
    for id in [&balancer, &snapshot, "/shop", &security, &interface] {
        wait_for(&world, id, FindingState::Open).await;
    }

    let (instance, _) = hands.instance(OWNED).await;
    let targets = json!({ "TargetGroupArn": group, "Targets": [{ "Id": instance }] });
    hands.call("elbv2", "RegisterTargets", targets).await;
    let retention = json!({ "logGroupName": "/shop", "retentionInDays": 7 });
    hands.call("logs", "PutRetentionPolicy", retention).await;
    hands.ec2.delete_snapshot().snapshot_id(&snapshot).send().await.expect("it goes");
    let groups = hands.ec2.modify_network_interface_attribute().network_interface_id(&interface).groups(&security);
    groups.send().await.expect("it is guarded");
    for _ in 0..3 {
        world.scan_now("team-a", "one").await;
    }
    wait_for(&world, &balancer, FindingState::Resolved).await;
    wait_for(&world, "/shop", FindingState::Resolved).await;
    wait_for(&world, &security, FindingState::Resolved).await;
    let gone = wait_for(&world, &snapshot, FindingState::Resolved).await;
    assert_eq!(gone.resolution.as_deref(), Some("ResourceGone"));
}
