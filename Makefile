# `make test` and `make lint` are what CI runs (`.ci/run`).
.PHONY: test lint bench demo

test:
	scripts/install-test-tools.sh
	cargo test --locked

lint:
	cargo fmt --all -- --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

bench:
	scripts/bench.sh

demo:
	cargo run --locked --release -- demo
