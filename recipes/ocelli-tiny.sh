#!/bin/sh
# Makes the FastVLM that comes with Ocelli, from nothing to the folder runs/ocelli-tiny-exported: three recipes one after another,
# some four hours on two cores. Stopped, it goes on where it was. Arguments go to each run, as --set train.batch=16.
set -eu
cd "$(dirname "$0")/.."

train() {
    recipe=$1
    shift
    cargo run --release --bin ocelli-train -- vlm --config "recipes/$recipe.toml" --out "runs/$recipe" "$@"
}

train ocelli-tiny "$@"
train ocelli-tiny-select --model runs/ocelli-tiny "$@"
train ocelli-tiny-all --model runs/ocelli-tiny-select "$@"
cargo run --release --bin ocelli-train -- export runs/ocelli-tiny-all runs/ocelli-tiny-exported
