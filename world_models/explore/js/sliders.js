// One slider for each dimension of z, those with the highest KL first, and what the chosen one does.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, state, element } = Explorer;
  const model = contents.models[0];

  const LARGEST = 4; // standard deviations at the end of a slider
  const STEPS = [-4, -3, -2, -1, 0, 1, 2, 3, 4]; // of the row of frames
  const FEW = 8; // so many sliders or fewer lie in one column
  const BINS = 48; // of the small histograms

  const rows = [];
  let strip = null;
  let chosen = model.order[0];

  function makeRow(dim) {
    const kl = Explorer.number(model.kl_per_dim[dim], model.kl_per_dim[dim] < 0.1 ? 3 : 2);
    const input = element("input", {
      type: "range", min: -LARGEST, max: LARGEST, step: 0.05, id: `z${dim}`,
      "aria-label": model.posterior === "point" ? `z ${dim}` : `z ${dim}, KL ${kl} nats`,
      input: () => move(dim, input),
      pointerup: Explorer.endGesture,
      blur: Explorer.endGesture,
      focus: () => choose(dim),
      pointerdown: () => choose(dim),
      dblclick: () => Explorer.changeDim(dim, model.z_mean[dim]),
    });
    const histogram = element("canvas", { "aria-hidden": "true" });
    const value = element("output", { for: `z${dim}` });
    const nats = model.posterior === "point" ? "" : `${kl} nats`;
    const label = element("label", { for: `z${dim}` }, element("b", {}, `z${dim}`), element("small", {}, nats));
    rows.push({ dim, input, value, histogram, counts: null, shown: NaN });
    return element("div", { class: "slider" }, label, element("div", { class: "track" }, histogram, input), value);
  }

  function move(dim, input) {
    Explorer.changeDim(dim, Explorer.fromDeviations(dim, Number(input.value)), { gesture: `z${dim}` });
  }

  function showValues() {
    for (const row of rows) {
      const value = Explorer.deviations(row.dim, state.z[row.dim]);
      if (value === row.shown) continue;
      row.shown = value;
      const text = Explorer.signed(value);
      if (document.activeElement !== row.input || Math.abs(Number(row.input.value) - value) > 0.03) {
        row.input.value = value;
      }
      row.input.setAttribute("aria-valuetext", `${text} standard deviations`);
      row.value.textContent = text;
      Explorer.fillTrack(row.input, 0.5 + (0.5 * value) / LARGEST, 0.5);
    }
  }

  // How often the shown frames have each value: a histogram behind the slider.
  async function countValues() {
    const { count, mu } = await Explorer.shownMu();
    for (const row of rows) {
      row.counts = new Float32Array(BINS);
      for (let i = 0; i < count; i += 1) {
        const value = Explorer.deviations(row.dim, mu[i * model.z_dim + row.dim]);
        const bin = Math.floor(((value + LARGEST) / (2 * LARGEST)) * BINS);
        if (bin >= 0 && bin < BINS) row.counts[bin] += 1;
      }
      drawHistogram(row);
    }
  }

  function drawHistogram({ histogram, counts }) {
    if (!counts || !histogram.clientWidth) return;
    const { context, width, height } = Explorer.sharp(histogram);
    const highest = counts.reduce((most, value) => Math.max(most, value), 1);
    context.fillStyle = Explorer.colours.line;
    context.beginPath();
    context.moveTo(0, height);
    counts.forEach((value, bin) => {
      context.lineTo(((bin + 0.5) / BINS) * width, height * (1 - Math.sqrt(value / highest))); // so that rare values show
    });
    context.lineTo(width, height);
    context.fill();
  }

  function choose(dim) {
    if (dim === chosen) return;
    chosen = dim;
    renderStrip();
  }

  // The frame with other values of the chosen dimension.
  function renderStrip() {
    byId("traversal-title").textContent = `z${chosen}, from \u22124 to +4 standard deviations`;
    for (const { dim, input } of rows) input.closest(".slider").classList.toggle("is-chosen", dim === chosen);
    if (!Explorer.isShown("sliders")) return;
    strip.render((i, z) => {
      z.set(state.z);
      z[chosen] = Explorer.fromDeviations(chosen, STEPS[i]);
    });
  }

  Explorer.startSliders = function () {
    for (const dim of model.order) byId(model.used[dim] ? "sliders-used" : "sliders-unused").append(makeRow(dim));
    byId("sliders-used").classList.toggle("is-short", model.z_dim <= FEW);
    const unused = model.z_dim - Explorer.usedDims.length;
    byId("unused").hidden = unused === 0;
    byId("unused").open = unused === model.z_dim;
    byId("unused-count").textContent = unused === 1 ? "1 dimension not in use" : `${unused} dimensions not in use`;
    const titles = STEPS.map((step) => (step === 0 ? "0" : Explorer.signed(step, 0)));
    strip = Explorer.filmstrip("traversal", titles, (_, z) => Explorer.change(z, `z${chosen} moved`));
    byId("traversal").append(strip.element);
    for (const row of rows) Explorer.onResize(row.histogram, () => drawHistogram(row));
    Explorer.onChange(showValues);
    Explorer.onSettled(renderStrip);
    Explorer.onTab(renderStrip);
    showValues();
    renderStrip();
    return countValues();
  };
})(window);
