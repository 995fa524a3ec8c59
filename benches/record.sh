#!/usr/bin/env bash
# Measures everything and puts the tables into docs/benchmarks.md; arguments go to every benchmark. About 4 minutes on a
# machine that does nothing else, after the build and benches/peers/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/benchmarks.md
for bench in ask bulk; do cargo bench -q -p regatta-remote --bench "$bench" --no-run; done

sed '/^<!-- figures/q' "$page" > "$page.new"
cpu=$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1)
printf '\nOf %s at commit %s: %s cores (%s), Linux %s, `benches/record.sh %s`.\n' \
    "$(date +%F)" "$(git rev-parse --short HEAD)" "$(nproc)" "$cpu" "$(uname -r)" "$*" >> "$page.new"
for bench in ask bulk; do
    cargo bench -q -p regatta-remote --bench "$bench" -- "$@" | tee -a "$page.new"
done
mv "$page.new" "$page"
