//! EC2's and STS's wire format from memory, with a given number of instances in each account and region.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;

use super::REGIONS;

const PAGE: usize = 1000;
/// Placeholders in the template for the values that differ between instances.
const ID: &str = "i-00000000000000000";
const NUMBER: &str = "node-0000000";

struct Responder {
    /// The template of an instance, split at its placeholders.
    pieces: Vec<(String, Own)>,
    instances: usize,
}

#[derive(Clone, Copy)]
enum Own {
    Id,
    Number,
    Nothing,
}

pub async fn serve(instances: usize) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    println!("http://{}", listener.local_addr().expect("it is bound"));
    let responder = Arc::new(Responder { pieces: pieces(), instances });
    let app = Router::new().fallback(answer).with_state(responder);
    axum::serve(listener, app).await.expect("it serves");
}

async fn answer(
    State(responder): State<Arc<Responder>>,
    headers: HeaderMap,
    body: Bytes,
) -> ([(&'static str, &'static str); 1], Vec<u8>) {
    let queried: Vec<(String, String)> = serde_urlencoded::from_bytes(&body).unwrap_or_default();
    let param = |name: &str| queried.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    // Credential=ELAVA100000000000/20261124/eu-west-1/ec2/aws4_request
    let signed = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let credential = signed.split("Credential=").nth(1).unwrap_or_default();
    let mut parts = credential.split('/');
    let account = parts.next().unwrap_or_default().trim_start_matches("ELAVA").to_owned();
    let region = parts.nth(1).unwrap_or_default().to_owned();
    let text = match param("Action") {
        "DescribeInstances" => responder.page(&account, &region, param("NextToken")),
        "DescribeRegions" => {
            let item = |r: &&str| format!("<item><regionName>{r}</regionName><optInStatus>opt-in-not-required</optInStatus></item>");
            let items = REGIONS.iter().map(item).collect::<Vec<_>>().concat();
            format!("<DescribeRegionsResponse><requestId>r</requestId><regionInfo>{items}</regionInfo></DescribeRegionsResponse>").into_bytes()
        }
        "AssumeRole" => {
            let account = param("RoleArn").split(':').nth(4).unwrap_or_default().to_owned();
            format!(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ELAVA{account}</AccessKeyId>\
                 <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2036-01-01T00:00:00Z</Expiration>\
                 </Credentials></AssumeRoleResult></AssumeRoleResponse>"
            )
            .into_bytes()
        }
        _ => format!(
            "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::{account}:assumed-role/elava/elava</Arn>\
             <UserId>u</UserId><Account>{account}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
        )
        .into_bytes(),
    };
    ([("content-type", "text/xml;charset=UTF-8")], text)
}

impl Responder {
    fn page(&self, account: &str, region: &str, token: &str) -> Vec<u8> {
        let first: usize = token.parse().unwrap_or(0);
        let last = (first + PAGE).min(self.instances);
        let place = REGIONS.iter().position(|r| *r == region).unwrap_or(0);
        let account: usize = account.parse().unwrap_or(0);
        let mut out = String::with_capacity((last - first) * 3_800 + 1_000);
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?><DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId><reservationSet>");
        for number in first..last {
            for (piece, own) in &self.pieces {
                out.push_str(piece);
                match own {
                    Own::Id => {
                        write!(out, "i-{:017x}", account * 1_000_000 + place * 200_000 + number).expect("memory");
                    }
                    Own::Number => write!(out, "node-{:07}", number % 41_544).expect("memory"),
                    Own::Nothing => {}
                }
            }
        }
        out.push_str("</reservationSet>");
        if last < self.instances {
            write!(out, "<nextToken>{last}</nextToken>").expect("memory");
        }
        out.push_str("</DescribeInstancesResponse>");
        out.into_bytes()
    }
}

fn pieces() -> Vec<(String, Own)> {
    let whole = instance();
    let mut pieces = Vec::new();
    let mut rest = whole.as_str();
    loop {
        let next = [(rest.find(ID), Own::Id, ID.len()), (rest.find(NUMBER), Own::Number, NUMBER.len())];
        let next =
            next.into_iter().filter_map(|(at, own, length)| Some((at?, own, length))).min_by_key(|(at, ..)| *at);
        let Some((at, own, length)) = next else { break };
        pieces.push((rest[..at].to_owned(), own));
        rest = &rest[at + length..];
    }
    pieces.push((rest.to_owned(), Own::Nothing));
    pieces
}

