#!/usr/bin/env python3
"""Writes vpc-ipam-core/src/limits/table.rs from AWS's DescribeInstanceTypes answer and from other public tables.

usage: generate-limits.py SOURCE

SOURCE is one of
  *.whl       moto's Python package, which ships the answer (`make limits` downloads it)
  *.json[.gz] a map from type to its description, as in that package
  *.json      what `aws ec2 describe-instance-types --output json` prints

The other tables are in limits-other-tables.csv: branch ENIs, of which EC2 does not tell, types that the answer lacks, and who lists what.
"""

import csv
import gzip
import io
import json
import os
import sys
import zipfile

IN_WHEEL = "moto/ec2/resources/instance_types.json.gz"
HERE = os.path.dirname(__file__)
TABLE = os.path.join(HERE, "../vpc-ipam-core/src/limits/table.rs")
OTHER_TABLES = os.path.join(HERE, "limits-other-tables.csv")
# The letters that the columns of the generated table use for who lists a type.
LISTED_BY = {"vpc-cni": "C", "nodeadm": "N", "pluto": "P"}


def load(path):
    """Returns (where the answer came from, the descriptions of all types)."""
    name = os.path.basename(path)
    if path.endswith(".whl"):
        with zipfile.ZipFile(path) as wheel:
            raw = gzip.decompress(wheel.read(IN_WHEEL))
        name = f"{IN_WHEEL} of {name}"
    else:
        opener = gzip.open if path.endswith(".gz") else open
        with opener(path, "rb") as file:
            raw = file.read()
    data = json.load(io.BytesIO(raw))
    types = data["InstanceTypes"] if "InstanceTypes" in data else list(data.values())
    return name, types


def of_ec2(description):
    """Returns the columns that EC2's answer gives."""
    name = description["InstanceType"]
    network = description["NetworkInfo"]
    cards = sorted(network["NetworkCards"], key=lambda card: card["NetworkCardIndex"])
    if [card["NetworkCardIndex"] for card in cards] != list(range(len(cards))):
        sys.exit(f"{name}: its network cards are not numbered 0, 1, 2, ...: {cards}")
    total = sum(card["MaximumNetworkInterfaces"] for card in cards)
    if total != network["MaximumNetworkInterfaces"]:
        sys.exit(f"{name}: its cards take {total} ENIs, the instance {network['MaximumNetworkInterfaces']}")
    ipv4 = network["Ipv4AddressesPerInterface"]
    ipv6 = network["Ipv6AddressesPerInterface"] if network["Ipv6Supported"] else 0
    if ipv6 not in (0, ipv4):
        print(f"{name}: {ipv4} IPv4 and {ipv6} IPv6 addresses per ENI", file=sys.stderr)
    return {
        "name": name,
        "enis": [card["MaximumNetworkInterfaces"] for card in cards],
        "default_card": network["DefaultNetworkCardIndex"],
        "ipv4": ipv4,
        "ipv6": ipv6,
        "hypervisor": {"nitro": "Nitro", "xen": "Xen", None: "Unknown"}[description.get("Hypervisor")],
        "bare_metal": description["BareMetal"],
        "vcpus": description["VCpuInfo"]["DefaultVCpus"],
        "memory": description["MemoryInfo"]["SizeInMiB"],
        "listed": ["E"],
    }


def of_other_tables(line, shapes):
    """Returns the columns of a type that EC2's answer lacks. IPv6 is as IPv4, as EC2 has it wherever a type takes IPv6."""
    if line["enis_per_card"]:
        enis = [int(card) for card in line["enis_per_card"].split("+")]
        ipv4 = int(line["ipv4_per_eni"])
    else:
        # Pluto gives a number of pods alone.
        fitting = shapes[int(line["pluto"])]
        if len(fitting) != 1:
            sys.exit(f"{line['type']}: pluto's {line['pluto']} pods fit {sorted(fitting)}")
        ((card, ipv4),) = fitting
        enis = [card]
    return {
        "name": line["type"],
        "enis": enis,
        "default_card": 0,
        "ipv4": ipv4,
        "ipv6": ipv4,
        "hypervisor": {"nitro": "Nitro", "xen": "Xen", "metal": "Unknown"}[line["hypervisor"]],
        "bare_metal": line["hypervisor"] == "metal",
        "vcpus": int(line["vcpus"]),
        "memory": 0,
        "listed": [],
    }


