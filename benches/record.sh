#!/usr/bin/env bash
# Measures everything and puts the tables into docs/book/src/benchmarks.md; arguments go to every benchmark. About a quarter of an
# hour on a machine that does nothing else, after the build (the first one of Polars takes as long again) and
# benches/peers/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/book/src/benchmarks.md
benches="ask bulk startup tasks identity_udf udf_overhead pool_start embed tpch"
# From the root of the workspace, so that all are built with the same features.
for bench in $benches; do cargo bench -q --bench "$bench" --no-run; done

sed '/^<!-- figures/q' "$page" > "$page.new"
cpu=$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1)
printf '\nOf %s at commit %s: %s cores (%s), Linux %s, `benches/record.sh %s`.\n' \
    "$(date +%F)" "$(git rev-parse --short HEAD)" "$(nproc)" "$cpu" "$(uname -r)" "$*" >> "$page.new"
for bench in $benches; do
    cargo bench -q --bench "$bench" -- "$@" | tee -a "$page.new"
done
mv "$page.new" "$page"
