"""Calls gRPC services: a line of JSON in, a line of JSON out.

usage: client.py ADDRESS

{"call": "AddNetwork", "request": {...}} calls a method, {"call": "AddNetwork", "hex": "0a01..."} sends these bytes as its request, and
{"watch": SERVICE, "count": 2} prints so many states of a service's health, each as it comes.
"""

import json
import sys

import generated
import grpc
from google.protobuf import json_format

peer, peer_services = generated.modules("peer")
health, health_services = generated.modules("health")

# Of itself it names the path of a socket, which is no authority of a URI, as the plugin and the agent do not.
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.default_authority", "localhost")])
cni = peer_services.CNIBackendStub(channel)
config = peer_services.ConfigServerBackendStub(channel)
healths = health_services.HealthStub(channel)
CALLS = {
    "AddNetwork": (cni.AddNetwork, peer.AddNetworkRequest),
    "DelNetwork": (cni.DelNetwork, peer.DelNetworkRequest),
    "GetNetworkPolicyConfigs": (config.GetNetworkPolicyConfigs, peer.Nothing),
    "Check": (healths.Check, health.HealthCheckRequest),
}
# Longer than an ADD may wait for an address.
TIMEOUT = 60


def answer(asked):
    if "watch" in asked:
        states = healths.Watch(health.HealthCheckRequest(service=asked["watch"]), timeout=TIMEOUT)
        for _ in range(asked["count"]):
            print(json.dumps(json_format.MessageToDict(next(states))), flush=True)
        states.cancel()
        return {"watched": asked["count"]}
    method, message = CALLS[asked["call"]]
    if "hex" in asked:
        raw = channel.unary_unary("/rpc.CNIBackend/" + asked["call"])
        return {"hex": raw(bytes.fromhex(asked["hex"]), timeout=TIMEOUT, wait_for_ready=True).hex()}
    request = json_format.ParseDict(asked.get("request", {}), message())
    reply = method(request, timeout=TIMEOUT, wait_for_ready=True)
    return json_format.MessageToDict(reply, preserving_proto_field_name=True)


for line in sys.stdin:
    try:
        said = answer(json.loads(line))
    except grpc.RpcError as error:
        said = {"error": error.code().name, "details": error.details()}
    print(json.dumps(said), flush=True)
