set shell := ["bash", "-euo", "pipefail", "-c"]

# The recipes there are.
_default:
    @just --list

# Look at everything, change nothing: format, lints, tests, licences and advisories.
check: && test
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    if command -v cargo-deny >/dev/null; then cargo deny --config .deny.toml check; else echo "cargo-deny is not installed: licences and advisories are NOT checked"; fi

# Write what a tool can mend.
fix:
    cargo fmt --all
    cargo clippy --locked --workspace --all-targets --fix --allow-dirty --allow-staged

# The tests; with arguments, those that match.
test *filter:
    if command -v cargo-nextest >/dev/null; then cargo nextest run --locked --workspace {{filter}}; else cargo test --locked --workspace {{filter}}; fi

# The story on three processes.
tour:
    cargo run --locked --release -- demo tour

# Measurements by ratio.
bench *arguments:
    cargo run --locked --release -p benches -- {{arguments}}

# Faults against real clusters; the tier is `short` unless it is named.
chaos *arguments="short":
    cargo run --locked -p chaos -- {{arguments}}
