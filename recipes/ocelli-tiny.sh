#!/bin/sh
# Makes the FastVLM that comes with Ocelli, from nothing to the folder runs/ocelli-tiny-exported: four recipes one after another,
# the third of them three times and the last twice, some seven hours on two cores. Stopped, it goes on where it was. Arguments
# go to each run, as --set train.batch=16.
set -eu
cd "$(dirname "$0")/.."

# RUN RECIPE ARGUMENTS
train() {
    run=$1
    recipe=$2
    shift 2
    cargo run --release --bin ocelli-train -- vlm --config "recipes/$recipe.toml" --out "runs/$run" "$@"
}

train ocelli-tiny ocelli-tiny "$@"
train ocelli-tiny-select ocelli-tiny-select --model runs/ocelli-tiny "$@"
train ocelli-tiny-read-2 ocelli-tiny-read --model runs/ocelli-tiny-select --set train.schedule.steps=1270 \
    --set data.drawn.letters=2 --set data.drawn.short=6 "$@"
train ocelli-tiny-read-4 ocelli-tiny-read --model runs/ocelli-tiny-read-2 --set train.schedule.steps=1780 \
    --set data.drawn.letters=4 --set data.drawn.short=7 "$@"
train ocelli-tiny-read ocelli-tiny-read --model runs/ocelli-tiny-read-4 "$@"
train ocelli-tiny-all ocelli-tiny-all --model runs/ocelli-tiny-read "$@"
# Counting was a little under its bar.
train ocelli-tiny-last ocelli-tiny-all --model runs/ocelli-tiny-all --set train.schedule.steps=860 \
    --set 'data.drawn.kinds={ one = 1, two = 4, three = 4, count = 9, text = 7, chart = 1, icon = 2 }' \
    --set 'train.learning_rates={ vision = 5e-4, projector = 5e-4, language = 5e-4 }' "$@"
cargo run --release --bin ocelli-train -- export runs/ocelli-tiny-last runs/ocelli-tiny-exported
