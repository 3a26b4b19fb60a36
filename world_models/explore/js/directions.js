// Directions: a linear regression reads a column of telemetry from z. A slider moves z until it reads another value.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, state, element } = Explorer;
  const { directions } = contents;

  const REACH = 3; // standard deviations of the column, on each side of its mean
  const STEPS = [-2, -1, 0, 1, 2];
  const OPEN = 6; // directions that are not folded away, those with the highest r2

  const rows = [];

  function predicted({ weights, intercept }, z) {
    let sum = intercept;
    for (let i = 0; i < weights.length; i += 1) sum += weights[i] * z[i];
    return sum;
  }

  // Moves z along the direction until the regression predicts `value`.
  function move(direction, value, z) {
    const change = value - predicted(direction, z);
    for (let i = 0; i < z.length; i += 1) z[i] += direction.vector[i] * change;
    return z;
  }

  function makeRow(direction, number) {
    const { name, unit, mean, std, r2 } = direction;
    const title = `${name} becomes`;
    const input = element("input", {
      type: "range", min: -REACH, max: REACH, step: 0.02, id: `direction-${number}`,
      "aria-label": unit ? `${name} in ${unit}` : name,
      input: () => {
        const value = mean + Number(input.value) * std;
        Explorer.change(move(direction, value, state.z.slice()), `${title} ${write(value, unit)}`, { gesture: title });
      },
      pointerup: Explorer.endGesture,
      blur: Explorer.endGesture,
    });
    const value = element("output", { for: input.id });
    const strip = Explorer.filmstrip(
      `direction-${number}`,
      STEPS.map((step) => Explorer.short(mean + step * std)),
      (i, z) => Explorer.change(z, `${title} ${write(mean + STEPS[i] * std, unit)}`),
    );
    const fit = element("small", {}, `r\u00b2 ${r2.toFixed(2)}`);
    const head = element("div", { class: "direction-head" }, element("label", { for: input.id }, name), fit, value);
    const row = element("div", { class: "direction" }, element("div", {}, head, input), strip.element);
    rows.push({ direction, input, value, strip, row });
    return row;
  }

  const write = (value, unit) => (unit ? `${Explorer.short(value)} ${unit}` : Explorer.short(value));

  function showValues() {
    for (const { direction, input, value } of rows) {
      const now = predicted(direction, state.z);
      const text = write(now, direction.unit);
      const share = (now - direction.mean) / direction.std;
      if (document.activeElement !== input || Math.abs(Number(input.value) - share) > 0.015) input.value = share;
      input.setAttribute("aria-valuetext", text);
      value.textContent = text;
      Explorer.fillTrack(input, 0.5 + (0.5 * share) / REACH, 0.5);
    }
  }

  // The frames along each direction, from the present z.
  function renderStrips() {
    if (!Explorer.isShown("directions")) return;
    for (const { direction, strip, row } of rows) {
      if (!row.offsetParent) continue; // folded away
      strip.render((i, z) => {
        z.set(state.z);
        move(direction, direction.mean + STEPS[i] * direction.std, z);
      });
    }
  }

  Explorer.startDirections = function () {
    if (!directions.length) return;
    directions.forEach((direction, number) => {
      byId(number < OPEN ? "directions-strong" : "directions-weak").append(makeRow(direction, number));
    });
    byId("directions-weak-box").hidden = directions.length <= OPEN;
    byId("directions-weak-box").addEventListener("toggle", renderStrips);
    Explorer.onChange(showValues);
    Explorer.onSettled(renderStrips);
    Explorer.onTab(renderStrips);
    showValues();
  };
})(window);
