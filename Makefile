# `make test` and `make lint` are what CI runs (`.ci/run`).
.PHONY: test interop microsandbox reliability fuzz mutation lint bench demo

test:
	scripts/install-test-tools.sh
	scripts/install-interop-tools.sh
	scripts/install-msb.sh --check
	cargo test --locked

# Every registry tool against every registry; writes docs/interop.md.
interop:
	scripts/install-test-tools.sh
	scripts/install-interop-tools.sh --zot
	cargo test --locked --test it interop::matrix::every_tool_against_every_registry -- --ignored --nocapture

# Every kind of snapshot between snapcask and msb, both ways; writes docs/microsandbox.md.
microsandbox:
	scripts/install-test-tools.sh
	scripts/install-msb.sh
	cargo test --locked --test it msb::matrix::every_kind_both_ways -- --ignored --nocapture

# The whole scoreboard; writes docs/reliability.md. Rows 3 to 6 want root. ROWS="3 4" runs only these and keeps the others' pages.
reliability:
	scripts/install-test-tools.sh
	scripts/install-msb.sh
	scripts/reliability.sh $(ROWS)

# FUZZ_SECONDS for each of the five targets (60).
fuzz:
	fuzz/run.sh

# Removes every verification and fsync in turn: a test must fail, each time. MUTANTS="name ..." takes some.
mutation:
	scripts/mutation-check.py $(MUTANTS)

lint:
	scripts/mutation-check.py --check
	cargo fmt --all -- --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# snapcask beside zstd, tar, openssl, curl and msb in one run; writes the table of docs/performance.md. Wants root.
bench:
	scripts/install-bench-tools.sh
	cargo bench --locked --bench bench -- --write

demo:
	cargo run --locked --release -- demo
