# Each of these installs what it misses (on Debian, as root) or says what to install.
.PHONY: run demo test check fuzz chaos bench

run: # starts the service at http://127.0.0.1:8080
	@scripts/install cc=build-essential
	@scripts/build-web
	@cargo run --locked

demo: # the same over a catalogue with a past, while orders come for an hour: RATE=1 a second
	@scripts/install cc=build-essential node=nodejs npm=npm
	@scripts/build-web
	@RUST_LOG=$${RUST_LOG:-info,api::edge::access_log=warn} cargo run --locked -- --demo $(or $(RATE),1)

test: # runs every test
	@scripts/test

check: # format, lints, links, schema.graphql, compose.yaml
	@scripts/install cc=build-essential node=nodejs npm=npm
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	scripts/check-links
	scripts/check-schema
	scripts/check-compose
	scripts/check-dependencies
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fuzz: # sends the edge what libFuzzer makes up; SECONDS=60
	@scripts/install cc=build-essential
	@scripts/fuzz $(SECONDS)

chaos: # kills and disturbs everything while orders are placed: ROUNDS=200; SEED=… repeats a schedule
	@SEED=$(SEED) ROUNDS=$(or $(ROUNDS),200) scripts/test --test system chaos -- --nocapture

bench: # measures a release build beside its peers, for ten minutes; ONLY=reads, say, measures a part
	@scripts/bench
