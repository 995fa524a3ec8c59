#!/usr/bin/env bash
# Starts moto, an S3-compatible server, on the port that is given. It is in ~/.cache/regatta/moto, and put there first if it is
# not; without a port, that is all.
set -euo pipefail
home=${XDG_CACHE_HOME:-$HOME/.cache}/regatta/moto
mkdir -p "$(dirname "$home")"
exec 9>"$home.lock"
flock 9
if ! [ -e "$home/complete" ]; then
    python3 -m venv --clear "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check 'moto[s3,server]==5.2.1'
    touch "$home/complete"
fi
exec 9>&-
[ $# -eq 0 ] || exec "$home/bin/moto_server" -H 127.0.0.1 -p "$1"
