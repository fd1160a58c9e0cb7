# Each of these installs what it misses (Debian, as root) or says what to install.
.PHONY: run test check figures

run: # starts the service at http://127.0.0.1:8080
	@scripts/install build-essential
	@cargo run --locked

test: # runs every test
	@scripts/test

check: # format, lints, links, compose.yaml
	@scripts/install build-essential docker-compose
	scripts/check-links
	JWT_SECRET=unset docker-compose -f compose.yaml config -q
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

figures: # measures start, latency and memory of a release build
	@scripts/install build-essential postgresql redis-server sudo
	cargo build --locked --release --workspace --bins
	cargo test --locked --release --workspace --test system -- --ignored --nocapture
