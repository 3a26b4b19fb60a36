// Up to four models side by side: the same frames, and mu of each model over the same time.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, element, frameSize } = Explorer;
  const { models } = contents;

  const SCORES = { sse: "squared error", psnr_db: "PSNR [dB]", kl_nats: "KL [nats]", dims_used: "dimensions in use" };

  // Scores from an evaluation; without one, what the page itself knows.
  function scoresOf({ scores, z_dim, kl_per_dim, used, posterior }) {
    const kl = posterior === "point" ? null : kl_per_dim.reduce((sum, value) => sum + value, 0);
    const known = { kl_nats: kl, dims_used: used.filter(Boolean).length, ...(scores || {}) };
    const list = element("dl", { class: "scores" });
    const add = (name, text) => list.append(element("dt", {}, name), element("dd", {}, text));
    add("dimensions", String(z_dim));
    for (const [key, name] of Object.entries(SCORES)) {
      if (typeof known[key] === "number") add(name, key === "dims_used" ? String(known[key]) : Explorer.short(known[key]));
    }
    return list;
  }

  function labelled(text, canvas) {
    return element("figure", { class: "shot" }, canvas, element("figcaption", {}, text));
  }

  function canvasOf(label) {
    return element("canvas", { role: "img", "aria-label": label });
  }

  // One model: reconstruction, difference, mu, error of the shown frame, scores.
  function makeColumn(model) {
    const { name } = models[model];
    const decoded = canvasOf(`Reconstruction by ${name}`);
    const difference = canvasOf(`Difference of the frame and the reconstruction by ${name}`);
    const error = document.createTextNode("");
    const column = element(
      "section",
      { class: "model", "aria-label": name },
      element("h3", {}, name),
      element("div", { class: "pair" }, labelled("Reconstruction", decoded), labelled(Explorer.differenceName, difference)),
      Explorer.muStrip(model),
      element("p", { class: "error" }, "Squared error of this frame: ", element("b", {}, error)),
      scoresOf(models[model]),
    );
    return { column, error, decoded: Explorer.picture(decoded), difference: Explorer.picture(difference) };
  }

  // The sum over the pixels' channels, with values from 0 to 1, as in the evaluation.
  function squaredError(a, startA, b, startB) {
    let sum = 0;
    for (let i = 0; i < frameSize; i += 1) sum += (a[startA + i] - b[startB + i]) ** 2;
    return sum / 255 ** 2;
  }

  Explorer.startCompare = function () {
    if (models.length < 2) return;
    const { player } = Explorer;
    const original = canvasOf("The frame");
    const frame = Explorer.picture(original);
    const columns = models.map((_, model) => makeColumn(model));
    const showers = columns.map(({ decoded, difference, error }) => (pixels, start, index) => {
      decoded.show(pixels, start);
      difference.difference(player.frames, index * frameSize, pixels, start);
      error.data = squaredError(player.frames, index * frameSize, pixels, start).toFixed(1);
    });

    byId("compare-transport").append(Explorer.transport());
    const first = element("section", { class: "model" }, element("h3", {}, "Frame"), labelled("What the models see", original));
    byId("columns").append(first, ...columns.map(({ column }) => column));
    byId("columns").style.setProperty("--models", models.length);

    function show(index) {
      if (!Explorer.isShown("compare")) return;
      frame.show(player.frames, index * frameSize);
      showers.forEach((shower, model) => Explorer.reconstruction("compare", model, index, shower));
    }

    player.onFrame(show);
    Explorer.onTab((name) => name === "compare" && player.frames && show(player.index));
  };
})(window);
