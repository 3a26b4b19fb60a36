// Reads the page's contents and arrays, and computes with the models in a worker.
//
// Explorer.contents   what the page shows
// Explorer.array      an array of the page, by its name
// Explorer.frame      a frame of an episode
// window.explorer     decode and encode, also for tests and notebooks
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const textOf = (id) => document.getElementById(id).textContent;

  Explorer.contents = JSON.parse(textOf("explorer-contents"));
  const { blobs, models, episodes, image } = Explorer.contents;
  const frameSize = image.height * image.width * image.channels;

  // Bytes from base64 text that was compressed with gzip.
  async function unpacked(text) {
    if (typeof DecompressionStream === "undefined") {
      throw new Error("This browser is too old to unpack the page's data. Use a version of 2023 or later.");
    }
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // Numbers from bytes that were sorted: first the lowest byte of each number, then the next one, and so on.
  function joined(bytes, width) {
    const count = bytes.length / width;
    const sorted = new Uint8Array(bytes.length);
    for (let plane = 0; plane < width; plane += 1) {
      for (let i = 0; i < count; i += 1) sorted[i * width + plane] = bytes[plane * count + i];
    }
    return sorted.buffer;
  }

  // Float16 as float32. A float32 has three more exponent bits and 13 more digits; the factor corrects the exponent.
  function fromFloat16(halves) {
    const bits = new Uint32Array(halves.length);
    for (let i = 0; i < halves.length; i += 1) bits[i] = ((halves[i] & 0x8000) << 16) | ((halves[i] & 0x7fff) << 13);
    const numbers = new Float32Array(bits.buffer);
    for (let i = 0; i < numbers.length; i += 1) numbers[i] *= 2 ** 112;
    return numbers;
  }

  const READERS = {
    uint8: (bytes) => bytes,
    float32: (bytes) => new Float32Array(joined(bytes, 4)),
    float16: (bytes) => fromFloat16(new Uint16Array(joined(bytes, 2))),
  };

  const arrays = new Map();

  // The numbers of an array, in a Float32Array, or in a Uint8Array if they are bytes. Its shape is in `contents.blobs`.
  Explorer.array = function (name) {
    if (!arrays.has(name)) arrays.set(name, unpacked(textOf(`blob-${name}`)).then(READERS[blobs[name].type]));
    return arrays.get(name);
  };

  // Frame `i` of an episode: height x width x channel, 0 to 255. The pixels are a copy.
  Explorer.frame = async function (episode, i) {
    const pixels = await Explorer.array(episodes[episode].frames);
    return new Uint8ClampedArray(pixels.subarray(i * frameSize, (i + 1) * frameSize));
  };

  const waiting = new Map(); // what to do with the answer to each request
  let worker = null;
  let lastId = 0;

  function startWorker() {
    const source = new Blob([textOf("script-networks"), "\n", textOf("script-worker")], { type: "text/javascript" });
    const started = new Worker(URL.createObjectURL(source));
    started.onmessage = ({ data: { id, answer, failure } }) => {
      const { resolve, reject } = waiting.get(id);
      waiting.delete(id);
      if (failure) reject(new Error(failure));
      else resolve(answer);
    };
    started.onerror = (event) => {
      const error = new Error(`The browser does not start the page's worker. ${event.message || ""}`);
      for (const { reject } of waiting.values()) reject(error);
      waiting.clear();
    };
    return started;
  }

  async function ask(request, transferred = []) {
    worker = worker || startWorker();
    lastId += 1;
    const id = lastId;
    return new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject });
      worker.postMessage({ id, ...request }, transferred);
    });
  }

  async function load(model) {
    const { layers, z_dim, num_classes, posterior, blob } = models[model];
    const values = await Explorer.array(blob);
    arrays.delete(blob); // the worker takes it
    await ask({ task: "load", model, values, description: { layers, z_dim, num_classes, posterior } }, [values.buffer]);
  }

  const ready = Promise.all(models.map((_, model) => load(model))).then(() => undefined);

  // The values are copied before the first `await`, so the caller may change them at once.
  async function compute(task, values, length, { model = 0, label = null } = {}) {
    if (!models[model]) throw new RangeError(`there is no model ${model}; give 0 to ${models.length - 1}`);
    const { num_classes } = models[model];
    const wanted = length(models[model]);
    const numbers = Float32Array.from(values);
    if (numbers.length !== wanted) throw new RangeError(`${numbers.length} numbers; ${task} takes ${wanted}`);
    if (!numbers.every(Number.isFinite)) throw new RangeError(`${task} takes finite numbers`);
    if (num_classes && !(Number.isInteger(label) && label >= 0 && label < num_classes)) {
      throw new RangeError(`the model is conditional; give a label of 0 to ${num_classes - 1}`);
    }
    await ready;
    return ask({ task, model, values: numbers, label });
  }

  scope.explorer = {
    ready, // a promise that is kept when every model can be used
    // z in the model's own units to grey levels 0 to 255, height x width x channel.
    decode: (z, options) => compute("decode", z, ({ z_dim }) => z_dim, options),
    // Grey levels 0 to 255, height x width x channel, to {mu, logvar}.
    encode: (frame, options) => compute("encode", frame, () => frameSize, options),
  };
})(window);
