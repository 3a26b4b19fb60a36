// What one can paint with: colours that suit the frame, and a tool that takes the car off the road.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, element } = Explorer;
  const { image, env } = contents;
  const { height, width, channels } = image;

  const ROAD = [102, 102, 102]; // CarRacing's colours, for frames without any
  const GRASS = [102, 204, 102];
  const CAR = { top: 44 / 64, bottom: 61 / 64, left: 26 / 64, right: 38 / 64 }; // CarRacing's car is always here
  const CLOSE = 24; // grey levels between colours that are taken for the same

  const isGrey = ([r, g, b]) => Math.max(r, g, b) - Math.min(r, g, b) < 12 && r > 60 && r < 160;
  const isGreen = ([r, g, b]) => g > r + 40 && g > b + 40;

  // The frame's colours, the most frequent first; colours that are nearly the same count together.
  function frequent(frame) {
    const found = [];
    for (let i = 0; i < frame.length; i += channels) {
      const colour = [...frame.subarray(i, i + channels)];
      const same = found.find((each) => distance(each.colour, colour) < CLOSE);
      if (same) same.count += 1;
      else found.push({ colour, count: 1 });
    }
    return found.sort((a, b) => b.count - a.count).map(({ colour }) => colour);
  }

  const distance = (a, b) => Math.max(...a.map((value, i) => Math.abs(value - b[i])));

  // Names and colours of the brushes for a frame.
  Explorer.brushesFor = function (frame) {
    if (channels === 1) return [["Pen", [255]], ["Eraser", [0]]];
    const colours = frequent(frame);
    if (Explorer.isCarRacing) return [["Road", colours.find(isGrey) || ROAD], ["Grass", colours.find(isGreen) || GRASS]];
    return colours.slice(0, 4).map((colour, i) => [`Colour ${i + 1}`, colour]);
  };

  Explorer.isCarRacing = /CarRacing/.test(env || "");

  const isCar = ([r, g, b]) => r > 1.15 * Math.max(g, b) || Math.max(r, g, b) < 80; // red, or a wheel

  // Paints the car over, each row of its place with the colour of the road next to it, or else with what lies there. The
  // pixels at the car's sides are mixed with its colours, so they are painted over, too.
  Explorer.takeCarOff = function (pixels) {
    const [left, right] = [CAR.left, CAR.right].map((share) => Math.round(share * width));
    const at = (row, column) => (row * width + column) * channels;
    for (let row = Math.round(CAR.top * height); row < CAR.bottom * height; row += 1) {
      const found = [];
      for (let column = left; column < right; column += 1) {
        if (isCar(pixels.subarray(at(row, column), at(row, column) + 3))) found.push(column);
      }
      if (!found.length) continue;
      const [first, last] = [found[0] - 1, found[found.length - 1] + 1];
      const sides = [first - 1, last + 1].map((column) => pixels.slice(at(row, column), at(row, column) + 3));
      const colour = sides.find(isGrey) || sides[0];
      for (let column = first; column <= last; column += 1) pixels.set(colour, at(row, column));
    }
  };

  // Paints a round dot. A pen for digits is soft at its edge, as the digits are.
  Explorer.dot = function (pixels, x, y, radius, colour) {
    const reach = Math.ceil(radius + 1);
    for (let row = Math.max(0, Math.floor(y) - reach); row <= Math.min(height - 1, Math.floor(y) + reach); row += 1) {
      for (let column = Math.max(0, Math.floor(x) - reach); column <= Math.min(width - 1, x + reach); column += 1) {
        const inside = radius + 0.5 - Math.hypot(column + 0.5 - x, row + 0.5 - y);
        const cover = channels === 1 ? Math.max(0, Math.min(1, inside)) : Number(inside >= 0.5);
        for (let c = 0; c < channels; c += 1) {
          const at = (row * width + column) * channels + c;
          pixels[at] += (colour[c] - pixels[at]) * cover;
        }
      }
    }
  };

  // A button that chooses a brush.
  Explorer.brushButton = function (name, colour, choose) {
    const mark = element("i", { class: "swatch" });
    mark.style.background = `rgb(${colour[0]} ${colour[channels === 3 ? 1 : 0]} ${colour[channels === 3 ? 2 : 0]})`;
    return element("button", { type: "button", "aria-pressed": "false", click: choose }, mark, name);
  };
})(window);
