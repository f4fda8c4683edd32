"""Compiles the .proto files beside this program, and imports what comes out."""

import atexit
import importlib
import pathlib
import shutil
import sys
import tempfile

from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent


def modules(name):
    """Returns the messages and the services of a .proto file."""
    folder = tempfile.mkdtemp(prefix="vpc-ipam-grpc-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    arguments = [f"-I{HERE}", f"--python_out={folder}", f"--grpc_python_out={folder}", f"{name}.proto"]
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit(f"{name}.proto does not compile")
    sys.path.insert(0, folder)
    return importlib.import_module(f"{name}_pb2"), importlib.import_module(f"{name}_pb2_grpc")
