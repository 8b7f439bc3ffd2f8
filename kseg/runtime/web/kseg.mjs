/**
 * Runs files that kseg exported in a web page, as kseg.runtime does in Python, number for number:
 *
 *   import * as engine from "onnxruntime-web/wasm"; // for .tflite files: "@litertjs/core"
 *   import { load, pixels } from "./kseg.mjs";
 *
 *   const predictor = await load("unet.onnx", engine); // its card unet.onnx.json lies beside it
 *   const classes = await predictor.indices(await pixels(file));
 */

const OPENERS = { ".tflite": openTflite, ".onnx": openOnnx };
// The area beyond which kseg.runtime cuts an image of any size into windows, which is not done here.
const LARGEST_PX = 2 ** 21;
const LITERT_WASM = "node_modules/@litertjs/core/wasm/";

/**
 * The predictor of an exported file.
 *
 * @param {string} url of the file, .tflite or .onnx; its card has the same with ".json" behind the name.
 * @param {object} engine the module that runs it: @litertjs/core, or onnxruntime-web/wasm.
 * @param {string} wasm url of the folder with the engine's .wasm files. If left out: for LiteRT.js where npm puts them
 *   beside the page, for ONNX Runtime where the engine looks by itself.
 * @returns {Promise<Predictor>}
 * @throws {Error} the file or its card is missing, damaged, or of a kind that the engine cannot run.
 */
export async function load(url, engine, wasm = undefined) {
  const file = new URL(url, document.baseURI);
  const suffix = file.pathname.slice(file.pathname.lastIndexOf("."));
  if (!(suffix in OPENERS)) throw new Error(`${url}: must end in .tflite or .onnx`);
  const described = new URL(file);
  described.pathname += ".json";
  const card = await (await fetched(described)).json();
  if (card.labels.names.length === 1) throw new Error(`${url}: gives one score a pixel, which tells no classes`);
  const content = new Uint8Array(await (await fetched(file)).arrayBuffer());
  await checkContent(url, content, card.sha256);
  const folder = wasm && new URL(wasm.replace(/\/?$/, "/"), document.baseURI).href;
  return new Predictor(card, await OPENERS[suffix](content, card, engine, folder));
}

/** An exported network: `card` as in kseg.runtime.Card, `labels` with `names` and `colours`, `sizePx` or null. */
class Predictor {
  constructor(card, { run, close }) {
    this.card = card;
    this.labels = card.labels;
    this.sizePx = card.input.shape[1] === null ? null : card.input.shape.slice(1, 3);
    this.run = run;
    this.close = close; // frees the engine's memory; the predictor cannot be used afterwards
  }

  /**
   * The class of every pixel.
   *
   * @param {ImageData} image of any size, as `pixels` gives it; for a file of any size of at most two megapixels.
   * @returns {Promise<Int32Array>} [height * width]: row by row from the top left.
   * @throws {Error} the image is too large, or the file does not give what its card says.
   */
  async indices(image) {
    const target = [image.height, image.width];
    const size = this.sizePx ?? target;
    if (!this.sizePx && size[0] * size[1] > LARGEST_PX) {
      throw new Error(`${image.width} × ${image.height} pixels are too many at once: shrink the picture`);
    }
    const found = await this.run(resize(rgb(image), target, 3, size), size);
    const classes = this.labels.names.length;
    const labels = this.card.output.kind === "labels";
    if (found.length !== size[0] * size[1] * (labels ? 1 : classes)) {
      throw new Error(`${this.card.file}: gives ${found.length} numbers for an image of ${size.join(" × ")}`);
    }
    if (!labels) return resizedArgmax(found, size, classes, target);
    const result = resizeNearest(found, size, target);
    if (result.some((index) => index < 0 || index >= classes)) {
      throw new Error(`${this.card.file}: gives classes that its card has no labels for`);
    }
    return result;
  }
}

/**
 * The pixels of a picture as kseg reads images everywhere: upright, on white where it is transparent, and without regard
 * to its colour profile.
 *
 * @param {Blob} file such as a File of an <input>.
 * @returns {Promise<ImageData>}
 * @throws {DOMException|Error} no picture that the browser can read, or one too large for it.
 */
export async function pixels(file) {
  const picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  // Browsers draw nothing on canvases beyond a size of their own, and say nothing.
  if (image.data[3] !== 255) throw new Error(`${picture.width} × ${picture.height} pixels are too many for this browser`);
  picture.close();
  return image;
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
    return Number(classes[nearest(y, 0) * source[1] + nearest(x, 1)]); // of int64 labels, a BigInt
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

async function openTflite(content, card, litert, wasm) {
  const folder = wasm ?? new URL(LITERT_WASM, document.baseURI).href;
  try {
    await (litert.getGlobalLiteRtPromise() ?? litert.loadLiteRt(folder)); // once a page
  } catch (error) {
    throw new Error(`LiteRT.js cannot be loaded from ${folder} (${error?.message ?? "not found"})`);
  }
  const model = await litert.loadAndCompile(content, { accelerator: "wasm" });
  const run = async (image, [height, width]) => {
    const input = new litert.Tensor(stored(image, card.input.dtype), [1, height, width, 3]);
    let outputs = [];
    try {
      outputs = await model.run([input]);
      return outputs[0].toTypedArray(); // a copy
    } finally {
      for (const tensor of [input, ...outputs]) tensor.delete();
    }
  };
  return { run, close: async () => model.delete() };
}

async function openOnnx(content, card, ort, wasm) {
  if (wasm) ort.env.wasm.wasmPaths = wasm;
  const session = await ort.InferenceSession.create(content);
  const { dtype } = card.input;
  const run = async (image, [height, width]) => {
    const input = new ort.Tensor(dtype, stored(image, dtype), [1, height, width, 3]);
    const results = await session.run({ [session.inputNames[0]]: input });
    return results[session.outputNames[0]].data;
  };
  return { run, close: () => session.release() };
}

/** The answer of the server, asked anew: a file that was exported again has the same name. Throws what went wrong. */
export async function fetched(url) {
  const answer = await fetch(url, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer;
}

async function checkContent(url, content, expected) {
  if (!globalThis.crypto?.subtle) return; // there only in pages from https or from this machine
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== expected) throw new Error(`${url}: is not the file that its card describes; copy both again`);
}
