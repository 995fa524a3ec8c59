#!/usr/bin/env bash
# For who has docker, kind and kubectl: builds the image, runs the example on a cluster on this machine, and shows what it answers.
# Not run by Regatta's own checks: no API server can be had there.
set -euo pipefail
cd "$(dirname "$0")/../.."
docker build -f deploy/kubernetes/Dockerfile -t registry.example/regatta:1 .
kind create cluster --name regatta
kind load docker-image registry.example/regatta:1 --name regatta
kubectl create namespace regatta
kubectl apply -k deploy/kubernetes/overlays/example
kubectl -n regatta rollout status deployment/regatta-head --timeout=120s
kubectl -n regatta get pods -w &
watch=$!
kubectl -n regatta logs -f deployment/regatta-head --tail=-1 & logs=$!
sleep 120
kill "$watch" "$logs"
kind delete cluster --name regatta
