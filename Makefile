# Each target installs the programs that it needs (on Debian, as root) or prints what to install.
.PHONY: run demo build lambda test check fuzz chaos upgrade bench

run: # starts the service at http://127.0.0.1:8080
	@scripts/install cc=build-essential
	@scripts/build-web
	@cargo run --locked

demo: # the same with a year of sample orders and new ones for an hour: RATE=0.1 per second
	@scripts/install cc=build-essential node=nodejs npm=npm
	@scripts/build-web
	@RUST_LOG=$${RUST_LOG:-info,api::edge::access_log=warn} cargo run --locked -- --demo $(or $(RATE),0.1)

build: # builds the release programs, with their pages, into target/programs; DIRECTORY=… chooses another directory
	@scripts/install cc=build-essential node=nodejs npm=npm
	@scripts/build $(or $(DIRECTORY),target/programs)

lambda: # builds the projector as an AWS Lambda function into target/projector-lambda, see docs/deploy-aws.md
	@scripts/install cc=build-essential
	@scripts/build-lambda

test: # runs every test
	@scripts/test

check: # format, lints, schema, documents, migrations, image, compose.yaml, Helm chart, AWS template, alerts, dependencies
	@scripts/install cc=build-essential node=nodejs npm=npm
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets --features api/failpoints,projector/failpoints -- -D warnings
	scripts/check-layers
	scripts/check-schema
	scripts/check-links
	scripts/check-configuration
	scripts/check-migrations
	scripts/check-dependencies
	scripts/check-image
	scripts/check-compose
	scripts/check-helm
	scripts/check-deploy
	scripts/test-deploy
	scripts/check-observability

fuzz: # sends random requests, variables, WebSocket messages and public keys to the API: SECONDS=60 for each
	@scripts/install cc=build-essential
	@scripts/fuzz $(SECONDS)

chaos: # kills and disturbs everything while orders are placed, fills disks, rotates passwords: ROUNDS=200; SEED=… repeats a schedule
	@SEED=$(SEED) ROUNDS=$(or $(ROUNDS),200) scripts/test --test system --test database -- chaos disk_full credentials --nocapture

upgrade: # replaces the programs of the release before by those of this one, under load; COMMIT=… names another release
	@scripts/test-upgrade $(COMMIT)

bench: # compares a release build with its peers, for ten minutes; ONLY=reads measures one part
	@scripts/bench
