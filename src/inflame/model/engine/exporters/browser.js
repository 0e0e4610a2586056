// Classifies pictures in the browser. What happens to a picture here is what happens to it in inflame's Predictor:
// upright, transparent parts white, the centre square made `resize` pixels wide by Pillow's own resampling, the middle
// `size` pixels of it; normalisation and softmax are inside model.onnx.
import * as ort from "./ort.wasm.bundle.min.mjs";

const SHOWN = 5;
const LARGEST = 24e6; // pixels that are resampled exactly; a larger picture is halved by the browser first

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = { // Pillow's: how far each reaches, and its weight at a distance
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const a = -0.5, d = Math.abs(x);
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** For each of `out` places: the first pixel that counts, and the weights of those from there on. */
function weights(name, length, from, to, out) {
  const scale = (to - from) / out;
  if (name === "nearest") {
    return Array.from({ length: out }, (_, i) => [Math.min(length - 1, Math.floor(from + (i + 0.5) * scale)), [1]]);
  }
  const [reach, weight] = FILTERS[name];
  const wide = Math.max(scale, 1);
  return Array.from({ length: out }, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach * wide + 0.5));
    const last = Math.min(length, Math.trunc(centre + reach * wide + 0.5));
    const row = [];
    for (let x = first; x < last; x++) row.push(weight((x - centre + 0.5) / wide));
    const total = row.reduce((a, b) => a + b, 0);
    return [first, row.map((value) => value / total)];
  });
}

/** RGBA pixels as bytes with one (grey) or three colours. */
function coloured(rgba, channels) {
  const count = rgba.length / 4, found = new Uint8ClampedArray(count * channels);
  for (let i = 0; i < count; i++) {
    const r = rgba[4 * i], g = rgba[4 * i + 1], b = rgba[4 * i + 2];
    if (channels === 1) found[i] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else found.set([r, g, b], 3 * i);
  }
  return found;
}

/** The centre square of a picture, `out` pixels wide: rows first, then columns, rounded after each as Pillow does. */
function square(pixels, width, height, channels, out, name) {
  if (width === out && height === out) return pixels;
  const side = Math.min(width, height), left = (width - side) / 2, top = (height - side) / 2;
  const across = weights(name, width, left, left + side, out), down = weights(name, height, top, top + side, out);
  const middle = new Uint8ClampedArray(height * out * channels), found = new Uint8ClampedArray(out * out * channels);
  const begin = down[0][0], end = down[out - 1][0] + down[out - 1][1].length;
  for (let y = begin; y < end; y++)
    for (let x = 0; x < out; x++)
      for (let c = 0; c < channels; c++) {
        const [first, row] = across[x];
        let sum = 0.5;
        for (let k = 0; k < row.length; k++) sum += row[k] * pixels[(y * width + first + k) * channels + c];
        middle[(y * out + x) * channels + c] = Math.floor(sum);
      }
  for (let y = 0; y < out; y++) {
    const [first, row] = down[y];
    for (let i = 0; i < out * channels; i++) {
      let sum = 0.5;
      for (let k = 0; k < row.length; k++) sum += row[k] * middle[(first + k) * out * channels + i];
      found[y * out * channels + i] = Math.floor(sum);
    }
  }
  return found;
}

/** A file as the net takes it: bytes [size, size, channels]. */
async function prepared(file, plan) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const shrink = Math.min(1, Math.sqrt(LARGEST / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.round(bitmap.width * shrink)), height = Math.max(1, Math.round(bitmap.height * shrink));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const pixels = coloured(context.getImageData(0, 0, width, height).data, plan.channels);
  const whole = square(pixels, width, height, plan.channels, plan.resize, plan.interpolation);
  const from = Math.floor((plan.resize - plan.size) / 2), line = plan.size * plan.channels;
  const found = new Uint8Array(plan.size * line);
  for (let y = 0; y < plan.size; y++) {
    const start = ((from + y) * plan.resize + from) * plan.channels;
    found.set(whole.subarray(start, start + line), y * line);
  }
  return found;
}

const element = (name, text = "", style = "") => {
  const made = document.createElement(name);
  made.textContent = text;
  if (style) made.className = style;
  return made;
};
const told = document.getElementById("told"), drop = document.getElementById("drop"), input = drop.querySelector("input");
const json = async (name) => {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.json();
};

function show(file, probabilities, classes, threshold) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const best = order[0], sure = probabilities[best] >= threshold;
  const card = element("article"), picture = element("img"), side = element("div"), list = element("dl");
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name;
  for (const i of order.slice(0, SHOWN)) {
    const bar = element("dd", "", "bar"), fill = element("i");
    fill.style.width = `${100 * probabilities[i]}%`;
    bar.append(fill);
    list.append(element("dt", classes[i]), bar, element("dd", `${(100 * probabilities[i]).toFixed(1)} %`, "number"));
  }
  side.append(element("h2", sure ? classes[best] : `Not sure: ${classes[best]}?`), list, element("p", file.name, "quiet"));
  card.dataset.label = classes[best];
  card.dataset.probabilities = JSON.stringify([...probabilities]);
  card.append(picture, side);
  document.getElementById("answers").prepend(card);
}

function fail(file, error) {
  const card = element("article");
  card.append(element("p", file.name, "quiet"), element("p", `This can't be read as a picture (${error.message || error}).`, "wrong"));
  document.getElementById("answers").prepend(card);
}

async function start() {
  const [about, classes, plan] = await Promise.all(["about.json", "classes.json", "preprocess.json"].map(json));
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  let queue = Promise.resolve();
  const ask = async (file) => {
    try {
      const bytes = await prepared(file, plan);
      const inputs = { pictures: new ort.Tensor("uint8", bytes, [1, plan.size, plan.size, plan.channels]) };
      const began = performance.now();
      const { probabilities } = await session.run(inputs);
      told.textContent = `One of ${classes.length} classes. The last answer took ${Math.round(performance.now() - began)} ms.`;
      show(file, Array.from(probabilities.data), classes, about.threshold);
    } catch (error) {
      fail(file, error);
    }
  };
  const take = (files) => { for (const file of files) queue = queue.then(() => ask(file)); };
  document.title = document.getElementById("title").textContent = `${about.title}: what is on the picture?`;
  told.textContent = `One of ${classes.length} classes: ${classes.slice(0, 12).join(", ")}${classes.length > 12 ? " …" : ""}`;
  input.disabled = false;
  input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => take([...event.clipboardData.files]));
}

start().catch((error) => {
  told.className = "wrong";
  told.textContent = `The model can't be loaded: ${error.message || error}`;
});
