# `make check` is everything that has to hold; it ends with what it ran and what it left out.
# What it needs beyond Rust it installs itself, where it may (as root), and else says what to install.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:

TARGET := $(or $(CARGO_TARGET_DIR),target)
DENY_VERSION := 0.20.2
DENY := $(TARGET)/tools/$(DENY_VERSION)/bin/cargo-deny
FUZZ_VERSION := 0.13.2
FUZZ := $(TARGET)/tools/fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
CARGO_DEB_VERSION := 3.8.0
CARGO_DEB := $(TARGET)/tools/deb-$(CARGO_DEB_VERSION)/bin/cargo-deb
CARGO_RPM_VERSION := 0.21.1
CARGO_RPM := $(TARGET)/tools/rpm-$(CARGO_RPM_VERSION)/bin/cargo-generate-rpm
PACKAGES_MAX := 140
INSTRUCTIONS_MAX := 84000
REPORT := $(TARGET)/check.report
comma := ,

ran = @echo "  ran       $(1)" >>$(REPORT)
# What $(3) shows is $(1). It has to run as root, and on a machine that is there for testing (CI=true), whoever it runs as;
# elsewhere it is said that $(2) was left out.
as_root = @if [[ $$(id -u) == 0 || $${CI:-} == true ]]; then $(strip $(3)); echo "  ran       $(1)" >>$(REPORT); \
	else echo "left out: $(strip $(2))"; echo "  left out  $(strip $(2))" >>$(REPORT); fi
# Quick to build counts more than quick to run; in one folder, because much of one serves the next.
install = cargo install --locked --debug --config profile.dev.debug=false --target-dir $(TARGET)/tools/build

# In this order. The latter need what takes minutes to build, and is built beside the former while a core is idle: most of
# them wait more than they compute.
FORMER := format clippy test otlp postgres cluster power disk docs footprint interleavings network systemd signer schema zabbix metrics openapi page
LATTER := deny instructions packages
BUILDS := $(TARGET)/builds.log

.PHONY: check builds tools $(FORMER) $(LATTER) fmt bless soak fuzz fuzz-keep bench bench-shared scale peers released staged deb rpm static image

check:
	@mkdir -p $(TARGET)
	@: >$(REPORT)
	@took=(); \
	run() { local began=$$SECONDS; $(MAKE) --no-print-directory "$$1"; took+=("$$1 $$((SECONDS - began))"); }; \
	run tools; \
	nice -n 19 $(MAKE) --no-print-directory builds >$(BUILDS) 2>&1 </dev/null & builds=$$!; \
	trap 'kill $$builds 2>/dev/null || true' EXIT; \
	for target in $(FORMER); do run "$$target"; done; \
	began=$$SECONDS; \
	wait $$builds || { tail -n 40 $(BUILDS); exit 1; }; \
	trap - EXIT; \
	took+=("what was built beside them $$((SECONDS - began))"); \
	for target in $(LATTER); do run "$$target"; done; \
	(IFS=,; echo "  seconds   $${took[*]}; all $$SECONDS" | sed 's/,\b/, /g' | fold -s -w 108 | sed '2,$$s/^/            /') >>$(REPORT)
	@echo
	@cat $(REPORT)
	@echo "make check: passed"

# The release and the tools that the latter need; as root, or on a machine that is there for testing, those of the packages
# and the root of the containers, too.
builds:
	@packages=; \
	if [[ $$(id -u) == 0 || $${CI:-} == true ]]; then \
	  tests/peers/systemd-run.sh /bin/true; \
	  packages="$(CARGO_RPM) $(CARGO_DEB) static"; \
	fi; \
	$(MAKE) --no-print-directory released $(DENY) $$packages PROFILE=dev
	@rm -rf $(TARGET)/tools/build

