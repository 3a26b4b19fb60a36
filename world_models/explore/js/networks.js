// The model's networks: convolutions, transposed convolutions and linear layers on float32 numbers.
//
// An image is a Float32Array, height x width x channel. Every layer is a product of two matrices: a row of the first one
// holds the pixels under the kernel, a column of the second one the kernel's weights for an output channel. The pixels
// under one row of the kernel lie side by side in the image, so the first matrix is never written out. A transposed
// convolution of stride 2 is four such products, one for each of the even and odd rows and columns of its output.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});

  const BLOCK = 4; // output channels that are computed together

  // Weights (taps x inputs, outputs), sorted for `product`: blocks of four output channels, each with its taps and
  // inputs in order. Channels that are missing in the last block are zeros.
  function inBlocks(numTaps, inputs, outputs, weight) {
    const blocks = Math.ceil(outputs / BLOCK);
    const sorted = new Float32Array(blocks * numTaps * inputs * BLOCK);
    let at = 0;
    for (let block = 0; block < blocks; block += 1) {
      for (let tap = 0; tap < numTaps; tap += 1) {
        for (let input = 0; input < inputs; input += 1) {
          for (let output = block * BLOCK; output < (block + 1) * BLOCK; output += 1) {
            sorted[at] = output < outputs ? weight(tap, input, output) : 0;
            at += 1;
          }
        }
      }
    }
    return sorted;
  }

  // One row of output pixels. Under pixel p and kernel row r, the image's numbers begin at
  // `start + p * pixelStep + r * rowStep` and are `length` many. `part` says where the results go.
  function product(image, start, pixelStep, rowStep, rows, length, pixels, part, bias, relu, out) {
    const { weights, outputs } = part;
    const depth = rows * length;
    const blocks = Math.ceil(outputs / BLOCK);
    for (let block = 0; block < blocks; block += 1) {
      const first = block * BLOCK;
      const count = Math.min(BLOCK, outputs - first);
      const b0 = bias[first];
      const b1 = count > 1 ? bias[first + 1] : 0;
      const b2 = count > 2 ? bias[first + 2] : 0;
      const b3 = count > 3 ? bias[first + 3] : 0;
      let pixel = 0;
      for (; pixel + 1 < pixels; pixel += 2) {
        let s0 = b0, s1 = b1, s2 = b2, s3 = b3, t0 = b0, t1 = b1, t2 = b2, t3 = b3;
        let at = block * depth * BLOCK;
        for (let row = 0; row < rows; row += 1) {
          let left = start + pixel * pixelStep + row * rowStep;
          const end = left + length;
          for (let right = left + pixelStep; left < end; left += 1, right += 1, at += BLOCK) {
            const x = image[left], y = image[right];
            const w0 = weights[at], w1 = weights[at + 1], w2 = weights[at + 2], w3 = weights[at + 3];
            s0 += x * w0; s1 += x * w1; s2 += x * w2; s3 += x * w3;
            t0 += y * w0; t1 += y * w1; t2 += y * w2; t3 += y * w3;
          }
        }
        const to = part.at + pixel * part.step + first;
        store(out, to, count, s0, s1, s2, s3, relu);
        store(out, to + part.step, count, t0, t1, t2, t3, relu);
      }
      if (pixel < pixels) {
        let s0 = b0, s1 = b1, s2 = b2, s3 = b3;
        let at = block * depth * BLOCK;
        for (let row = 0; row < rows; row += 1) {
          let left = start + pixel * pixelStep + row * rowStep;
          for (const end = left + length; left < end; left += 1, at += BLOCK) {
            const x = image[left];
            s0 += x * weights[at]; s1 += x * weights[at + 1]; s2 += x * weights[at + 2]; s3 += x * weights[at + 3];
          }
        }
        store(out, part.at + pixel * part.step + first, count, s0, s1, s2, s3, relu);
      }
    }
  }

  function store(out, to, count, s0, s1, s2, s3, relu) {
    out[to] = relu && s0 < 0 ? 0 : s0;
    if (count > 1) out[to + 1] = relu && s1 < 0 ? 0 : s1;
    if (count > 2) out[to + 2] = relu && s2 < 0 ? 0 : s2;
    if (count > 3) out[to + 3] = relu && s3 < 0 ? 0 : s3;
  }

  // An image with a border of zeros, and a function that fills its middle.
  function bordered([height, width, channels], border) {
    const wide = width + 2 * border;
    const data = new Float32Array((height + 2 * border) * wide * channels);
    function fill(image) {
      for (let row = 0; row < height; row += 1) {
        const line = image.subarray(row * width * channels, (row + 1) * width * channels);
        data.set(line, ((row + border) * wide + border) * channels);
      }
    }
    return { data, wide, fill };
  }

  // A convolution.
  function conv({ input, output, side, stride, padding, relu }, kernel, bias) {
    const [, , inputs] = input;
    const [height, width, outputs] = output;
    const padded = bordered(input, padding);
    const weight = (tap, from, to) => kernel[(tap * inputs + from) * outputs + to];
    const part = { weights: inBlocks(side * side, inputs, outputs, weight), outputs, at: 0, step: outputs };
    const out = new Float32Array(height * width * outputs);
    const rowStep = padded.wide * inputs;
    return function run(image) {
      padded.fill(image);
      for (let row = 0; row < height; row += 1) {
        part.at = row * width * outputs;
        const start = row * stride * rowStep;
        product(padded.data, start, stride * inputs, rowStep, side, side * inputs, width, part, bias, relu, out);
      }
      return out;
    };
  }

  // A transposed convolution. Output row o gets kernel row k of input row i where o + padding = i * stride + k. So the
  // output rows with the same (o + padding) % stride, a phase, use the same kernel rows, and the same for columns.
  function deconv({ input, output, side, stride, padding, relu }, kernel, bias) {
    const [, , inputs] = input;
    const [height, width, outputs] = output;
    const border = Math.ceil(side / stride) - 1;
    const padded = bordered(input, border);
    const out = new Float32Array(height * width * outputs);
    const rowStep = padded.wide * inputs;
    const phases = [];
    for (let vertical = 0; vertical < stride; vertical += 1) {
      for (let horizontal = 0; horizontal < stride; horizontal += 1) {
        const tall = Math.ceil((side - vertical) / stride);
        const broad = Math.ceil((side - horizontal) / stride);
        const weight = (tap, from, to) => {
          const row = vertical + stride * (tall - 1 - Math.floor(tap / broad)); // the highest kernel row meets the
          const column = horizontal + stride * (broad - 1 - (tap % broad)); // input row that comes first
          return kernel[((row * side + column) * inputs + from) * outputs + to];
        };
        const weights = inBlocks(tall * broad, inputs, outputs, weight);
        phases.push({ tall, broad, rows: lines(vertical, height), columns: lines(horizontal, width), weights });
      }
    }

    // The output lines of a phase: the first one, their number, and the last input line that the first one meets.
    function lines(phase, size) {
      const first = (((phase - padding) % stride) + stride) % stride;
      return { first, count: Math.ceil((size - first) / stride), meets: Math.floor((first + padding) / stride) };
    }

    return function run(image) {
      padded.fill(image);
      for (const { tall, broad, rows, columns, weights } of phases) {
        const part = { weights, outputs, at: 0, step: stride * outputs };
        for (let row = 0; row < rows.count; row += 1) {
          const top = rows.meets + row - (tall - 1) + border;
          const left = columns.meets - (broad - 1) + border;
          part.at = ((rows.first + row * stride) * width + columns.first) * outputs;
          const start = top * rowStep + left * inputs;
          product(padded.data, start, inputs, rowStep, tall, broad * inputs, columns.count, part, bias, relu, out);
        }
      }
      return out;
    };
  }

  // A function that computes a network, from its layers in the page's contents and the array of all weights.
  function network(layers, weights) {
    const runs = layers.map((layer) => {
      const [, , inputs] = layer.input;
      const outputs = layer.output[2];
      const kernel = scaled(weights, layer.kernel, layer.side * layer.side * inputs * outputs);
      const bias = scaled(weights, layer.bias, outputs);
      return layer.kind === "conv" ? conv(layer, kernel, bias) : deconv(layer, kernel, bias);
    });
    return (image) => runs.reduce((values, run) => run(values), image);
  }

  function scaled(weights, { start, scale }, count) {
    return weights.slice(start, start + count).map((value) => value * scale);
  }

  // A model: `decode` from z to grey levels, and `encode` from grey levels to mu and logvar.
  Explorer.makeModel = function ({ layers, z_dim, num_classes, posterior }, weights) {
    const encoder = network(layers.encoder, weights);
    const decoder = network(layers.decoder, weights);

    function withClass(values, label) {
      const all = new Float32Array(values.length + num_classes);
      all.set(values);
      if (num_classes) all[values.length + label] = 1;
      return all;
    }

    return {
      decode(z, label) {
        const logits = decoder(withClass(z, label));
        const pixels = new Uint8ClampedArray(logits.length);
        for (let i = 0; i < logits.length; i += 1) pixels[i] = 255 / (1 + Math.exp(-logits[i])); // it rounds
        return pixels;
      },
      encode(pixels, label) {
        const image = Float32Array.from(pixels, (value) => value / 255);
        const heads = encoder(withClass(image, label));
        const logvar = posterior === "point" ? new Float32Array(z_dim).fill(-Infinity) : heads.slice(z_dim, 2 * z_dim);
        return { mu: heads.slice(0, z_dim), logvar };
      },
    };
  };
})(self);