/// An instance as EC2 returns it: 3.6 KB with 8 tags.
fn instance() -> String {
    let tags = [
        ("Name", NUMBER),
        ("owner", "team-payments"),
        ("environment", "production"),
        ("cost-center", "cc-0042"),
        ("app", "checkout"),
        ("managed-by", "terraform"),
        ("stack", "a1b2c3d4e5f6"),
        ("release", "2026-11-24"),
    ];
    let tags: Vec<String> =
        tags.iter().map(|(k, v)| format!("<item><key>{k}</key><value>{v}</value></item>")).collect();
    let tags = tags.concat();
    let mut text = format!(
        "<item><reservationId>r-0123456789abcdef0</reservationId><ownerId>100000000000</ownerId><groupSet/><instancesSet><item>\
         <instanceId>{ID}</instanceId><imageId>ami-0123456789abcdef0</imageId><instanceState><code>16</code><name>running</name>\
         </instanceState><privateDnsName>ip-10-0-0-1.eu-west-1.compute.internal</privateDnsName><dnsName/><reason/>\
         <keyName>operators</keyName><amiLaunchIndex>0</amiLaunchIndex><productCodes/><instanceType>m7i.large</instanceType>\
         <launchTime>2026-11-01T08:30:00.000Z</launchTime><placement><availabilityZone>eu-west-1a</availabilityZone><groupName/>\
         <tenancy>default</tenancy></placement><monitoring><state>disabled</state></monitoring>\
         <subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId><privateIpAddress>10.0.0.1</privateIpAddress>\
         <sourceDestCheck>true</sourceDestCheck><groupSet><item><groupId>sg-0123456789abcdef0</groupId><groupName>web</groupName></item>\
         <item><groupId>sg-0123456789abcdef1</groupId><groupName>egress</groupName></item></groupSet><architecture>x86_64</architecture>\
         <rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item>\
         <deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-0123456789abcdef0</volumeId><status>attached</status>\
         <attachTime>2026-11-01T08:30:01.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>\
         <virtualizationType>hvm</virtualizationType><clientToken>0f0e0d0c-0b0a-0908-0706-050403020100</clientToken><tagSet>{tags}</tagSet>\
         <hypervisor>xen</hypervisor><networkInterfaceSet><item><networkInterfaceId>eni-0123456789abcdef0</networkInterfaceId>\
         <subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId><description/><ownerId>100000000000</ownerId>\
         <status>in-use</status><macAddress>02:00:00:00:00:01</macAddress><privateIpAddress>10.0.0.1</privateIpAddress>\
         <privateDnsName>ip-10-0-0-1.eu-west-1.compute.internal</privateDnsName><sourceDestCheck>true</sourceDestCheck><groupSet>\
         <item><groupId>sg-0123456789abcdef0</groupId><groupName>web</groupName></item><item><groupId>sg-0123456789abcdef1</groupId>\
         <groupName>egress</groupName></item></groupSet><attachment><attachmentId>eni-attach-0123456789abcdef0</attachmentId>\
         <deviceIndex>0</deviceIndex><status>attached</status><attachTime>2026-11-01T08:30:00.000Z</attachTime>\
         <deleteOnTermination>true</deleteOnTermination></attachment><privateIpAddressesSet><item><privateIpAddress>10.0.0.1</privateIpAddress>\
         <privateDnsName>ip-10-0-0-1.eu-west-1.compute.internal</privateDnsName><primary>true</primary></item></privateIpAddressesSet>\
         <ipv6AddressesSet/><interfaceType>interface</interfaceType></item></networkInterfaceSet><iamInstanceProfile>\
         <arn>arn:aws:iam::100000000000:instance-profile/web</arn><id>AIPA0123456789ABCDEFG</id></iamInstanceProfile>\
         <ebsOptimized>true</ebsOptimized><enaSupport>true</enaSupport><cpuOptions><coreCount>1</coreCount>\
         <threadsPerCore>2</threadsPerCore></cpuOptions><capacityReservationSpecification>\
         <capacityReservationPreference>open</capacityReservationPreference></capacityReservationSpecification>\
         <hibernationOptions><configured>false</configured></hibernationOptions><enclaveOptions><enabled>false</enabled></enclaveOptions>\
         <metadataOptions><state>applied</state><httpTokens>required</httpTokens><httpPutResponseHopLimit>2</httpPutResponseHopLimit>\
         <httpEndpoint>enabled</httpEndpoint><instanceMetadataTags>disabled</instanceMetadataTags></metadataOptions>"
    );
    text.push_str("</item></instancesSet></item>");
    text
}
