#!/usr/bin/env bash
# Makes the files of exported/ again: trains both networks, exports them, times the files, and writes the table.
# A network that is trained already is taken as it is, so that a change of the converter costs minutes.
set -euo pipefail
out="${1:-runs/exported}"
tools="$(dirname "$0")"
exported="$tools/../exported"
say() { printf '\n$ %s\n' "$*"; "$@"; }
start=$SECONDS

files=()
for recipe in nuclei_unet nuclei_unet_mobilenet; do
  if [ -e "$out/$recipe/scores.json" ]; then # train.py writes it last
    echo "$out/$recipe is trained already; move it away to train again"
  else
    say python "$tools/train.py" "$recipe" --data nuclei --out "$out/$recipe"
  fi
  kinds="int8.tflite float16.tflite"
  [ "$recipe" = nuclei_unet ] && kinds="$kinds int8.onnx float16.onnx" # the other network is the one for phones
  for kind in $kinds; do
    say python "$tools/export.py" "$out/$recipe/best.keras" --out "$out" --name "${recipe}_${kind%.*}" \
      --format "${kind#*.}" --precision "${kind%.*}" --size 256 256 --calibrate nuclei --verify nuclei
    files+=("$out/${recipe}_$kind")
  done
done
say python "$tools/benchmark.py" "${files[@]}" --threads 2 --json "$out/times.json"
# Only now, with all of them checked, do the new files take the place of the old ones.
for file in "${files[@]}"; do
  cp "$file" "$file.json" "$exported"
done
say python "$tools/../tests/benchmarks/exported.py" "$out/times.json" "$exported/README.md" nuclei
echo "Done in $((SECONDS - start)) s: the files, their cards and the table of exported/README.md are new."
