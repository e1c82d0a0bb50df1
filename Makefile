# `make check` is everything that has to hold; it ends with what it ran and what it left out.
# What it needs beyond Rust it installs itself, where it may (as root), and else says what to install.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:

TARGET := $(or $(CARGO_TARGET_DIR),target)
DENY_VERSION := 0.20.2
DENY := $(TARGET)/tools/$(DENY_VERSION)/bin/cargo-deny
PACKAGES_MAX := 140
INSTRUCTIONS_MAX := 90000
REPORT := $(TARGET)/check.report
comma := ,

ran = @echo "  ran       $(1)" >>$(REPORT)

.PHONY: check tools format clippy test docs deny packages systemd signer zabbix instructions fmt bless soak bench peers

check:
	@mkdir -p $(TARGET)
	@: >$(REPORT)
	@$(MAKE) --no-print-directory tools format clippy test docs deny packages systemd signer zabbix instructions
	@echo
	@cat $(REPORT)
	@echo "make check: passed"

# A C compiler (SQLite and ring are built from source), Rust's own formatter and lints, and for the systemd test a
# container. The commands are what tells whether a package is missing.
tools:
	@missing=(); \
	need() { command -v "$$1" >/dev/null || missing+=("$$2"); }; \
	need cc build-essential; need python3 python3; need valgrind valgrind; \
	if [[ $$(id -u) == 0 ]]; then need debootstrap debootstrap; need systemd-nspawn systemd-container; fi; \
	if (($${#missing[@]})); then \
	  if [[ $$(id -u) != 0 ]]; then echo "missing; run as root: apt-get install $${missing[*]}" >&2; exit 1; fi; \
	  apt-get update -qq </dev/null; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" </dev/null; \
	fi
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

format:
	cargo fmt --check
	$(call ran,format)

clippy:
	cargo clippy --locked --all-targets -- -D warnings
	$(call ran,clippy$(comma) warnings denied)

# Unit, contract and black-box tests.
test:
	cargo test --locked
	$(call ran,tests: unit$(comma) contract$(comma) black-box)

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
	cargo install cargo-deny --version $(DENY_VERSION) --locked --debug --root $(TARGET)/tools/$(DENY_VERSION)

# Being small enough to read is a promise.
packages:
	@count=$$(cargo tree --locked --edges normal,build --prefix none --format '{p}' | sed 's/ (\*)$$//' | sort -u | wc -l); \
	echo "$$count packages in the default build, at most $(PACKAGES_MAX)"; \
	((count <= $(PACKAGES_MAX)))
	$(call ran,packages: no more than $(PACKAGES_MAX))

# As root it has to run; on a machine that is there for testing (CI=true) too, whoever it runs as.
systemd:
	@cargo build --locked --bin callbackd
	@if [[ $$(id -u) == 0 || $${CI:-} == true ]]; then \
	  tests/peers/systemd.sh $(TARGET)/debug/callbackd; \
	  echo "  ran       systemd: the units in a container" >>$(REPORT); \
	else \
	  echo "left out: systemd test (needs root; sudo tests/peers/systemd.sh)"; \
	  echo "  left out  systemd test (needs root; sudo tests/peers/systemd.sh)" >>$(REPORT); \
	fi

# As root, or on a machine that is there for testing, it has to run: pip brings the signer over the network.
signer:
	@cargo build --locked --bin callbackd
	@if [[ $$(id -u) == 0 || $${CI:-} == true ]]; then \
	  tests/peers/huawei_signer.sh $(TARGET)/debug/callbackd; \
	  echo "  ran       Huawei Cloud's own signer on what is sent to SecMaster" >>$(REPORT); \
	else \
	  echo "left out: Huawei Cloud's own signer (needs pip and a network; tests/peers/huawei_signer.sh)"; \
	  echo "  left out  Huawei Cloud's own signer (needs pip and a network; tests/peers/huawei_signer.sh)" >>$(REPORT); \
	fi

# The same: a real PostgreSQL and a real Zabbix are installed and started for it.
zabbix:
	@if [[ $$(id -u) == 0 || $${CI:-} == true ]]; then \
	  tests/peers/zabbix.sh; \
	  echo "  ran       zabbix: sink and apply against a real one" >>$(REPORT); \
	else \
	  echo "left out: Zabbix test (needs root; sudo tests/peers/zabbix.sh)"; \
	  echo "  left out  Zabbix test (needs root; sudo tests/peers/zabbix.sh)" >>$(REPORT); \
	fi

# What a callback costs, as instructions that callgrind counts: nearly the same everywhere (a hundredth up or
# down, as commits gather more or less), so that a limit can hold.
instructions:
	CONNECTIONS=64 LIMIT=$(INSTRUCTIONS_MAX) benches/instructions.sh
	$(call ran,instructions per callback: no more than $(INSTRUCTIONS_MAX))

# Formats everything.
fmt:
	cargo fmt

# Rewrites what the tests expect with what they found; read the difference before you keep it.
bless:
	BLESS=1 cargo test --locked

# The test that kills the daemon under load, for longer: `make soak KILLS=5000`.
KILLS ?= 1000
soak:
	cargo test --locked --test it -- --list | grep -q '^nothing_lost::'
	CALLBACKD_TEST_KILLS=$(KILLS) cargo test --locked --test it -- --nocapture nothing_lost::

# What callbackd does beside what bounds it, in one table (benches/run.py): some 25 minutes, QUICK=1 some 8. What is written
# to benches/ is shown in README; a quick run writes to target/ alone.
bench:
	benches/run.py $(if $(QUICK),--quick,--json benches/results.json --picture benches/results.svg)

# The same work on what else users would pick (benches/peers/): some 10 minutes, most of them to install it.
peers:
	benches/peers/run.py $(if $(QUICK),--quick,--json benches/peers/results.json --picture benches/peers/results.svg)
