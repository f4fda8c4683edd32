# Everything one does with this project. `make` alone says what there is.

.PHONY: help lab test can-test test-deps lab-deps lint soak migration-proof interop build install-node docker bench fuzz fuzz-long limits capacity-data audit msrv api package

# One set of features for everything that contains the AWS SDK, so that it is compiled once.
ALL := --workspace --all-features --locked
# Without the AWS SDK, which takes minutes to compile.
LAB := -p vpc-cni -p vpc-ipam --no-default-features --locked
SOAK := -p vpc-cni -p vpc-ipam -p vpc-ipam-tests --no-default-features --locked
VENV := target/venv
DENY := cargo-deny@0.20.2

help:
	@echo 'make lab          show the main job: a node, ENIs, pods that get addresses and talk (WIRE=1: through the AWS SDK)'
	@echo 'make test         run all tests; as root it installs what they need, otherwise it uses a user namespace'
	@echo 'make lint         formatting, clippy, documentation, every set of features, public API, licences and sources of dependencies'
	@echo 'make soak         10 minutes of containers that come and go while the daemon is killed and EC2 fails (SECONDS=, SEED=); needs root'
	@echo 'make migration-proof  move nodes of amazon-vpc-cni-k8s there and back, in every way in which it is set up, and print what it took (PODS=30)'
	@echo 'make interop      call the plugin through the newest libcni and go-cni; needs root and Go'
	@echo 'make build        release binaries, each a static program'
	@echo 'make install-node DIR=/   install them on a node, with unit, settings and the runtime'\''s configuration'
	@echo 'make docker       build an image with the programs and nft (TAG=vpc-ipam:latest)'
	@echo 'make bench        figures beside their references'
	@echo 'make fuzz         fuzz the core, and what the kernel answers, for a minute each (SECONDS=600, TARGETS=scenario)'
	@echo 'make fuzz-long    run 100,000 scenarios that a seed decides (CASES=, SEED=)'
	@echo 'make msrv         test vpc-ipam-core with the oldest Rust that it promises'
	@echo 'make api          write the list of public items, api/*.txt, that make lint compares'
	@echo 'make package      pack every package, and build core, linux and the plugin from theirs alone'
	@echo 'make audit        look dependencies up in the database of advisories, which needs the internet'
	@echo 'make limits       regenerate the table of instance types'
	@echo 'make capacity-data  write data/capacity, for tools in other languages'

lab: lab-deps
ifdef WIRE
	cargo build $(ALL) --all-targets
	target/debug/vpc-ipam lab run --wire
else
	cargo build $(LAB)
	target/debug/vpc-ipam lab run
endif

test: can-test test-deps
	VPC_IPAM_TEST_PYTHON=$(CURDIR)/$(VENV)/bin/python scripts/test.sh $(ALL)

lab-deps:
	@scripts/deps.sh lab

can-test:
	@scripts/test.sh --check

test-deps:
	@scripts/deps.sh test
	@scripts/venv.sh $(VENV)

# That of `make test`, for longer; without the AWS SDK, which it does without.
soak: can-test
	@scripts/deps.sh test
	cargo build $(SOAK) --bins --examples
	VPC_IPAM_SOAK_SECONDS=$(or $(SECONDS),600) VPC_IPAM_SOAK_SEED=$(SEED) \
		scripts/test.sh $(SOAK) --test node -- --nocapture as_root::soak::
	$(MAKE) migration-proof

# Those of `make test`, for every mode; part of `make soak`.
migration-proof: can-test
	@scripts/deps.sh test
	cargo build $(SOAK) --bins --examples
	VPC_IPAM_PROOF_MODES=$(or $(MODES),all) VPC_IPAM_PROOF_PODS=$(or $(PODS),30) \
		scripts/test.sh $(SOAK) --test keep -- --nocapture --test-threads 1 migration_proof::

interop:
	scripts/interop.sh

lint:
	scripts/words.sh
	cargo fmt --all --check
	cargo clippy $(ALL) --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(ALL) --no-deps
	scripts/features.sh
	cargo run --quiet --locked -p vpc-ipam-api -- --check
	PATH="$$PATH:$$(scripts/tools.sh $(DENY))" cargo deny --locked --all-features check --hide-inclusion-graph bans licenses sources

# Needs the database of advisories, which a machine without the internet does not reach: not part of `make lint`.
audit:
	PATH="$$PATH:$$(scripts/tools.sh $(DENY))" cargo deny --locked --all-features check advisories

msrv:
	scripts/msrv.sh

api:
	cargo run --quiet --locked -p vpc-ipam-api

# Packs every package, and builds from their packages alone those that do without the AWS SDK.
package:
	cargo package --locked --workspace --no-verify
	cargo package --locked -p vpc-ipam-core -p vpc-ipam-linux -p vpc-ipam-protocol -p vpc-cni

build:
	scripts/build.sh

install-node:
	scripts/install-node.sh $(DIR)

docker:
	scripts/docker.sh $(TAG)

bench: lab-deps
	scripts/bench.sh

fuzz:
	scripts/fuzz.sh $(or $(SECONDS),60) $(TARGETS)

fuzz-long:
	@mkdir -p fuzz/artifacts
	cargo run --quiet --locked --profile proof -p vpc-ipam-fuzz -- --cases $(or $(CASES),100000) $(if $(SEED),--seed $(SEED)) --keep fuzz/artifacts

limits:
	pip download --quiet --no-deps --dest target/moto moto==5.2.5
	scripts/generate-limits.py target/moto/moto-5.2.5-*.whl

capacity-data:
	cargo run --quiet -p vpc-ipam --no-default-features --locked -- capacity-data data/capacity
