/**
 * Runs files that kseg exported in a web page, as kseg.runtime does in Python, number for number:
 *
 *   import { load, pixels } from "./kseg.mjs";
 *   const predictor = await load("unet_labels.tflite"); // its card unet_labels.tflite.json lies beside it
 *   const classes = await predictor.indices(pixels(await createImageBitmap(file)));
 *
 * .tflite files need the package @litertjs/core, .onnx files onnxruntime-web; a bundler or an import map finds them.
 */

const OPENERS = { ".tflite": openTflite, ".onnx": openOnnx };

/**
 * The predictor of an exported file.
 *
 * @param {string} url of the file, .tflite or .onnx, relative to the page; its card is `url + ".json"`.
 * @param {string} wasm url of the folder with the engine's .wasm files; where they lie in the package if left out.
 * @returns {Promise<Predictor>}
 * @throws {Error} the file or its card is missing, damaged, or of a kind that the engine cannot run.
 */
export async function load(url, wasm = undefined) {
  const suffix = url.slice(url.lastIndexOf("."));
  if (!(suffix in OPENERS)) throw new Error(`${url}: must end in .tflite or .onnx`);
  const card = await (await fetched(`${url}.json`)).json();
  const content = new Uint8Array(await (await fetched(url)).arrayBuffer());
  await checkContent(url, content, card.sha256);
  return new Predictor(card, await OPENERS[suffix](content, card, wasm));
}

/** An exported network: `card` as in kseg.runtime.Card, `labels` with `names` and `colours`, `sizePx` or null. */
class Predictor {
  constructor(card, run) {
    this.card = card;
    this.labels = card.labels;
    this.sizePx = card.input.shape[1] === null ? null : card.input.shape.slice(1, 3);
    this.run = run;
  }

  /**
   * The class of every pixel.
   *
   * @param {ImageData} image of any size; what is transparent is taken as it is, see `pixels`.
   * @returns {Promise<Int32Array>} [height * width]: row by row from the top left.
   * @throws {Error} scores that are not finite.
   */
  async indices(image) {
    const target = [image.height, image.width];
    const size = this.sizePx ?? target;
    const found = await this.run(resize(rgb(image), target, 3, size), size);
    if (this.card.output.kind === "labels") return resizeNearest(found, size, target);
    return resizedArgmax(found, size, this.labels.names.length, target);
  }
}

/**
 * The pixels of a picture, on white where it is transparent, as kseg reads images everywhere.
 *
 * @param {ImageBitmap|HTMLImageElement|HTMLVideoElement} picture
 * @returns {ImageData}
 */
