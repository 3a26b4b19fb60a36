// The map: all shown frames in two dimensions of z. A click decodes, a drag decodes along the way, and two clicks choose
// the ends of an interpolation.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, state, element } = Explorer;
  const model = contents.models[0];

  const REACH = 7; // pixels between a click and the point that is meant

  let points = null;
  let colourings = [];
  let plane = null;
  let scatter = null;
  let preview = null;
  let isDown = false;
  let hovered = -1;

  const canvas = () => byId("map-canvas");
  const isInterpolating = () => byId("map-interpolate").getAttribute("aria-pressed") === "true";

  function choosePlane() {
    const isChosen = byId("map-plane").value === "dimensions";
    byId("map-dims").hidden = !isChosen;
    const [a, b] = ["map-x", "map-y"].map((id) => Number(byId(id).value));
    plane = isChosen ? Explorer.planes.dimensions(a, b) : Explorer.planes.components();
    byId("map-x-name").textContent = plane.names[0];
    byId("map-y-name").textContent = plane.names[1];
    drawPoints();
  }

  function drawPoints() {
    const colouring = colourings[Number(byId("map-colour").value)];
    if (!points || !colouring || !canvas().clientWidth) return;
    scatter = Explorer.scatter(points, plane, colouring, canvas().clientWidth);
    Explorer.legend(byId("map-legend"), colouring);
    draw();
  }

  // The points, the ends of the interpolation and the place of z.
  function draw() {
    if (!scatter || !Explorer.isShown("map")) return;
    const { context, width } = Explorer.sharp(canvas());
    context.drawImage(scatter.canvas, 0, 0, width, width);
    const places = Explorer.path.ends().map(({ z }) => scatter.toScreen(...plane.of(z)));
    context.strokeStyle = Explorer.colours.ink;
    context.lineWidth = 1.5;
    if (places.length === 2) line(context, places);
    ring(context, ...scatter.toScreen(...plane.of(state.z)), 6, "");
    places.forEach(([left, top], i) => ring(context, left, top, 9, "AB"[i]));
  }

  function line(context, [from, to]) {
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }

  function ring(context, left, top, radius, text) {
    context.fillStyle = Explorer.colours.paper;
    context.beginPath();
    context.arc(left, top, radius, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
    context.fillStyle = text ? Explorer.colours.ink : Explorer.colours.accent;
    if (text) {
      context.font = `600 11px ${getComputedStyle(document.body).fontFamily}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(text, left, top + 0.5);
    } else {
      context.beginPath();
      context.arc(left, top, radius - 2.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  // What a click means: the mu of a frame whose point is near, or else the place itself, with all that the map does not
  // show taken from the present z.
  function placeAt(left, top) {
    const row = scatter.nearest(left, top, REACH);
    if (row >= 0) {
      const z = points.mu.slice(row * model.z_dim, (row + 1) * model.z_dim);
      return { z, name: Explorer.player.nameOf(points.episode[row], points.frame[row]), label: labelOf(row) };
    }
    const z = state.z.slice();
    plane.set(z, ...scatter.toPlane(left, top));
    return { z, name: "A place on the map", label: state.label };
  }

  function labelOf(row) {
    const { classes, values, name } = colourings[0];
    return model.num_classes && classes && name === "digit" ? values[row] : state.label;
  }

  function press(left, top) {
    const place = placeAt(left, top);
    if (isInterpolating()) Explorer.path.add(place);
    else Explorer.change(place.z, place.name, { gesture: "map", label: place.label });
  }

  function drag(left, top) {
    const z = state.z.slice();
    plane.set(z, ...scatter.toPlane(left, top));
    Explorer.change(z, "A place on the map", { gesture: "map" });
  }

  // A small picture of the frame under the pointer.
  async function hover(left, top) {
    const row = isDown ? -1 : scatter.nearest(left, top, REACH);
    const box = byId("map-preview");
    box.hidden = row < 0;
    if (row < 0 || row === hovered) return;
    hovered = row;
    const frames = await Explorer.array(contents.episodes[points.episode[row]].frames);
    if (row !== hovered) return;
    preview.show(frames, points.frame[row] * Explorer.frameSize);
    byId("map-preview-name").textContent = Explorer.player.nameOf(points.episode[row], points.frame[row]);
    const width = canvas().clientWidth;
    box.classList.toggle("is-left", left > width / 2);
    box.style.left = `${left}px`;
    box.style.top = `${Math.min(top, width - 120)}px`;
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  function pressKey(event) {
    const arrow = ARROWS[event.key];
    if (!scatter || (!arrow && event.key !== "Enter")) return;
    event.preventDefault();
    const [x, y] = plane.of(state.z);
    if (arrow) drag(...scatter.toScreen(x + arrow[0] * scatter.step, y + arrow[1] * scatter.step));
    else press(...scatter.toScreen(x, y));
  }

  function listen() {
    const target = canvas();
    target.addEventListener("pointerdown", (event) => {
      if (!scatter) return;
      target.setPointerCapture(event.pointerId);
      isDown = !isInterpolating();
      byId("map-preview").hidden = true;
      Explorer.endGesture();
      press(event.offsetX, event.offsetY);
    });
    target.addEventListener("pointermove", (event) => {
      if (isDown) drag(event.offsetX, event.offsetY);
      else if (event.pointerType === "mouse" && scatter) hover(event.offsetX, event.offsetY);
    });
    for (const end of ["pointerup", "pointercancel"]) target.addEventListener(end, () => (isDown = false));
    target.addEventListener("pointerleave", () => (byId("map-preview").hidden = true));
    target.addEventListener("keydown", pressKey);
    target.addEventListener("blur", Explorer.endGesture);
    for (const id of ["map-plane", "map-x", "map-y"]) byId(id).addEventListener("change", choosePlane);
    byId("map-colour").addEventListener("change", drawPoints);
    for (const id of ["map-decode", "map-interpolate"]) byId(id).addEventListener("click", () => chooseTool(id));
  }

  function chooseTool(chosen) {
    for (const id of ["map-decode", "map-interpolate"]) byId(id).setAttribute("aria-pressed", String(id === chosen));
    Explorer.path.clear();
    byId("map-hint").textContent = isInterpolating() ? "Click two points, A and B." : "Click a point, or drag.";
    draw();
  }

  Explorer.startMap = async function () {
    preview = Explorer.picture(byId("map-preview-picture"));
    Explorer.path.start();
    for (const [id, at] of [["map-x", 0], ["map-y", 1]]) {
      for (const dim of model.order) byId(id).append(element("option", { value: dim }, `z${dim}`));
      byId(id).selectedIndex = Math.min(at, model.z_dim - 1);
    }
    listen();
    points = await Explorer.shownMu();
    colourings = await Explorer.colourings();
    colourings.forEach(({ name }, i) => byId("map-colour").append(element("option", { value: i }, name)));
    const first = contents.directions[0];
    const best = colourings.findIndex(({ name }) => first && name.startsWith(first.name));
    byId("map-colour").value = Math.max(0, best);
    Explorer.onChange(draw);
    Explorer.onTab(draw);
    Explorer.onResize(canvas(), drawPoints);
    choosePlane();
  };
})(window);