def is_burstable(name):
    return name[0] == "t" and name[1].isdigit()


def branch_enis(columns, line):
    """Returns how many branch ENIs a trunk of the type carries, `UNKNOWN` where nothing public says.

    The number of Karpenter and of the VPC resource controller, which agree where both have one. None of the t family and
    none on Xen, as AWS's guide to security groups for pods has it.
    """
    if line and line["branch_enis"]:
        return line["branch_enis"]
    return "0" if is_burstable(columns["name"]) or columns["hypervisor"] == "Xen" else "UNKNOWN"


def pods(columns):
    """Returns what eni-max-pods.txt says if it goes by the same numbers: ENIs x (addresses - 1) + 2."""
    return columns["enis"][columns["default_card"]] * (columns["ipv4"] - 1) + 2


def row(columns, line):
    listed = columns["listed"] + [LISTED_BY[who] for who in (line or {}).get("listed_by", "").split() if who in LISTED_BY]
    if line and line["pluto"] and int(line["pluto"]) != pods(columns):
        sys.exit(f"{columns['name']}: pluto says {line['pluto']}, the formula {pods(columns)}")
    fields = [
        json.dumps(columns["name"]),
        f"&[{', '.join(map(str, columns['enis']))}]",
        str(columns["default_card"]),
        str(columns["ipv4"]),
        str(columns["ipv6"]),
        columns["hypervisor"],
        "true" if columns["bare_metal"] else "false",
        str(columns["vcpus"]),
        str(columns["memory"]),
        branch_enis(columns, line),
        " | ".join(listed) or "0",
    ]
    return f"    row({', '.join(fields)}),"


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    source, types = load(sys.argv[1])
    with open(OTHER_TABLES) as file:
        others = {line["type"]: line for line in csv.DictReader(text for text in file if not text.startswith("#"))}
    known = [of_ec2(description) for description in types]
    shapes = {}
    for columns in known:
        shapes.setdefault(pods(columns), set()).add((columns["enis"][columns["default_card"]], columns["ipv4"]))
    names = {columns["name"] for columns in known}
    known += [of_other_tables(line, shapes) for name, line in others.items() if name not in names]
    # Byte order, which the binary search in limits.rs needs, is Python's order of ASCII text.
    known.sort(key=lambda columns: columns["name"])
    rows = [row(columns, others.get(columns["name"])) for columns in known]
    differing = [
        f'    ("{columns["name"]}", {line["eni_max_pods"]}),'
        for columns in known
        if (line := others.get(columns["name"])) and line["eni_max_pods"] and int(line["eni_max_pods"]) != pods(columns)
    ]
    lines = "\n".join
    with open(TABLE, "w") as table:
        table.write(f"""\
//! {len(rows)} instance types, generated by `make limits`; do not edit.
//! Sources: {source};
//! scripts/limits-other-tables.csv, also for {len(rows) - len(names)} types that the former lacks.

use super::Hypervisor::{{Nitro, Unknown, Xen}};
use super::{{EC2 as E, NODEADM as N, PLUTO as P, Row, UNKNOWN, VPC_CNI as C, row}};

/// Sorted by name. Columns: type, ENIs of each network card, default card, IPv4 and IPv6 addresses per ENI, hypervisor,
/// bare metal, vCPUs, memory in MiB, branch ENIs, who lists the type.
#[rustfmt::skip]
pub(super) static TABLE: [Row; {len(rows)}] = [
{lines(rows)}
];

/// Lines of eni-max-pods.txt that do not follow from the rows above, because its source counts other ENIs.
#[rustfmt::skip]
pub(super) static ENI_MAX_PODS_DIFFERS: [(&str, u32); {len(differing)}] = [
{lines(differing)}
];
""")
    print(f"{os.path.relpath(TABLE)}: {len(rows)} types from {source} and {os.path.relpath(OTHER_TABLES)}")


if __name__ == "__main__":
    main()
