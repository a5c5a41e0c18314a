#!/usr/bin/env bash
# All checks of this source tree that need an NVIDIA GPU, with the installed torch: builds in place, runs the tests on
# CUDA, compute-sanitizer on the CUDA kernels, the benchmarks and a short training run. Needs nvcc, but no network.
#
#   benchmarks/gpu.sh [FOLDER]      the folder for logs, results.json and results.md; default: gpu-results
#
# PYTHON: the Python interpreter. DATA: a data folder to train on; without it, the built-in data set is used.
set -uo pipefail
cd "$(dirname "$0")/.."

out=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
python=${PYTHON:-python3}
failed=()
export MMSSL_FAST_CUDA=1 PYTHONSAFEPATH=1

# step NAME COMMAND...: runs the command, writes its output to NAME.log, and continues if it fails.
step() {
  local name=$1 begun=$SECONDS
  shift
  if "$@" > "$out/$name.log" 2>&1; then
    echo "$name: passed in $((SECONDS - begun)) s"
  else
    failed+=("$name")
    echo "$name: FAILED after $((SECONDS - begun)) s; last lines of $out/$name.log:"
    tail -n 15 "$out/$name.log"
  fi
}

"$python" -c 'import torch; assert torch.cuda.is_available()' 2> /dev/null ||
  { echo "gpu.sh: torch in $python finds no GPU; set PYTHON to another interpreter" >&2; exit 2; }

step build "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index --editable .
"$python" -c 'import mmssl_fast as m; info = m.build_info(); print(info); assert info["cuda"], info["cuda_note"]' ||
  { echo "gpu.sh: the CUDA kernels were not built; see $out/build.log" >&2; exit 1; }

step tests_cuda "$python" -m pytest -q -p no:cacheprovider tests/gpu tests/kernels
step tests "$python" -m pytest -q -p no:cacheprovider tests --ignore=tests/gpu --ignore=tests/kernels
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" -m pytest -q -p no:cacheprovider tests/gpu -k "not gumbel_long" -x
  done
else
  echo "compute-sanitizer: skipped, because it is not on PATH"
fi
step benchmarks env MMSSL_FAST_BENCHMARK_DEVICE=cuda "$python" -m pytest -q -p no:cacheprovider --benchmark-only \
  --benchmark-json="$out/benchmarks.json" benchmarks
for device in cpu cuda; do
  step "train_$device" "$python" -c "import sys; from mmssl_trainer.cli.main import main; sys.exit(main())" train ${DATA:+--data "$DATA"} --device "$device" --epochs 3 \
    --seed 0 --overwrite --out "$out/run-$device"
done
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
if ((gpus > 1)); then
  for system in lightgcn mmssl; do
    step "train_${system}_$gpus" "$python" -c "import sys; from mmssl_trainer.cli.main import main; sys.exit(main())" train ${DATA:+--data "$DATA"} --device cuda --epochs 3 \
      --system "$system" --ranks "$gpus" --seed 0 --overwrite --out "$out/run-$system-$gpus"
  done
else
  echo "training with several GPUs: skipped, because there is one"
fi
step report "$python" benchmarks/gpu_report.py "$out"
cat "$out/results.md" 2> /dev/null
if ((${#failed[@]})); then
  echo "gpu.sh: ${#failed[@]} steps failed: ${failed[*]}"
  exit 1
fi
