// Digits: the plane of two dimensions of z, and each digit that a conditional model can be asked for.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, state, element } = Explorer;
  const { image, digits } = contents;
  const model = contents.models[0];

  const SIDE = 15; // frames along each side of the plane

  let context = null;
  let cell = null; // a frame of the plane
  let drawn = 0; // counts the drawings, so that an older one stops
  let each = null;

  const chosen = (id) => Number(byId(id).value);

  // Where along the normal distribution the frames lie: at quantiles, so that each stands for the same share.
  function quantile(share) {
    let low = -6;
    let high = 6;
    for (let i = 0; i < 40; i += 1) {
      const middle = (low + high) / 2;
      if (normalShare(middle) < share) low = middle;
      else high = middle;
    }
    return low;
  }

  // The share of the standard normal distribution below x (Zelen and Severo, error below 1e-7).
  function normalShare(x) {
    const t = 1 / (1 + 0.2316419 * Math.abs(x));
    const sum = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
    const tail = (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
    return x < 0 ? tail : 1 - tail;
  }

  const places = Array.from({ length: SIDE }, (_, i) => quantile((i + 0.5) / SIDE));

  // A z with other values of the two chosen dimensions.
  function at(x, y) {
    const z = state.z.slice();
    z[chosen("plane-x")] = Explorer.fromDeviations(chosen("plane-x"), x);
    z[chosen("plane-y")] = Explorer.fromDeviations(chosen("plane-y"), y);
    return z;
  }

  // Decodes the frames one row after the other. A newer drawing stops this one.
  function drawPlane() {
    if (!Explorer.isShown("digits")) return;
    drawn += 1;
    const now = drawn;
    const rows = Array.from({ length: SIDE }, (_, row) => row);
    const decodeRow = async (row) => {
      const { label } = state;
      const frames = [];
      for (const x of places) frames.push(scope.explorer.decode(at(x, places[SIDE - 1 - row]), { label }));
      return Promise.all(frames);
    };
    const next = () => {
      const row = rows.shift();
      if (row === undefined || now !== drawn) return;
      Explorer.request("plane", Explorer.URGENCY.strip, () => decodeRow(row), (frames) => {
        frames.forEach((pixels, column) => {
          cell.show(pixels);
          context.drawImage(cell.canvas, column * image.width, row * image.height);
        });
        next();
      });
    };
    next();
  }

  function take(event) {
    const share = (offset, size) => Math.max(0.001, Math.min(0.999, offset / size));
    const { clientWidth, clientHeight } = byId("plane");
    const z = at(quantile(share(event.offsetX, clientWidth)), quantile(1 - share(event.offsetY, clientHeight)));
    Explorer.change(z, "A place on the plane", { gesture: "plane" });
  }

  const ARROWS = { ArrowLeft: ["plane-x", -1], ArrowRight: ["plane-x", 1], ArrowUp: ["plane-y", 1], ArrowDown: ["plane-y", -1] };

  function pressKey(event) {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    const dim = chosen(arrow[0]);
    Explorer.changeDim(dim, state.z[dim] + 0.1 * arrow[1] * Explorer.spread[dim], { gesture: "plane" });
  }

  function showPlace() {
    const mark = byId("plane-place");
    for (const [id, side] of [["plane-x", "left"], ["plane-y", "bottom"]]) {
      const share = normalShare(Explorer.deviations(chosen(id), state.z[chosen(id)]));
      mark.style[side] = `${100 * share}%`;
    }
  }

  // The plane changes when a dimension that it does not show has changed, or the digit.
  let shownFor = "";
  function drawIfChanged() {
    const kept = state.z.slice();
    kept[chosen("plane-x")] = kept[chosen("plane-y")] = 0;
    const now = [...kept, state.label, byId("plane-x").value, byId("plane-y").value].join();
    if (now === shownFor || !Explorer.isShown("digits")) return;
    shownFor = now;
    drawPlane();
  }

  function makeEach() {
    byId("each-box").hidden = !model.num_classes;
    if (!model.num_classes) return;
    digits.labels.forEach((text, label) => {
      const canvas = element("canvas", { "aria-hidden": "true" });
      const ask = () => Explorer.change(state.z, `The digit ${text} asked for`, { label });
      byId("each").append(element("button", { type: "button", click: ask }, canvas, element("span", {}, text)));
      each = each || [];
      each.push(Explorer.picture(canvas));
    });
    Explorer.onSettled(drawEach);
    Explorer.onTab(drawEach);
  }

  // The same z as each digit: the style stays, the digit changes.
  function drawEach() {
    if (!Explorer.isShown("digits")) return;
    each.forEach((picture, label) => {
      Explorer.decode(`each-${label}`, Explorer.URGENCY.still, state.z, (pixels) => picture.show(pixels), { label });
    });
  }

  Explorer.startDigits = function () {
    if (!digits) return;
    const canvas = byId("plane");
    canvas.width = SIDE * image.width;
    canvas.height = SIDE * image.height;
    context = canvas.getContext("2d");
    cell = Explorer.picture(element("canvas"));
    for (const [id, start] of [["plane-x", 0], ["plane-y", 1]]) {
      for (const dim of model.order) byId(id).append(element("option", { value: dim }, `z${dim}`));
      byId(id).selectedIndex = Math.min(start, model.z_dim - 1);
      byId(id).addEventListener("change", () => {
        drawIfChanged();
        showPlace();
      });
    }
    byId("plane-dims").hidden = model.z_dim <= 2;
    let isDown = false;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      isDown = true;
      Explorer.endGesture();
      take(event);
    });
    canvas.addEventListener("pointermove", (event) => isDown && take(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (isDown = false));
    canvas.addEventListener("keydown", pressKey);
    makeEach();
    Explorer.onChange(showPlace);
    Explorer.onSettled(drawIfChanged);
    Explorer.onTab(drawIfChanged);
    showPlace();
  };
})(window);
