#!/usr/bin/env bash
# Makes the peers that are not of this project's build: Ray and Daft in a virtual environment, and a program on
# ractor_cluster.
# They go to $REGATTA_PEERS, else ~/.cache/regatta/peers, where the benchmarks look for them. A few minutes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
peers=${REGATTA_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/regatta/peers}
mkdir -p "$peers"

[ -x "$peers/ray/bin/python" ] || python3 -m venv "$peers/ray"
"$peers/ray/bin/pip" install --quiet "ray[data]==2.60.0" daft==0.7.26 polars==2.1.0 duckdb==2.0.1 datafusion==55.0.0 numpy==2.4.6 \
    onnx==1.23.2 onnxruntime==1.31.1 safetensors==0.8.0 tokenizers==0.23.3

CARGO_TARGET_DIR="$peers/target" cargo install --quiet --locked --path "$here/ractor" --root "$peers/ractor" --force
echo "peers are in $peers"