# A C compiler (SQLite and ring are built from source), Rust's own formatter and lints, and for the systemd test a
# container, for the network test namespaces and a program between them, for the page a browser and what drives it. The
# commands are what tells whether a package is missing.
tools:
	@missing=(); \
	need() { command -v "$$1" >/dev/null || missing+=("$$2"); }; \
	need cc build-essential; need python3 python3; need valgrind valgrind; \
	need zstd zstd; need faketime faketime; \
	[[ -n $$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null) ]] || need postgres postgresql; need openssl openssl; [[ -x /usr/sbin/pgbouncer ]] || need pgbouncer pgbouncer; \
	if [[ $$(id -u) == 0 ]]; then need debootstrap debootstrap; need systemd-nspawn systemd-container; \
	  need ip iproute2; need chromium chromium; need node nodejs; need npm npm; need rpm rpm; need lintian lintian; \
	  need haproxy haproxy; need etcd etcd-server; need patroni patroni; \
	  need musl-gcc musl-tools; need buildah buildah; need crun crun; fi; \
	if (($${#missing[@]})); then \
	  if [[ $$(id -u) != 0 ]]; then echo "missing; run as root: apt-get install $${missing[*]}" >&2; exit 1; fi; \
	  apt-get update -qq </dev/null; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" </dev/null; \
	fi
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

format:
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo fmt --check --manifest-path tests/interleavings/Cargo.toml --package interleavings --package staged-std --package staged-tokio
	$(call ran,format)

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(call ran,clippy$(comma) warnings denied)

# Unit, contract and black-box tests. Both packages are named, here and below: so the one is built as beside the other.
BOTH := --package callbackd --package callbackd-vfs
test:
	cargo test --locked $(BOTH) --lib --test it
	$(call ran,tests: unit$(comma) contract$(comma) black-box)
	@[[ $$(id -u) == 0 || $${CI:-} == true ]] || \
	  echo "  left out  of the tests, those of a full and a read-only disk (need root to mount one)" >>$(REPORT)

# Traces for a collector are a feature: what needs it, and lints, with it. The collector is a fake that checks the protocol;
# pip brings OpenTelemetry's definitions over the network, which decode what is sent.
otlp:
	cargo clippy --locked --lib --features otlp -- -D warnings
	cargo test --locked --features otlp --test it -- otlp:: config:: traces::
	@echo "  ran       otlp: built with the feature, traces at a fake collector that checks the protocol (no real one)" >>$(REPORT)
	$(call as_root,otlp: what is sent$(comma) decoded by OpenTelemetry's own definitions,\
	  otlp by OpenTelemetry's definitions (needs pip and a network; tests/peers/otlp.sh),\
	  tests/peers/otlp.sh $(TARGET)/debug/callbackd)

# Several machines are a feature: the contract of the store, its model, and what several daemons share, on a PostgreSQL that is
# started here.
postgres:
	cargo clippy --locked --lib --tests --features postgres -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --document-private-items --features postgres
	cargo test --locked --features postgres --lib -- store::postgres store::tray
	cargo test --locked --features postgres --test it --no-run
	tests/peers/postgres.sh cargo test --locked --features postgres --test it -- store:: news:: model:: postgres:: moving:: --skip store::sqlite --test-threads=4
	$(call ran,postgres: the store's contract and model$(comma) several daemons on one PostgreSQL$(comma) and the move there and back)

# Several daemons behind HAProxy, on a Patroni cluster and on one server behind PgBouncer, all of which are killed, stopped and
# cut off.
cluster:
	$(call as_root,cluster: Patroni$(comma) etcd$(comma) PgBouncer and HAProxy$(comma) killed and cut off under load,\
	  cluster test (needs root; sudo tests/peers/cluster.sh),\
	  tests/peers/cluster.sh)

# Power cuts: what the disk could hold then, of a recorded life of the daemon; and that losses would be found.
POWER_CUTS ?= 1000
power:
	POWER_CUTS=$(POWER_CUTS) cargo test --locked $(BOTH) --test power -- --nocapture --test-threads=1
	$(call ran,power cuts: $(POWER_CUTS) moments of a recorded life$(comma) nothing acknowledged lost; and losses found where they are made)

# Disks that fail at any call, are full or slow, under the real daemon.
disk:
	cargo test --locked $(BOTH) --test disk
	$(call ran,disks that fail)

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib --document-private-items
	$(call ran,docs$(comma) warnings denied)

# The advisory database comes over the network: without it, that part alone is left out. What it finds is a failure.
deny: $(DENY)
	$(DENY) --locked check bans licenses sources
	$(call ran,cargo deny: bans$(comma) licenses$(comma) sources)
	@if timeout 120 $(DENY) --locked fetch db </dev/null 2>$(TARGET)/advisories.log; then \
	  $(DENY) --locked check advisories; \
	  echo "  ran       cargo deny: advisories" >>$(REPORT); \
	else \
	  tail -n 3 $(TARGET)/advisories.log; \
	  echo "  left out  cargo deny: advisories (no advisory database could be had)" >>$(REPORT); \
	fi

$(DENY):
	$(install) cargo-deny --version $(DENY_VERSION) --root $(TARGET)/tools/$(DENY_VERSION)

# Being small enough to read is a promise.
footprint:
	@count=$$(cargo tree --locked --edges normal,build --prefix none --format '{p}' | sed 's/ (\*)$$//' | sort -u | wc -l); \
	echo "$$count packages in the default build, at most $(PACKAGES_MAX)"; \
	((count <= $(PACKAGES_MAX)))
	$(call ran,footprint: no more than $(PACKAGES_MAX) packages in the default build)

# The queue, the writer, ingest and the forwarder in many orders of their steps; and that breaking them is noticed.
interleavings:
	tests/interleavings/run.sh
	$(call ran,interleavings: many orders of the steps of threads and tasks$(comma) and broken on purpose)

network:
	$(call as_root,network: the daemon behind a bad line,\
	  network test (needs root; sudo tests/peers/network.sh),\
	  tests/peers/network.sh)

systemd:
	@cargo build --locked --bin callbackd
	$(call as_root,systemd: the units in a container,\
	  systemd test (needs root; sudo tests/peers/systemd.sh),\
	  tests/peers/systemd.sh $(TARGET)/debug/callbackd)

# pip brings the signer over the network.
signer:
	@cargo build --locked --bin callbackd
	$(call as_root,Huawei Cloud's own signer on what is sent to SecMaster,\
	  Huawei Cloud's own signer (needs pip and a network; tests/peers/huawei_signer.sh),\
	  tests/peers/huawei_signer.sh $(TARGET)/debug/callbackd)

# The same for a validator of JSON Schema.
schema:
	@cargo build --locked --bin callbackd
	$(call as_root,the JSON Schemas: what is shipped$(comma) what check refuses$(comma) what the fixtures make,\
	  the JSON Schemas (needs pip and a network; tests/peers/schema.sh),\
	  tests/peers/schema.sh $(TARGET)/debug/callbackd)

# Schemathesis asks the admin API what its description makes up.
openapi:
	@cargo build --locked --bin callbackd
	$(call as_root,Schemathesis on the admin API$(comma) as /openapi.json describes it,\
	  Schemathesis on the admin API (needs pip and a network; tests/peers/openapi.sh),\
	  SEED=$(SEED) tests/peers/openapi.sh $(TARGET)/debug/callbackd)

# A real PostgreSQL and a real Zabbix are installed and started for it.
zabbix:
	$(call as_root,zabbix: sink and apply against a real one,\
	  Zabbix test (needs root; sudo tests/peers/zabbix.sh),\
	  tests/peers/zabbix.sh)

# A real Prometheus is had from Debian, and its Python client from pip.
metrics:
	@cargo build --locked --bin callbackd
	$(call as_root,metrics: scraped by a real Prometheus$(comma) which tries the rules and the dashboard,\
	  metrics at a real Prometheus (needs apt and pip; tests/peers/prometheus.sh),\
	  tests/peers/prometheus.sh $(TARGET)/debug/callbackd)

# The page in Chromium; npm brings what drives the browser over the network. `PICTURES=1 make page` makes the pictures in docs/ anew.
page:
	@cargo build --locked --bin callbackd
	$(call as_root,page: every view in Chromium$(comma) and what is done there,\
	  the page in Chromium (needs chromium$(comma) node$(comma) npm and a network; tests/peers/page.sh),\
	  tests/peers/page.sh $(TARGET)/debug/callbackd)

# What a callback costs, as instructions that callgrind counts: nearly the same everywhere (a hundredth up or
# down, as commits gather more or less), so that a limit can hold.
instructions:
	benches/instructions.py --connections 64 --limit $(INSTRUCTIONS_MAX)
	$(call ran,instructions per callback: no more than $(INSTRUCTIONS_MAX))

# The packages of a release. The same sources, built in the same place, make the same bytes: each date in them is that of
# the last commit. `MAINTAINER="Name <address>"` says who built them; `FEATURES=postgres` makes of each one that can share a
# database (config/compose).
FEATURES ?=
WITH = $(if $(FEATURES),--features $(FEATURES))
MAINTAINER ?= The authors of callbackd <callbackd@localhost>
staged deb rpm image: export MAINTAINER := $(MAINTAINER)
# Whoever else builds the same does it with the same date, or all that is written in C is built again.
released instructions staged deb rpm static image: export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),0)
released:
	cargo build --release --locked $(WITH) --bin callbackd

staged: released
	systemd/stage.sh $(TARGET)/release/callbackd $(TARGET)/release/package
	@mkdir -p $(TARGET)/packages

deb: staged $(CARGO_DEB)
	$(CARGO_DEB) --no-build --no-strip --locked --maintainer "$(MAINTAINER)" --output $(TARGET)/packages/callbackd.deb

rpm: staged $(CARGO_RPM)
	$(CARGO_RPM) --auto-req builtin --output $(TARGET)/packages/callbackd.rpm

$(CARGO_DEB):
	$(install) cargo-deb --version $(CARGO_DEB_VERSION) --no-default-features --root $(TARGET)/tools/deb-$(CARGO_DEB_VERSION)

$(CARGO_RPM):
	$(install) cargo-generate-rpm --version $(CARGO_RPM_VERSION) --root $(TARGET)/tools/rpm-$(CARGO_RPM_VERSION)

# A container's image of the static program alone (Containerfile), as an archive: PROFILE=dev is built quickly.
PROFILE ?= release
STATIC := $(shell uname -m)-unknown-linux-musl
static:
	@rustup target list --installed 2>/dev/null | grep -qx $(STATIC) || rustup target add $(STATIC)
	cargo build --locked --profile $(PROFILE) --target $(STATIC) $(WITH) --bin callbackd

image: static
	@mkdir -p $(TARGET)/packages
	systemd/image.sh $(TARGET)/$(STATIC)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/callbackd $(TARGET)/packages/callbackd.oci.tar

# Both packages and the image, each on what it is made for.
packages:
	$(call as_root,packages: .deb from installation to purge$(comma) upgraded under load; .rpm; container image,\
	  packages (needs root; sudo make packages),\
	  $(MAKE) --no-print-directory deb rpm; \
	  tests/peers/packages.sh $(TARGET)/packages/callbackd.deb $(TARGET)/packages/callbackd.rpm; \
	  $(MAKE) --no-print-directory image PROFILE=dev; \
	  tests/peers/image.py $(TARGET)/packages/callbackd.oci.tar)

# Formats everything.
fmt:
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

# Rewrites what the tests expect with what they found; read the difference before you keep it.
bless:
	BLESS=1 cargo test --locked

# Power cuts at ten thousand moments; histories for the store and its model, new ones each time, for about a tenth of the
# time; the cluster, in rounds for a quarter of it; and the test that kills, stops, reloads and upgrades the daemon under
# load, in rounds for so long: `make soak HOURS=8`, or MINUTES=20. Each round prints its seed and what it came to; `SEED=…` begins with the choices of one that failed, and
# `PROPTEST_RNG_SEED=…` makes up the same histories.
HOURS ?= 2
MINUTES ?= $(shell echo $$((60 * $(HOURS))))
KILLS ?= 150
SEED ?=
HISTORIES ?= $(shell echo $$((80 * $(MINUTES))))
soak: POWER_CUTS := 10000
soak: power
	cargo test --locked --test it -- --list | grep '^model::' >/dev/null
	CALLBACKD_TEST_MODEL_CASES=$(HISTORIES) cargo test --locked --test it -- --nocapture model::
	CALLBACKD_TEST_MINUTES=$$(($(MINUTES) / 8)) tests/peers/cluster.sh
	cargo test --locked --test it -- --list | grep '^nothing_lost::by_fifty_kills_under_load:' >/dev/null
	CALLBACKD_TEST_MINUTES=$(MINUTES) CALLBACKD_TEST_KILLS=$(KILLS) $(if $(SEED),CALLBACKD_TEST_SEED=$(SEED)) \
	  cargo test --locked --test it -- --nocapture nothing_lost::by_fifty_kills_under_load

# Looks for input that breaks a promise, for so long in each reader: `make fuzz SECONDS=600 READERS="jq config"`. What is
# found is kept in fuzz/artifacts, and what reaches further than before in the target folder, until `make fuzz-keep` takes
# some of it into fuzz/corpus, which `make test` runs. fuzz/words holds what each reader's language is made of. Stable
# Rust is enough: readers have no memory to be watched.
SECONDS ?= 60
READERS ?= $(basename $(notdir $(wildcard fuzz/targets/*.rs)))
fuzz_run = $(FUZZ) run -s none --target-dir $(TARGET)/fuzz $(1) -- -timeout=20 -rss_limit_mb=2048 $(2)
fuzz: $(FUZZ)
	cp Cargo.lock fuzz/Cargo.lock
	@for reader in $(READERS); do \
	  mkdir -p $(TARGET)/corpus/$$reader; \
	  echo "fuzz: $$reader, $(SECONDS) s"; \
	  nice $(call fuzz_run,$$reader $(TARGET)/corpus/$$reader fuzz/corpus/$$reader,-max_total_time=$(SECONDS) -dict=fuzz/words/$$reader -print_final_stats=1); \
	done

# Of what goes where nothing went before, the few small ones that together go the furthest.
KEEP ?= 40
fuzz-keep: $(FUZZ)
	@for reader in $(READERS); do \
	  kept=fuzz/corpus/$$reader; from=$(TARGET)/merge/$$reader/from; into=$(TARGET)/merge/$$reader/into; \
	  rm -rf $(TARGET)/merge/$$reader; mkdir -p $$from; cp -rp $$kept $$into; \
	  find $(TARGET)/corpus/$$reader -type f -size -5k -exec cp -t $$from {} +; \
	  nice $(call fuzz_run,$$reader $$into $$from,-set_cover_merge=1 -use_counters=0); \
	  comm -13 <(ls $$kept | sort) <(ls $$into | sort) | sed "s|^|$$into/|" | xargs -r ls -tr | sed -n '1,$(KEEP)p' | \
	    xargs -r cp -t $$kept; \
	done

$(FUZZ):
	cargo install cargo-fuzz --version $(FUZZ_VERSION) --locked --debug --root $(TARGET)/tools/fuzz-$(FUZZ_VERSION)

# What callbackd does beside what bounds it, in one table (benches/run.py): some 25 minutes, QUICK=1 some 8. What is written
# to benches/ is shown in README; a quick run writes to target/ alone.
bench: tools
	benches/run.py $(if $(QUICK),--quick,--json benches/results.json --picture benches/results.svg)

# Several callbackd on one PostgreSQL beside pgbench and beside SQLite, and what a callback costs there (benches/shared/): some
# 5 minutes, and 10 GB of disk. `make scale` reckons from that what more would need.
bench-shared: tools
	benches/shared/run.py $(if $(QUICK),--quick,--json benches/shared/results.json)

scale:
	benches/shared/scale.py benches/shared/results.json

# The same work on what else users would pick (benches/peers/): some 10 minutes, most of them to install it.
peers: tools
	benches/peers/run.py $(if $(QUICK),--quick,--json benches/peers/results.json --picture benches/peers/results.svg)
