"""The life of an ENI through boto3, every step read back.

usage: boto3_client.py ENDPOINT INSTANCE SUBNET TINY_SUBNET
"""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, instance, subnet, tiny = sys.argv[1:]

ec2 = boto3.client(
    "ec2",
    endpoint_url=endpoint,
    region_name="eu-west-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
    config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
)


def describe(eni):
    [found] = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"]
    return found


def secondary(eni):
    return {a["PrivateIpAddress"] for a in describe(eni)["PrivateIpAddresses"] if not a["Primary"]}


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, error
        assert error.response["ResponseMetadata"]["RequestId"], error
        return error.response["Error"]["Message"]
    raise AssertionError(f"{call.__name__} was not refused with {code}")


# What there is to start from.
[reservation] = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
[node] = reservation["Instances"]
assert node["SubnetId"] == subnet, node
assert node["State"]["Name"] == "running", node
[primary] = node["NetworkInterfaces"]
assert primary["Attachment"]["DeviceIndex"] == 0, primary
assert primary["Attachment"]["DeleteOnTermination"] is True, primary
ec2.get_waiter("instance_running").wait(InstanceIds=[instance])

[info] = ec2.describe_instance_types(InstanceTypes=[node["InstanceType"]])["InstanceTypes"]
assert info["NetworkInfo"]["MaximumNetworkInterfaces"] == 3, info
assert info["NetworkInfo"]["Ipv4AddressesPerInterface"] == 10, info
assert info["NetworkInfo"]["NetworkCards"][0]["MaximumNetworkInterfaces"] == 3, info
assert info["Hypervisor"] == "nitro" and info["BareMetal"] is False, info

filters = [
    {"Name": "vpc-id", "Values": [node["VpcId"]]},
    {"Name": "availability-zone", "Values": [node["Placement"]["AvailabilityZone"]]},
]
subnets = {s["SubnetId"]: s for s in ec2.describe_subnets(Filters=filters)["Subnets"]}
assert set(subnets) == {subnet, tiny}, subnets
free = subnets[subnet]["AvailableIpAddressCount"]
assert subnets[tiny]["AvailableIpAddressCount"] == 11, subnets
assert subnets[subnet]["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"] == "2001:db8:0:1::/64"

# Create.
tags = [{"Key": "note", "Value": '<&> "quoted"'}, {"Key": "owner", "Value": instance}]
request = {
    "SubnetId": subnet,
    "Description": "by boto3",
    "SecondaryPrivateIpAddressCount": 3,
    "Groups": [primary["Groups"][0]["GroupId"]],
    "TagSpecifications": [{"ResourceType": "network-interface", "Tags": tags}],
    "ClientToken": "boto3-1",
}
made = ec2.create_network_interface(**request)["NetworkInterface"]
eni = made["NetworkInterfaceId"]
again = ec2.create_network_interface(**request)["NetworkInterface"]
assert again["NetworkInterfaceId"] == eni, "a client token makes one ENI"
refused("IdempotentParameterMismatch", ec2.create_network_interface, **{**request, "Description": "other"})
ec2.get_waiter("network_interface_available").wait(NetworkInterfaceIds=[eni])
assert describe(eni)["TagSet"] == tags, made
assert describe(eni)["Status"] == "available"
assert describe(eni)["MacAddress"] == made["MacAddress"]
assert len(secondary(eni)) == 3, made
[now] = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"]
assert now["AvailableIpAddressCount"] == free - 4, now

# Attach.
attached = ec2.attach_network_interface(
    NetworkInterfaceId=eni, InstanceId=instance, DeviceIndex=1, NetworkCardIndex=0
)
attachment = attached["AttachmentId"]
shown = describe(eni)["Attachment"]
assert shown["AttachmentId"] == attachment and shown["InstanceId"] == instance, shown
assert shown["DeviceIndex"] == 1 and shown["NetworkCardIndex"] == 0, shown
assert shown["Status"] == "attached" and shown["DeleteOnTermination"] is False, shown
assert shown["AttachTime"].year == 2023, shown
assert describe(eni)["Status"] == "in-use"
ec2.modify_network_interface_attribute(
    NetworkInterfaceId=eni,
    Attachment={"AttachmentId": attachment, "DeleteOnTermination": True},
)
assert describe(eni)["Attachment"]["DeleteOnTermination"] is True

