#!/usr/bin/env bash
# Everything about GPUs in one command of at most ten minutes: `bash benchmarks/gpu_check.sh` in a clone.
#
# On a machine with a GPU, CUDA 13, scikit-build-core, pybind11, CMake, ninja, CuPy, pytest and hypothesis (PyTorch and
# curvlinops for the comparisons) it builds the module, runs the tests that are marked `gpu`, runs some of them under
# compute-sanitizer, and measures: benchmarks/results/gpu.json, the section of benchmarks/README.md, and, where $OUT is
# set, both and this report in $OUT. Nothing is fetched. Without a GPU it does the same on the emulated one of the tests
# as far as that goes, and says what it left out. $EMULATED, a folder with the emulated module, saves building it.
set -uo pipefail

cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report=$work/gpu_check.md
failed=0
export MPLBACKEND=Agg PYTHONUNBUFFERED=1

# step SECONDS NAME COMMAND...: run it for at most so long, and note how it went.
step() {
  local limit=$1 name=$2 start=$SECONDS status
  shift 2
  printf '\n=== %s (%d s)\n' "$name" "$SECONDS"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$work/log"
  status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed=1
  local word=ok
  case $status in 0) ;; 124 | 137) word="stopped after $limit s" ;; *) word="FAILED ($status)" ;; esac
  printf -- '| %s | %s | %d s | %s |\n' "$name" "$word" $((SECONDS - start)) \
    "$(grep -E '(passed|failed|ERROR SUMMARY|RACECHECK SUMMARY)' "$work/log" | tail -1 | tr -d '|=')" >>"$report"
}

finish() {
  printf '\n%s\n' "$(cat "$report")"
  if [ -n "${OUT:-}" ]; then cp "$report" "$OUT/"; fi
  exit "$failed"
}

printf '# gpu_check, %s, %s\n\n| step | | took | |\n|---|---|---:|---|\n' "$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo 'no git')" >"$report"

if ! nvidia-smi >/dev/null 2>&1; then
  echo "no GPU here: on the emulated one; left out: compute-sanitizer and every time"
  if [ -z "${EMULATED:-}" ]; then
    EMULATED=build/emulation
    step 900 "build" bash -euo pipefail -c "cmake -S . -B '$work/build' -G Ninja -DGNFAST_CUDA=OFF -DGNFAST_CUDA_EMULATION=ON \
      -DPython_EXECUTABLE='$(command -v "$python")' -Dpybind11_DIR=\"\$('$python' -m pybind11 --cmakedir)\" >/dev/null &&
      cmake --build '$work/build' --target _core_cuda_emulated"
  fi
  step 600 "tests" "$python" -m pytest tests -m gpu --emulated-gpu="$EMULATED"
  step 120 "benchmark, quick" "$python" benchmarks/gpu.py --quick --emulated "$EMULATED"
  finish
fi

step 20 "GPU" nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
# Installed beside the environment, which stays as it is; the tests and benchmarks of this clone use it.
step 170 "build" "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index --target "$work/site" \
  -C cmake.define.GNFAST_CUDA=ON .
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
step 20 "what was built" "$python" -c 'import gnfast; print(gnfast.build_info()); assert gnfast.build_info()["cuda"]'
step 110 "tests" "$python" -m pytest tests -x -m gpu
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    step 30 "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
      "$python" -m pytest -x -p no:cacheprovider --no-pool -m gpu tests/test_gpu.py -k "operators and (relu or images)"
  done
else
  echo "| compute-sanitizer | left out: not installed | | |" >>"$report"
fi
step 150 "benchmark" "$python" benchmarks/gpu.py --runs 3
finish
