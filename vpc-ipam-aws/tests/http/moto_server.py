"""Serves moto on a free port of loopback, with one m5.large in a VPC of its own, until standard input ends.

Prints, a line each: URL, instance, its type, zone, VPC, primary ENI and subnet.
"""

import logging
import sys

import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"

ec2 = boto3.client(
    "ec2",
    endpoint_url=url,
    region_name="eu-west-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZone="eu-west-1a")
subnet = subnet["Subnet"]["SubnetId"]
image = ec2.describe_images()["Images"][0]["ImageId"]
[instance] = ec2.run_instances(
    ImageId=image, InstanceType="m5.large", SubnetId=subnet, MinCount=1, MaxCount=1
)["Instances"]
for line in (
    url,
    instance["InstanceId"],
    instance["InstanceType"],
    instance["Placement"]["AvailabilityZone"],
    vpc,
    instance["NetworkInterfaces"][0]["NetworkInterfaceId"],
    subnet,
):
    print(line, flush=True)

sys.stdin.read()
server.stop()
