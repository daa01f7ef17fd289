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

# RUN LETTERS SHORT STEPS ARGUMENTS
read_up_to() {
    run=$1
    letters=$2
    short=$3
    steps=$4
    shift 4
    train "$run" ocelli-tiny-read --set "data.drawn.letters=$letters" --set "data.drawn.short=$short" \
        --set "train.schedule.steps=$steps" "$@"
}

train ocelli-tiny ocelli-tiny "$@"
train ocelli-tiny-select ocelli-tiny-select --model runs/ocelli-tiny "$@"
read_up_to ocelli-tiny-read-2 2 6 1270 --model runs/ocelli-tiny-select "$@"
read_up_to ocelli-tiny-read-4 4 7 1780 --model runs/ocelli-tiny-read-2 "$@"
train ocelli-tiny-read ocelli-tiny-read --model runs/ocelli-tiny-read-4 "$@"
train ocelli-tiny-all ocelli-tiny-all --model runs/ocelli-tiny-read "$@"
# Counting was a little under its bar.
train ocelli-tiny-last ocelli-tiny-all --model runs/ocelli-tiny-all --set train.schedule.steps=860 \
    --set 'data.drawn.kinds={ one = 1, two = 4, three = 4, count = 9, text = 7, chart = 1, icon = 2 }' \
    --set 'train.learning_rates={ vision = 5e-4, projector = 5e-4, language = 5e-4 }' "$@"
cargo run --release --bin ocelli-train -- export runs/ocelli-tiny-last runs/ocelli-tiny-exported