# Assign: addresses by number, one by name, and prefixes of both families.
before = secondary(eni)
answer = ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=2)
added = {a["PrivateIpAddress"] for a in answer["AssignedPrivateIpAddresses"]}
assert len(added) == 2 and secondary(eni) == before | added, answer
answer = ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, Ipv4PrefixCount=1)
[prefix] = [p["Ipv4Prefix"] for p in answer["AssignedIpv4Prefixes"]]
assert [p["Ipv4Prefix"] for p in describe(eni)["Ipv4Prefixes"]] == [prefix], answer
answer = ec2.assign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6PrefixCount=1)
[prefix6] = answer["AssignedIpv6Prefixes"]
assert [p["Ipv6Prefix"] for p in describe(eni)["Ipv6Prefixes"]] == [prefix6], answer
answer = ec2.assign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6AddressCount=1)
[address6] = answer["AssignedIpv6Addresses"]
assert [a["Ipv6Address"] for a in describe(eni)["Ipv6Addresses"]] == [address6], answer

ec2.create_tags(Resources=[eni], Tags=[{"Key": "note", "Value": "changed"}])
assert {"Key": "note", "Value": "changed"} in describe(eni)["TagSet"]

# What is refused.
refused("PrivateIpAddressLimitExceeded", ec2.assign_private_ip_addresses,
        NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=9)
refused("InsufficientFreeAddressesInSubnet", ec2.create_network_interface,
        SubnetId=tiny, SecondaryPrivateIpAddressCount=11)
refused("InsufficientCidrBlocks", ec2.create_network_interface, SubnetId=tiny, Ipv4PrefixCount=1)
refused("OperationNotPermitted", ec2.detach_network_interface,
        AttachmentId=primary["Attachment"]["AttachmentId"])
message = refused("InvalidParameterValue", ec2.delete_network_interface, NetworkInterfaceId=eni)
assert "currently in use" in message, message
message = refused("InvalidNetworkInterfaceID.NotFound", ec2.describe_network_interfaces,
                  NetworkInterfaceIds=[eni, "eni-00000000000000000"])
assert "'eni-00000000000000000'" in message, message

# Unassign.
ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=sorted(added))
ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni, Ipv4Prefixes=[prefix])
answer = ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6Prefixes=[prefix6])
assert answer["UnassignedIpv6Prefixes"] == [prefix6], answer
ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6Addresses=[address6])
assert secondary(eni) == before
assert describe(eni)["Ipv4Prefixes"] == [] and describe(eni)["Ipv6Prefixes"] == []
assert describe(eni)["Ipv6Addresses"] == []

# Many: pages and filters.
batch = [
    ec2.create_network_interface(
        SubnetId=subnet,
        Description=f"batch-{number}",
        PrivateIpAddress=f"10.0.1.{200 + number}",
        TagSpecifications=[
            {"ResourceType": "network-interface", "Tags": [{"Key": "batch", "Value": str(number % 2)}]}
        ],
    )["NetworkInterface"]["NetworkInterfaceId"]
    for number in range(12)
]
pages = list(
    ec2.get_paginator("describe_network_interfaces").paginate(
        Filters=[{"Name": "tag-key", "Values": ["batch"]}], PaginationConfig={"PageSize": 5}
    )
)
assert [len(page["NetworkInterfaces"]) for page in pages] == [5, 5, 2], pages
assert {e["NetworkInterfaceId"] for page in pages for e in page["NetworkInterfaces"]} == set(batch)
for name, values, count in [
    ("tag:batch", ["0"], 6),
    ("tag:batch", ["0", "1"], 12),
    ("network-interface-id", batch[:3] + ["eni-00000000000000000"], 3),
    ("description", ["batch-1*"], 3),
    ("status", ["in-use"], 2),
    ("attachment.instance-id", [instance], 2),
    ("subnet-id", [tiny], 0),
    ("vpc-id", [node["VpcId"]], 14),
    ("availability-zone", ["eu-west-1a"], 14),
    ("addresses.private-ip-address", ["10.0.1.205"], 1),
]:
    found = ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": values}])
    assert len(found["NetworkInterfaces"]) == count, (name, values, len(found["NetworkInterfaces"]))
types = ec2.get_paginator("describe_instance_types").paginate()
assert sum(len(page["InstanceTypes"]) for page in types) > 1000
for other in batch:
    ec2.delete_network_interface(NetworkInterfaceId=other)

# Detach and delete.
ec2.detach_network_interface(AttachmentId=attachment)
assert "Attachment" not in describe(eni)
ec2.delete_network_interface(NetworkInterfaceId=eni)
refused("InvalidNetworkInterfaceID.NotFound", ec2.describe_network_interfaces, NetworkInterfaceIds=[eni])
[now] = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"]
assert now["AvailableIpAddressCount"] == free, now

print("done")
