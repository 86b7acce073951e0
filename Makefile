# The recipes of the house. CI runs these very ones: see .ci/run.

.DEFAULT_GOAL := help
.PHONY: help run test setup-test bench bench-registry soak fuzz fuzz-api packages packages-static test-packages measure-sidecar lint doc deny

CARGO ?= cargo

help: ## Lists what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## A collector and three sidecars beside real processes, until Ctrl-C
	@exec tests/run.sh

# One profile and one feature set for everything below: nothing is compiled twice.
test: setup-test ## Every test that fits CI, the fuzzers' corpus included
	@# The end-to-end tests start the real programs, which `cargo test` alone does not build.
	$(CARGO) build --workspace --locked
	$(CARGO) test --workspace --locked

setup-test: ## Installs what the tests need from the distribution
	@tests/setup.sh

bench: ## The figures of BENCHMARKS.md: 2,000 and 10,000 sidecars, three minutes each
	@tests/bench.sh

bench-registry: ## The registry's figures: 100,000 services, queries, the feed, a purge under load
	@tests/bench-registry.sh

soak: setup-test ## The long runs: 200 kills, restarts under 2,000 sidecars, 10,000 for half an hour
	@CARGO="$(CARGO)" tests/soak.sh

fuzz-api: ## Requests made out of the OpenAPI document, against a running collector; API_EXAMPLES (20) for each operation
	@tests/fuzz-api.sh

fuzz: ## Every fuzz target for FUZZ_SECONDS (600) each; needs a nightly toolchain
	@fuzz/run.sh

packages: ## deb and rpm of both programs, in target/packages
	@CARGO="$(CARGO)" packaging/build.sh

packages-static: ## The same for distributions with an older C library: target/packages/static
	@CARGO="$(CARGO)" packaging/build.sh --static

measure-sidecar: ## What the packaged sidecar costs its host: MINUTES (10) idle with three probes
	@packaging/measure.sh

test-packages: ## Their life on booted systems, as root: install, reboot, hang, upgrade, purge, a cut cable
	@CARGO="$(CARGO)" packaging/boot/test.sh

lint: ## Formatting and lints, warnings refused
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

doc: ## The API documentation, warnings refused
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --locked

deny: ## Licences, bans, sources and security floors of the dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny@0.20.2
	$(CARGO) deny --locked check bans licenses sources
