#!/usr/bin/env bash
# Train the embedded model further on one CUDA device: scenes rendered on all cores, bf16, large batches.
#
#     scripts/gpu/train_tiny.sh [OUT]            meant for 10 minutes on one recent GPU and 16 cores
#     SMOKE=1 scripts/gpu/train_tiny.sh [OUT]    the same steps in a minute or two, on a CPU
#
# OUT (default runs/gpu) receives the scenes, the run, which resumes when the script is started again, and
# published/: checkpoint, card and scores on test scenes. It has not been run on a GPU yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=${1:-runs/gpu}
python=${PYTHON:-python}
cores=$(nproc)
run=$out/continued
if [[ -n ${SMOKE:-} ]]; then
    scenes=16 validation=4 test=2 shard=8
    settings=(minutes=0 steps=2 batch_size=2 prompts_per_image=2 validate_every=2 validate_pictures=4)
    device=(--cpu)
else
    scenes=16000 validation=200 test=200 shard=100
    settings=(minutes=5.5 batch_size=64 prompts_per_image=10 workers=$((cores > 4 ? cores - 2 : 2))
        precision=bf16 validate_every=400)
    device=()
    "$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "there is no CUDA device; SMOKE=1 runs on a CPU")'
fi

say() { echo "[train_tiny $(date +%T)] $*"; }
say "rendering $scenes training and $validation validation scenes with $cores processes"
"$python" -m xsam.sim.shards --start 100000 --count "$scenes" --shard-size "$shard" --processes "$cores" --out "$out/data/train"
"$python" -m xsam.sim.shards --start 1004000 --count "$validation" --shard-size "$shard" --processes "$cores" --out "$out/data/val"
say "training from the embedded checkpoint"
"$python" -m xsam.train.run tiny/continued --init xsam/assets/tiny --mask-places --data "$out/data" --out "$run" \
    "${device[@]}" $(printf -- '--set %s ' "${settings[@]}")
say "publishing, and scoring on $test test scenes"
"$python" -m xsam.train.publish "$out" --out "$out/published" --scenes "2000000:$test"
say "done: $out/published; thresholds: python -m xsam.train.calibrate $out/published"
