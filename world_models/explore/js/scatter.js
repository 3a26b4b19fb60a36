// The map's points: where each shown frame lies in two dimensions of z, and its colour.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, element } = Explorer;
  const { episodes } = contents;
  const model = contents.models[0];

  const MARGIN = 0.06; // of the width, around the points

  // The two directions of the map. With the principal components: their scores. With two dimensions: standard deviations.
  // `of` gives the two coordinates of a z, `set` changes z so that it has given coordinates and keeps all else.
  Explorer.planes = {
    components() {
      const { mean, components } = contents.map;
      const along = (z, start, { length }, vector) => {
        let sum = 0;
        for (let i = 0; i < length; i += 1) sum += (z[start + i] - mean[i]) * vector[i];
        return sum;
      };
      const of = (z, start = 0) => components.map((vector) => along(z, start, mean, vector));
      const set = (z, x, y) => {
        const [nowX, nowY] = of(z);
        for (let i = 0; i < z.length; i += 1) z[i] += (x - nowX) * components[0][i] + (y - nowY) * components[1][i];
      };
      const [first, second] = contents.map.explained.map((share) => `${Math.round(100 * share)} %`);
      return { of, set, names: [`component 1, ${first} of the variance`, `component 2, ${second} of the variance`] };
    },
    dimensions(a, b) {
      const of = (z, start = 0) => [a, b].map((dim) => Explorer.deviations(dim, z[start + dim]));
      const set = (z, x, y) => {
        z[a] = Explorer.fromDeviations(a, x);
        z[b] = Explorer.fromDeviations(b, y);
      };
      return { of, set, names: [a, b].map((dim) => `z${dim} in standard deviations`) };
    },
  };

  // What the points can be coloured by: numbers on a scale, or classes.
  Explorer.colourings = async function () {
    const found = [];
    const gather = (name, parts) => found.push({ name, values: Float32Array.from(parts.flatMap((part) => [...part])) });
    if (contents.digits) {
      const labels = await Promise.all(episodes.map((each) => Explorer.array(each.labels)));
      found.push({ name: "digit", classes: contents.digits.labels, values: labels.flatMap((part) => [...part]) });
    } else {
      const columns = await Promise.all(episodes.map((_, episode) => Explorer.columns(episode)));
      columns[0].forEach(({ name }, i) => gather(name, columns.map((each) => each[i].values)));
      gather("frame number", episodes.map(({ num_frames }) => Array.from({ length: num_frames }, (_, i) => i)));
    }
    if (episodes.length > 1) {
      const values = episodes.flatMap(({ num_frames }, episode) => new Array(num_frames).fill(episode));
      found.push({ name: "episode", classes: episodes.map(({ name }) => name), values });
    }
    return found;
  };

  // The points on a canvas of their own, drawn again only when something has changed. Coordinates of the plane become
  // pixels with `toScreen`, and the other way with `toPlane`.
  Explorer.scatter = function ({ count, mu }, plane, colouring, size) {
    const xs = new Float32Array(count);
    const ys = new Float32Array(count);
    for (let row = 0; row < count; row += 1) [xs[row], ys[row]] = plane.of(mu, row * model.z_dim);
    const across = extent(xs);
    const down = extent(ys);
    const scale = (size * (1 - 2 * MARGIN)) / Math.max(across.length, down.length);
    const toScreen = (x, y) => [size / 2 + (x - across.middle) * scale, size / 2 - (y - down.middle) * scale];
    const toPlane = (left, top) => [across.middle + (left - size / 2) / scale, down.middle - (top - size / 2) / scale];

    const pixels = scope.devicePixelRatio || 1;
    const canvas = element("canvas", { width: Math.round(size * pixels), height: Math.round(size * pixels) });
    const context = canvas.getContext("2d");
    context.scale(pixels, pixels);
    drawAxes(context, size, toScreen(0, 0));
    const colourOf = colourScale(colouring);
    const radius = count > 3000 ? 1.5 : 2.2;
    context.globalAlpha = 0.8;
    for (let row = 0; row < count; row += 1) {
      const [left, top] = toScreen(xs[row], ys[row]);
      context.fillStyle = colourOf(colouring.values[row]);
      context.beginPath();
      context.arc(left, top, radius, 0, 2 * Math.PI);
      context.fill();
    }

    // The row of the point next to a place on the screen, if one is within `reach` pixels.
    function nearest(left, top, reach) {
      const [x, y] = toPlane(left, top);
      let best = -1;
      let least = (reach / scale) ** 2;
      for (let row = 0; row < count; row += 1) {
        const away = (xs[row] - x) ** 2 + (ys[row] - y) ** 2;
        if (away <= least) [best, least] = [row, away];
      }
      return best;
    }

    return { canvas, toScreen, toPlane, nearest, step: size / scale / 40 };
  };

  function extent(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
    return { middle: (low + high) / 2, length: high - low || 1 };
  }

  function drawAxes(context, size, [left, top]) {
    context.fillStyle = Explorer.colours.line;
    context.fillRect(0, Math.round(top), size, 1);
    context.fillRect(Math.round(left), 0, 1, size);
  }

  function colourScale({ values, classes }) {
    const { sequential, classes: palette } = Explorer.colours;
    if (classes) return (value) => palette[value % palette.length];
    const { low, high } = Explorer.range(values);
    const shades = Array.from({ length: 256 }, (_, i) => Explorer.cssColour(sequential, i));
    const shade = (value) => shades[Math.round(255 * Math.max(0, Math.min(1, (value - low) / (high - low))))];
    return (value) => shade(value) || Explorer.colours.muted; // a value may be missing
  }

  // The legend: a bar with its ends, or one mark for each class.
  Explorer.legend = function (box, colouring) {
    const { sequential, classes: palette } = Explorer.colours;
    if (colouring.classes) {
      const marks = colouring.classes.map((name, i) => {
        const mark = element("i", {});
        mark.style.background = palette[i % palette.length];
        return element("span", { class: "mark" }, mark, name);
      });
      box.replaceChildren(...marks);
      return;
    }
    const { low, high } = Explorer.range(colouring.values);
    const bar = element("canvas", { width: 256, height: 1, class: "scale", "aria-hidden": "true" });
    const context = bar.getContext("2d");
    for (let i = 0; i < 256; i += 1) {
      context.fillStyle = Explorer.cssColour(sequential, i);
      context.fillRect(i, 0, 1, 1);
    }
    box.replaceChildren(element("span", {}, Explorer.short(low)), bar, element("span", {}, Explorer.short(high)));
  };
})(window);
