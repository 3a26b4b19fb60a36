// Draw and see: paint on a frame. It is encoded at once, and the reconstruction shows what V keeps.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, element, frameSize } = Explorer;
  const { image, digits } = contents;
  const model = contents.models[0];

  const STROKES = 50; // that can be undone
  const LARGEST = 3; // standard deviations that the bars show

  let canvas = null;
  let pictures = null;
  let original = null; // the frame, and how it was encoded
  let first = null; // { mu, pixels }
  let seen = null; // the same for the painted frame
  let strokes = []; // the painted frames before each stroke
  let colour = null;
  let cursor = null; // of the keyboard: column and row
  let last = null; // place of the pointer
  const painted = new Uint8ClampedArray(frameSize);

  const showBrush = () => Explorer.fillTrack(byId("brush"), (Number(byId("brush").value) - 1) / 15);
  const radius = () => Number(byId("brush").value) / 2;
  const label = () => (model.num_classes ? Number(byId("paint-label").value) : null);

  async function encoded(frame) {
    const options = { label: label() };
    const { mu } = await scope.explorer.encode(frame, options);
    return { mu, pixels: await scope.explorer.decode(mu, options) };
  }

  function look() {
    pictures.painted.show(painted);
    drawCursor();
    Explorer.request("paint", Explorer.URGENCY.moving, () => encoded(painted), (found) => {
      seen = found;
      pictures.seen.show(found.pixels);
      pictures.difference.difference(painted, 0, found.pixels, 0);
      showKept();
      drawBars();
    });
  }

  // The share of the painted change that is in the change of the reconstruction: the projection of one on the other.
  function showKept() {
    let both = 0;
    let all = 0;
    for (let i = 0; i < frameSize; i += 1) {
      const change = painted[i] - original[i];
      both += change * (seen.pixels[i] - first.pixels[i]);
      all += change * change;
    }
    const text = all
      ? `The reconstruction keeps ${Math.round((100 * both) / all)} % of what you painted.`
      : "Nothing is painted yet. Paint on the frame on the left.";
    byId("kept").textContent = text;
    if (all) Explorer.say(text);
  }

  // How far each dimension of mu has moved from that of the frame.
  function drawBars() {
    if (!seen || !byId("paint-bars").clientWidth) return;
    const { colours } = Explorer;
    const { context, width, height } = Explorer.sharp(byId("paint-bars"));
    const step = width / model.z_dim;
    context.fillStyle = colours.line;
    context.fillRect(0, height / 2 - 0.5, width, 1);
    model.order.forEach((dim, i) => {
      const change = (seen.mu[dim] - first.mu[dim]) / Explorer.spread[dim];
      const length = (Math.min(Math.abs(change), LARGEST) / LARGEST) * (height / 2);
      context.fillStyle = change < 0 ? colours.negative : colours.positive;
      const wide = Math.min(step * 0.7, 24);
      context.fillRect((i + 0.5) * step - wide / 2, height / 2 - (change < 0 ? 0 : length), wide, length);
    });
  }

  // Takes frame `index` of the player's episode to paint on.
  async function take(index) {
    const { player } = Explorer;
    const start = index * frameSize;
    if (model.num_classes) byId("paint-label").value = player.label(index);
    begin(player.frames.slice(start, start + frameSize));
    byId("paint-index").value = index;
    Explorer.fillTrack(byId("paint-index"), index / (player.count() - 1));
    byId("paint-name").textContent = player.nameOf(player.episode, index);
  }

  function begin(frame) {
    original = Uint8ClampedArray.from(frame);
    painted.set(original);
    strokes = [];
    makeBrushes();
    pictures.painted.show(painted);
    showUndo();
    encodeBoth();
  }

  function encodeBoth() {
    Explorer.request("paint-first", Explorer.URGENCY.moving, () => encoded(original), (found) => {
      first = found;
      look();
    });
  }

  function makeBrushes() {
    const box = byId("brushes");
    const before = [...box.children].findIndex((button) => button.getAttribute("aria-pressed") === "true");
    const brushes = Explorer.brushesFor(original);
    const buttons = brushes.map(([name, value], i) => Explorer.brushButton(name, value, () => choose(i)));
    const choose = (chosen) => {
      colour = brushes[chosen][1];
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === chosen)));
    };
    box.replaceChildren(...buttons);
    choose(Math.max(0, Math.min(before, brushes.length - 1)));
  }

  function remember() {
    strokes.push(painted.slice());
    if (strokes.length > STROKES) strokes.shift();
    showUndo();
  }

  const showUndo = () => (byId("paint-undo").disabled = strokes.length === 0);

  function change(paint) {
    if (!first) return;
    remember();
    paint();
    look();
  }

  Explorer.undoStroke = function () {
    if (!strokes.length) return;
    painted.set(strokes.pop());
    showUndo();
    look();
  };

  // A stroke from the last place to this one, in dots that overlap.
  function stroke(x, y) {
    const from = last || { x, y };
    const count = Math.max(1, Math.ceil(Math.hypot(x - from.x, y - from.y) / Math.max(0.5, radius() / 2)));
    for (let i = 1; i <= count; i += 1) {
      Explorer.dot(painted, from.x + ((x - from.x) * i) / count, from.y + ((y - from.y) * i) / count, radius(), colour);
    }
    last = { x, y };
    look();
  }

  const place = (event) => [
    (event.offsetX / canvas.clientWidth) * image.width,
    (event.offsetY / canvas.clientHeight) * image.height,
  ];

  function drawCursor() {
    const mark = byId("paint-cursor");
    mark.hidden = !cursor;
    if (!cursor) return;
    mark.style.left = `${(100 * cursor.x) / image.width}%`;
    mark.style.top = `${(100 * cursor.y) / image.height}%`;
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // The arrows move a cursor, space paints there.
  function pressKey(event) {
    const arrow = ARROWS[event.key];
    if (!arrow && event.key !== " ") return;
    event.preventDefault();
    cursor = cursor || { x: image.width / 2, y: image.height / 2 };
    if (arrow) {
      cursor.x = Math.max(0.5, Math.min(image.width - 0.5, cursor.x + arrow[0]));
      cursor.y = Math.max(0.5, Math.min(image.height - 0.5, cursor.y + arrow[1]));
      drawCursor();
    } else {
      change(() => Explorer.dot(painted, cursor.x, cursor.y, radius(), colour));
    }
  }

  function listen() {
    canvas.addEventListener("pointerdown", (event) => {
      if (!first) return;
      canvas.setPointerCapture(event.pointerId);
      remember();
      cursor = null;
      last = null;
      stroke(...place(event));
    });
    canvas.addEventListener("pointermove", (event) => last && stroke(...place(event)));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
    canvas.addEventListener("keydown", pressKey);
    canvas.addEventListener("blur", () => {
      cursor = null;
      drawCursor();
    });
    byId("paint-undo").addEventListener("click", Explorer.undoStroke);
    byId("paint-reset").addEventListener("click", () => change(() => painted.set(original)));
    byId("paint-clear").addEventListener("click", () => change(() => painted.fill(0)));
    byId("car-off").addEventListener("click", () => change(() => Explorer.takeCarOff(painted)));
    byId("paint-index").addEventListener("input", () => take(Number(byId("paint-index").value)));
    byId("paint-label").addEventListener("change", encodeBoth);
    byId("paint-take").addEventListener("click", () => {
      if (seen) Explorer.change(seen.mu, "The painted frame", model.num_classes ? { label: label() } : {});
    });
  }

  Explorer.startPaint = function () {
    const { player } = Explorer;
    canvas = byId("paint-canvas");
    pictures = {
      painted: Explorer.picture(canvas),
      seen: Explorer.picture(byId("paint-seen")),
      difference: Explorer.picture(byId("paint-difference")),
    };
    byId("car-off").hidden = !Explorer.isCarRacing;
    byId("paint-clear").hidden = !digits;
    byId("paint-label-box").hidden = !model.num_classes;
    if (digits) digits.labels.forEach((text, i) => byId("paint-label").append(element("option", { value: i }, text)));
    byId("brush").value = digits ? 2 : 6;
    byId("brush").addEventListener("input", showBrush);
    showBrush();
    listen();
    player.onLoad(() => {
      byId("paint-index").max = player.count() - 1;
      original = null;
    });
    // The panel opens with the frame that the player shows, unless something has been painted.
    Explorer.onTab((name) => {
      if (name === "draw" && player.frames && (!original || !strokes.length)) take(player.index);
    });
    Explorer.onResize(byId("paint-bars"), drawBars);
  };
})(window);
