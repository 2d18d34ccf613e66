#!/usr/bin/env bash
# Everything to be known of a machine with an NVIDIA GPU, in eight minutes: what doctor finds, the
# tests that need CUDA, speed, MFU and memory of four sizes with a resume held to the same bits,
# eager and compiled, packed rows, one rank under NCCL, and a nanoGPT-style loop beside them.
#
#   bash benchmarks/gpu.sh [FOLDER]        # results go to FOLDER, else to gpu-results
#
# Each part has a time of its own, and one that fails or takes too long does not end the others.
# The last lines say which parts passed. The exit code is 1 when one did not.
set -u
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu-results}" && cd "${1:-gpu-results}" && pwd)
python=${PYTHON:-python}
failed=0

part() { # NAME SECONDS COMMAND...: run a part, its output into FOLDER/NAME.txt
  local name=$1 limit=$2 begin=$SECONDS code
  shift 2
  echo "== $name: $*"
  timeout --signal=INT --kill-after=10 "$limit" "$@" > "$out/$name.txt" 2>&1
  code=$?
  tail -n 12 "$out/$name.txt"
  if [ $code -eq 0 ]; then verdict=passed; else verdict="FAILED ($code)" failed=1; fi
  echo "$name: $verdict, $((SECONDS - begin)) s" | tee -a "$out/summary.txt"
}

: > "$out/summary.txt"
date --iso-8601=seconds > "$out/date.txt"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/machine.txt" 2>&1
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

part doctor 40 "$python" -m llmforge doctor --json
part cuda-tests 60 "$python" -m pytest -q -p no:cacheprovider tests/unit/test_checkpoint_tensors.py tests/unit/test_transformer_kernels.py tests/unit/test_transformer_packed.py tests/unit/test_transformer_additions.py
part sizes 150 "$python" benchmarks/model_sizes.py --markdown
part compiled 60 "$python" benchmarks/model_sizes.py --sizes gpt2-124m --set train.compile=true --no-resume --markdown
part eager 30 "$python" benchmarks/model_sizes.py --sizes gpt2-124m --set train.compile=false --no-resume --markdown
part fp32 30 "$python" benchmarks/model_sizes.py --sizes gpt2-124m --set 'train.precision="fp32"' --no-resume --markdown
for backend in ddp fsdp; do
  part "nccl-$backend" 30 "$python" -m llmforge train wikitext_tiny --profile test --nproc-per-node 1 \
    --set "backend.name=\"$backend\"" --set "run.root=\"$out/runs\"" --set data.wikitext.offline_sample=true
done
part packed 40 "$python" -m llmforge train alpaca_custom_tiny --profile test --set "run.root=\"$out/runs\""
part nanogpt 50 "$python" benchmarks/peers/gpu_loop.py --seconds 20

echo
cat "$out/summary.txt"
exit $failed
