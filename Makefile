# `make test` is what CI runs.
.PHONY: test lint demo bench

test:
	bash scripts/install-test-tools.sh
	cargo test --locked

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --lib

demo:
	cargo run --release --locked -- demo

bench:
	bash scripts/bench.sh
