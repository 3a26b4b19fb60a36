// Elements, pictures of frames, colours.
//
// Explorer.element     an element with attributes and children
// Explorer.picture     a canvas that shows frames
// Explorer.filmstrip   a row of small decoded frames that can be clicked
// Explorer.colours     the theme's colours, and colour maps
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents } = Explorer;
  const { image, models } = contents;
  const { channels } = image;

  Explorer.byId = (id) => document.getElementById(id);

  // Children that are strings become text, never HTML: names come from files.
  Explorer.element = function (tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") made.addEventListener(name, value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  Explorer.number = (value, digits = 2) => value.toFixed(digits).replace("-", "\u2212");
  Explorer.signed = function (value, digits = 2) {
    const text = Explorer.number(value, digits);
    if (Number(value.toFixed(digits)) === 0) return Explorer.number(0, digits);
    return value < 0 ? text : `+${text}`;
  };

  // A number with three significant digits.
  Explorer.short = function (value) {
    const size = Math.abs(value);
    if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace(/-/g, "\u2212");
    return Explorer.number(value, size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  };

  // Colours a slider's track from `origin` to its thumb; both are shares of its length.
  Explorer.fillTrack = function (input, share, origin = 0) {
    const end = Math.max(0, Math.min(1, share));
    input.style.setProperty("--from", Math.min(origin, end));
    input.style.setProperty("--to", Math.max(origin, end));
    input.classList.toggle("is-signed", origin > 0);
    input.classList.toggle("is-negative", end < origin);
  };

  // A canvas that shows frames. Its ImageData is made once, so playing allocates nothing.
  Explorer.picture = function (canvas) {
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d");
    const drawn = context.createImageData(image.width, image.height);
    const out = drawn.data.fill(255);
    const green = channels === 3 ? 1 : 0;
    const blue = channels === 3 ? 2 : 0;

    // The frame that begins at `start` in `pixels`.
    function show(pixels, start = 0) {
      for (let to = 0, from = start; to < out.length; to += 4, from += channels) {
        out[to] = pixels[from];
        out[to + 1] = pixels[from + green];
        out[to + 2] = pixels[from + blue];
      }
      context.putImageData(drawn, 0, 0);
    }

    // How far two frames are apart, times `Explorer.DIFFERENCE_GAIN`.
    function difference(pixels, start, others, otherStart) {
      const gain = Explorer.DIFFERENCE_GAIN;
      for (let to = 0, a = start, b = otherStart; to < out.length; to += 4, a += channels, b += channels) {
        out[to] = gain * Math.abs(pixels[a] - others[b]);
        out[to + 1] = gain * Math.abs(pixels[a + green] - others[b + green]);
        out[to + 2] = gain * Math.abs(pixels[a + blue] - others[b + blue]);
      }
      context.putImageData(drawn, 0, 0);
    }

    return { canvas, show, difference };
  };

  Explorer.DIFFERENCE_GAIN = contents.digits ? 1 : 3; // the strokes of digits are strong enough
  Explorer.differenceName = Explorer.DIFFERENCE_GAIN === 1 ? "Difference" : `Difference, ${Explorer.DIFFERENCE_GAIN}\u00d7`;
  Explorer.frameSize = image.height * image.width * channels;

  // A row of small decoded frames. `render(fill)` asks `fill(i, z)` for the z of each; `pick(i, z)` is called on a click.
  Explorer.filmstrip = function (name, titles, pick) {
    const z = titles.map(() => new Float32Array(models[0].z_dim));
    const pictures = [];
    const element = Explorer.element("div", { class: "filmstrip" });
    titles.forEach((title, i) => {
      const canvas = Explorer.element("canvas", { "aria-hidden": "true" });
      const text = Explorer.element("span", {}, title);
      element.append(Explorer.element("button", { type: "button", click: () => pick(i, z[i]) }, canvas, text));
      pictures.push(Explorer.picture(canvas));
    });

    function render(fill) {
      pictures.forEach((picture, i) => {
        fill(i, z[i]);
        Explorer.decode(`${name}-${i}`, Explorer.URGENCY.strip, z[i], (pixels) => picture.show(pixels));
      });
    }

    return { element, render };
  };

  // A canvas with one pixel per pixel of the screen; draw in CSS pixels.
  Explorer.sharp = function (canvas) {
    const { clientWidth, clientHeight } = canvas;
    const scale = scope.devicePixelRatio || 1;
    const width = Math.round(clientWidth * scale);
    const height = Math.round(clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, clientWidth, clientHeight);
    return { context, width: clientWidth, height: clientHeight };
  };

  // Colour maps of 256 colours, as bytes red, green, blue.
  function colourMap(stops) {
    const table = new Uint8Array(256 * 3);
    for (let i = 0; i < 256; i += 1) {
      const at = (i / 255) * (stops.length - 1);
      const first = Math.min(Math.floor(at), stops.length - 2);
      for (let c = 0; c < 3; c += 1) {
        table[3 * i + c] = stops[first][c] + (stops[first + 1][c] - stops[first][c]) * (at - first);
      }
    }
    return table;
  }

  const fromHex = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const listeners = [];
  const colours = (Explorer.colours = {});

  const SEQUENTIAL = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
  const CLASSES = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#ff9da7", "#76b7b2", "#edc948", "#8c8c8c",
  ];
  colours.sequential = colourMap(SEQUENTIAL.map(fromHex));
  colours.classes = CLASSES;

  // Reads the theme's colours from the style sheet. Drawings that use them are made again.
  Explorer.readTheme = function () {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ink", "muted", "line", "paper", "panel", "negative", "positive", "accent", "neutral"]) {
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    colours.diverging = colourMap([colours.negative, colours.neutral, colours.positive].map(fromHex));
    for (const listener of listeners) listener();
  };

  Explorer.onTheme = (listener) => listeners.push(listener);
  Explorer.cssColour = (table, i) => `rgb(${table[3 * i]} ${table[3 * i + 1]} ${table[3 * i + 2]})`;

  // Calls `draw` when the canvas has got another size, also when its panel is shown for the first time.
  Explorer.onResize = function (canvas, draw) {
    new ResizeObserver(() => canvas.clientWidth && draw()).observe(canvas);
    Explorer.onTheme(() => canvas.clientWidth && draw());
  };
})(window);
