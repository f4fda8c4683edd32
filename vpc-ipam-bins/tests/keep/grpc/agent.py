"""A network policy agent that prints a line of JSON for each call, and does as it is told.

usage: agent.py SOCKET accept|refuse|fail|hang
"""

import concurrent.futures
import json
import sys
import threading

import generated
import grpc
from google.protobuf import json_format

peer, services = generated.modules("peer")
socket, conduct = sys.argv[1:]


class Agent(services.NPBackendServicer):
    def answer(self, call, request, context):
        heard = json_format.MessageToDict(request, preserving_proto_field_name=True)
        print(json.dumps({"call": call, **heard}), flush=True)
        if conduct == "hang":
            threading.Event().wait()
        if conduct == "fail":
            context.abort(grpc.StatusCode.INTERNAL, "no program for the pod")
        return peer.Done(success=conduct == "accept")

    def EnforceNpToPod(self, request, context):
        return self.answer("EnforceNpToPod", request, context)

    def DeletePodNp(self, request, context):
        return self.answer("DeletePodNp", request, context)


server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=8))
services.add_NPBackendServicer_to_server(Agent(), server)
if not server.add_insecure_port(f"unix:{socket}"):
    sys.exit(f"cannot listen at {socket}")
server.start()
print(json.dumps({"listening": socket}), flush=True)
sys.stdin.read()
