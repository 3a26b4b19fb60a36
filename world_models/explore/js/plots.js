// Drawings over time: mu as a strip that moves under a fixed line, and small plots with a cursor.
//
// What takes time to draw is drawn once. While an episode plays, the browser only moves it.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, element } = Explorer;
  const { episodes, models } = contents;

  const LARGEST = 3; // standard deviations with the strongest colour
  const MAX_ROWS = 64;
  const TEXT_EVERY = 6; // frames between two texts while playing: nobody reads 60 numbers a second

  // mu of a model as a strip: a row for each dimension in use, a column for each frame.
  Explorer.muStrip = function (model) {
    const { player } = Explorer;
    const canvas = element("canvas", { "aria-hidden": "true" });
    const label = `mu of ${models[model].name} over time. Drag to move through the frames.`;
    const box = element("div", { class: "strip", role: "img", "aria-label": label }, canvas);
    let pixel = 3;
    let middle = 0;

    function draw() {
      if (!player.mu[model]) return;
      const { order, used, z_dim, z_mean, z_std } = models[model];
      const inUse = order.filter((dim) => used[dim]);
      const dims = (inUse.length ? inUse : order).slice(0, MAX_ROWS);
      const count = player.count();
      canvas.width = count;
      canvas.height = dims.length;
      const context = canvas.getContext("2d");
      const drawn = context.createImageData(count, dims.length);
      const { diverging } = Explorer.colours;
      dims.forEach((dim, row) => {
        for (let frame = 0; frame < count; frame += 1) {
          const value = (player.mu[model][frame * z_dim + dim] - z_mean[dim]) / (z_std[dim] || 1);
          const colour = Math.round(127.5 * (1 + Math.max(-1, Math.min(1, value / LARGEST))));
          drawn.data.set(diverging.subarray(3 * colour, 3 * colour + 3), 4 * (row * count + frame));
          drawn.data[4 * (row * count + frame) + 3] = 255;
        }
      });
      context.putImageData(drawn, 0, 0);
      measure();
    }

    function measure() {
      pixel = player.isFilm() ? 3 : 12;
      middle = box.clientWidth / 2;
      canvas.style.width = `${player.count() * pixel}px`;
      move(player.index);
    }

    function move(index) {
      canvas.style.transform = `translateX(${middle - (index + 0.5) * pixel}px)`;
    }

    let grabbed = null;
    box.addEventListener("pointerdown", (event) => {
      box.setPointerCapture(event.pointerId);
      grabbed = { x: event.clientX, index: player.index };
      player.pause();
    });
    box.addEventListener("pointermove", (event) => {
      if (grabbed) player.seek(Math.round(grabbed.index - (event.clientX - grabbed.x) / pixel));
    });
    for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, () => (grabbed = null));

    player.onLoad(draw);
    player.onFrame(move);
    Explorer.onTheme(draw);
    new ResizeObserver(measure).observe(box);
    return box;
  };

  // The columns of an episode that are numbers over time, those that mu predicts best first.
  Explorer.columns = async function (episode) {
    const { num_frames, rewards, actions, action_names, telemetry, telemetry_names } = episodes[episode];
    const [reward, action, state] = await Promise.all(
      [rewards, actions, telemetry].map((name) => (name ? Explorer.array(name) : null)),
    );
    const found = reward ? [{ name: "reward", values: reward }] : [];
    split(telemetry_names, state).sort((a, b) => rank(a.name) - rank(b.name)).forEach((each) => found.push(each));
    return found.concat(split(action_names, action));

    function split(names, rows) {
      return names.map((name, column) => ({
        name,
        values: Float32Array.from({ length: num_frames }, (_, frame) => rows[frame * names.length + column]),
      }));
    }
  };

  // The position of a column among the directions, which are sorted by how well mu predicts them.
  function rank(name) {
    const at = contents.directions.findIndex((each) => name === each.name || name === `${each.name} [${each.unit}]`);
    return at < 0 ? contents.directions.length : at;
  }

  // The middle 98 % of the numbers, so that one outlier does not flatten the rest.
  Explorer.range = function (values) {
    const sorted = Float32Array.from(values).filter(Number.isFinite).sort();
    if (!sorted.length) return { low: -1, high: 1 };
    const low = sorted[Math.floor(0.01 * (sorted.length - 1))];
    const high = sorted[Math.ceil(0.99 * (sorted.length - 1))];
    return high > low ? { low, high } : { low: low - 1, high: high + 1 };
  };

  // A small plot of one column with a cursor; a click goes to that frame.
  function makePlot({ name, values }) {
    const { player } = Explorer;
    const [, words, unit] = name.match(/^(.*?)(?: \[(.*)\])?$/);
    const canvas = element("canvas", { "aria-hidden": "true" });
    const cursor = element("i", {});
    const value = document.createTextNode("");
    const output = element("output", {}, value, element("small", {}, unit ? ` ${unit}` : ""));
    const caption = element("figcaption", {}, element("span", { title: name }, words), output);
    const box = element("div", { class: "line" }, canvas, cursor);
    const figure = element("figure", { class: "plot" }, caption, box);
    const { low, high } = Explorer.range(values);
    const decimals = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(high - low))));
    let width = 0;

    function draw() {
      const { context, width: wide, height } = Explorer.sharp(canvas);
      width = wide;
      const y = (v) => 2 + (height - 4) * (1 - (Math.max(low, Math.min(high, v)) - low) / (high - low));
      if (low < 0 && high > 0) {
        context.fillStyle = Explorer.colours.line;
        context.fillRect(0, y(0) - 0.5, width, 1);
      }
      context.strokeStyle = Explorer.colours.accent;
      context.lineWidth = 1.25;
      context.beginPath();
      values.forEach((v, frame) => context.lineTo((frame / (values.length - 1)) * width, y(v)));
      context.stroke();
      move(player.index);
    }

    function move(index) {
      cursor.style.transform = `translateX(${(index / (values.length - 1)) * width}px)`;
      if (!player.isPlaying || index % TEXT_EVERY === 0) value.data = Explorer.number(values[index], decimals);
    }

    box.addEventListener("click", (event) => {
      player.seek(Math.round((event.offsetX / box.clientWidth) * (values.length - 1)));
    });
    const observer = new ResizeObserver(() => canvas.clientWidth && draw());
    observer.observe(canvas);
    return { figure, draw, move, observer };
  }

  // Small plots of all columns of the episode, in a box.
  Explorer.plots = function (box) {
    const { player } = Explorer;
    let plots = [];

    async function build() {
      const episode = player.episode;
      const columns = await Explorer.columns(episode);
      if (episode !== player.episode) return;
      for (const { observer } of plots) observer.disconnect();
      plots = columns.map(makePlot);
      box.replaceChildren(...plots.map(({ figure }) => figure));
    }

    player.onLoad(build);
    player.onFrame((index) => {
      for (const { move } of plots) move(index);
    });
    Explorer.onTheme(() => plots.forEach(({ draw }) => draw()));
  };
})(window);