export function pixels(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.videoWidth || picture.naturalWidth || picture.width;
  canvas.height = picture.videoHeight || picture.naturalHeight || picture.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/**
 * An image with each pixel mixed with the colour of its class; black classes, which are backgrounds, stay as they are.
 *
 * @param {ImageData} image
 * @param {Int32Array} classes of its pixels.
 * @param {number[][]} colours [red, green, blue] of each class.
 * @param {number} opacity of the colours, 0..1.
 * @returns {ImageData}
 */
export function overlay(image, classes, colours, opacity) {
  const result = new ImageData(new Uint8ClampedArray(image.data), image.width, image.height);
  const seen = colours.map((colour) => colour.some(Boolean));
  for (let i = 0; i < classes.length; i++) {
    if (!seen[classes[i]]) continue;
    const colour = colours[classes[i]];
    for (let c = 0; c < 3; c++) result.data[4 * i + c] += opacity * (colour[c] - image.data[4 * i + c]);
  }
  return result;
}

/**
 * Resize bilinearly with half-pixel centres, without antialiasing, in float32: kseg.runtime.resize.
 *
 * @param {TypedArray} values [h * w * channels]
 * @param {number[]} source [h, w]
 * @param {number} channels
 * @param {number[]} target [height, width]
 * @returns {Float32Array} [height * width * channels]
 */
export function resize(values, source, channels, target) {
  if (source[0] === target[0] && source[1] === target[1]) return Float32Array.from(values);
  const result = new Float32Array(target[0] * target[1] * channels);
  eachRow(values, source, channels, target, (row, y) => result.set(row, y * target[1] * channels));
  return result;
}

/** The class with the highest of the resized scores, the first of equals: Int32Array [height * width]. */
export function resizedArgmax(scores, source, classes, target) {
  const result = new Int32Array(target[0] * target[1]);
  eachRow(scores, source, classes, target, (row, y) => {
    for (let x = 0; x < target[1]; x++) {
      let best = 0;
      let bad = false;
      for (let c = 0; c < classes; c++) {
        const score = row[x * classes + c];
        bad ||= !Number.isFinite(score);
        if (score > row[x * classes + best]) best = c;
      }
      if (bad) throw new Error("The network's scores are not finite numbers");
      result[y * target[1] + x] = best;
    }
  });
  return result;
}

/** Resize indices by the nearest neighbour with half-pixel centres: Int32Array [height * width]. */
export function resizeNearest(classes, source, target) {
  // floor((i + 0.5) * source / target), in whole numbers: a rounded half would choose another pixel.
  const nearest = (i, side) => Math.floor(((2 * i + 1) * source[side]) / (2 * target[side]));
  return Int32Array.from({ length: target[0] * target[1] }, (_, i) => {
    const [y, x] = [Math.floor(i / target[1]), i % target[1]];
    return classes[nearest(y, 0) * source[1] + nearest(x, 1)];
  });
}

/** Call `use(row, y)` with each row [width * channels] of the resized values; the array is used again for the next. */
function eachRow(values, [h, w], channels, [height, width], use) {
  const down = taps(h, height);
  const across = taps(w, width);
  const between = new Float32Array(w * channels);
  const row = new Float32Array(width * channels);
  const length = w * channels;
  for (let y = 0; y < height; y++) {
    const [upper, lower] = [down.first[y] * length, down.second[y] * length];
    for (let i = 0; i < length; i++) between[i] = mix(values[upper + i], values[lower + i], down.weight[y]);
    for (let x = 0; x < width; x++) {
      const [left, right] = [across.first[x] * channels, across.second[x] * channels];
      for (let c = 0; c < channels; c++) {
        row[x * channels + c] = mix(between[left + c], between[right + c], across.weight[x]);
      }
    }
    use(row, y);
  }
}

/** first + (second - first) * weight, each step rounded to float32 as NumPy does. */
function mix(first, second, weight) {
  return Math.fround(Math.fround(Math.fround(second - first) * weight) + first);
}

/** For each target position: the two source positions that it lies between, and the weight of the second. */
function taps(source, target) {
  const taps = { first: new Int32Array(target), second: new Int32Array(target), weight: new Float32Array(target) };
  const inside = (i) => Math.min(Math.max(i, 0), source - 1);
  for (let i = 0; i < target; i++) {
    const position = (i + 0.5) * (source / target) - 0.5;
    const first = Math.floor(position);
    taps.weight[i] = position - first;
    taps.first[i] = inside(first);
    taps.second[i] = inside(first + 1);
  }
  return taps;
}

function rgb(image) {
  const result = new Uint8Array((image.data.length / 4) * 3);
  for (let i = 0, j = 0; j < result.length; i += 4, j += 3) {
    for (let c = 0; c < 3; c++) result[j + c] = image.data[i + c];
  }
  return result;
}

/** Real pixels -> what the file takes; halves go to even numbers, as in NumPy. */
function stored(image, dtype) {
  if (dtype === "float32") return image;
  return Uint8Array.from(image, (value) => {
    const below = Math.floor(value);
    const rest = value - below;
    const whole = rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
    return Math.min(Math.max(whole, 0), 255);
  });
}

let litertLoading; // LiteRT.js is loaded once a page

async function openTflite(content, card, wasm) {
  const litert = await engine("@litertjs/core", () => import("@litertjs/core"));
  litertLoading ??= litert.loadLiteRt(wasm ?? new URL("../wasm/", import.meta.resolve("@litertjs/core")).href);
  await litertLoading;
  const model = await litert.loadAndCompile(content, { accelerator: "wasm" });
  return async (image, [height, width]) => {
    const input = new litert.Tensor(stored(image, card.input.dtype), [1, height, width, 3]);
    const [output] = await model.run([input]);
    const result = output.toTypedArray(); // a copy
    input.delete();
    output.delete();
    return result;
  };
}

async function openOnnx(content, card, wasm) {
  const ort = await engine("onnxruntime-web", () => import("onnxruntime-web"));
  if (wasm) ort.env.wasm.wasmPaths = wasm;
  const session = await ort.InferenceSession.create(content);
  const { dtype } = card.input;
  return async (image, [height, width]) => {
    const input = new ort.Tensor(dtype, stored(image, dtype), [1, height, width, 3]);
    const results = await session.run({ [session.inputNames[0]]: input });
    return results[session.outputNames[0]].data;
  };
}

async function engine(name, imported) {
  try {
    return await imported();
  } catch (error) {
    throw new Error(`${name} cannot be loaded (${error.message}): run "npm install" in the page's folder`);
  }
}

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer;
}

async function checkContent(url, content, expected) {
  if (!globalThis.crypto?.subtle) return; // there only in pages from https or from this machine
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== expected) throw new Error(`${url}: is not the file that its card describes; copy both again`);
}
