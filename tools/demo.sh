#!/usr/bin/env bash
# The main job from end to end on the nuclei that ship with kseg. Every line it runs is one you can run yourself.
set -euo pipefail
out="${1:-runs/demo}"
tools="$(dirname "$0")"
if [ -e "$out" ]; then
  echo "$out exists already: move it away, or 'source .venv/bin/activate' and run 'bash tools/demo.sh ANOTHER_FOLDER'" >&2
  exit 2
fi
say() { printf '\n$ %s\n' "$*"; "$@"; }
start=$SECONDS

say python "$tools/train.py" nuclei_unet --data nuclei --out "$out"
best="$out/best.keras"
say python "$tools/evaluate.py" "$best" --data nuclei --split val --pictures "$out/pictures"
for precision in float32 int8; do
  say python "$tools/export.py" "$best" --out "$out" --name "unet_$precision" --format tflite \
    --precision "$precision" --size 256 256 --calibrate nuclei --verify nuclei
done
say python "$tools/export.py" "$best" --out "$out" --name unet --format onnx --size 256 256 --verify nuclei
say python "$tools/evaluate.py" "$out/unet_int8.tflite" --data nuclei --split val --json "$out/scores_int8.json"
say python "$tools/report.py" "$out"

cat <<END

Done in $((SECONDS - start)) s. In $out:
  best.keras                 the network; last.keras is the state to resume from
  unet_float32.tflite        for phones and boards, with its card unet_float32.tflite.json
  unet_int8.tflite           the same in 8 bits
  unet.onnx                  for ONNX Runtime
  scores.json                scores on the 20 images it was not trained on; scores_int8.json those of the 8-bit file
  pictures/                  image, truth, prediction and errors side by side; IoU per class; confusion matrix
  report.html                all of the run on one page
Next, with an image of your own:
  $(command -v python) $tools/predict.py $out/unet_int8.tflite YOUR_IMAGE --out runs/pictures
END
