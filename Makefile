# Each of these installs what it misses (on Debian, as root) or says what to install.
.PHONY: run test check figures

run: # starts the service at http://127.0.0.1:8080
	@scripts/install cc=build-essential
	@cargo run --locked

test: # runs every test
	@scripts/test

check: # format, lints, links, compose.yaml
	@scripts/install cc=build-essential
	scripts/check-links
	scripts/check-compose
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

figures: # measures start, latency and memory of a release build
	@scripts/install cc=build-essential initdb=postgresql redis-server=redis-server
	cargo build --locked --release --workspace --bins
	cargo test --locked --release --workspace --test system -- --ignored --nocapture
