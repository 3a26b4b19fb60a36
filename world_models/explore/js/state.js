// What all parts of the page share: z with its history, the order of the worker's requests, and messages.
//
// Explorer.state      z, its label (of a conditional model) and where it comes from
// Explorer.change     sets z
// Explorer.onChange   calls a function after each change; Explorer.onSettled, when z has stopped changing
// Explorer.request    computes in the worker, the most urgent request first
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { models, episodes } = Explorer.contents;
  const model = models[0];

  const HISTORY = 200; // steps that can be undone
  const SETTLED_MS = 120;

  const state = (Explorer.state = {
    z: Float32Array.from(model.z_mean),
    label: model.num_classes ? 0 : null,
    origin: "The mean of the data",
  });

  // A dimension that never changes has no spread; its slider then counts in the model's own unit.
  Explorer.spread = Float32Array.from(model.z_std, (value) => value || 1);
  Explorer.deviations = (dim, value) => (value - model.z_mean[dim]) / Explorer.spread[dim];
  Explorer.fromDeviations = (dim, value) => model.z_mean[dim] + value * Explorer.spread[dim];
  Explorer.usedDims = model.order.filter((dim) => model.used[dim]);

  const past = [];
  const future = [];
  const changed = [];
  const settled = [];
  let lastGesture = null;
  let settling = 0;

  const snapshot = () => ({ z: state.z.slice(), label: state.label, origin: state.origin });

  function restore({ z, label, origin }) {
    state.z.set(z);
    state.label = label;
    state.origin = origin;
    lastGesture = null;
    announce();
  }

  function announce() {
    for (const listener of changed) listener();
    clearTimeout(settling);
    settling = setTimeout(settle, SETTLED_MS);
  }

  function settle() {
    settling = 0;
    for (const listener of settled) listener();
  }

  // Sets z, and the label if one is given. Changes with the same `gesture`, such as one drag, are undone together.
  Explorer.change = function (z, origin, { gesture = null, label = state.label } = {}) {
    if (gesture === null || gesture !== lastGesture) {
      past.push(snapshot());
      if (past.length > HISTORY) past.shift();
      future.length = 0;
    }
    lastGesture = gesture;
    if (z !== state.z) state.z.set(z);
    state.label = label;
    state.origin = origin;
    announce();
  };

  // Sets one dimension.
  Explorer.changeDim = function (dim, value, options) {
    const z = state.z.slice();
    z[dim] = value;
    Explorer.change(z, `z${dim} moved`, options);
  };

  Explorer.endGesture = () => (lastGesture = null);
  Explorer.canUndo = () => past.length > 0;
  Explorer.canRedo = () => future.length > 0;
  Explorer.undo = () => step(past, future);
  Explorer.redo = () => step(future, past);

  function step(from, to) {
    if (!from.length) return;
    to.push(snapshot());
    restore(from.pop());
  }

  Explorer.onChange = (listener) => changed.push(listener);
  Explorer.onSettled = (listener) => settled.push(listener);

  // The worker computes one request at a time. A request waits under its name, and a newer one of that name replaces
  // it: a moving slider never waits for pictures that are already out of date.
  const waiting = new Map();
  let isBusy = false;

  Explorer.request = function (name, urgency, compute, done) {
    waiting.set(name, { urgency, compute, done });
    if (!isBusy) work();
  };

  async function work() {
    isBusy = true;
    while (waiting.size) {
      const [name, { compute, done }] = mostUrgent();
      waiting.delete(name);
      try {
        done(await compute());
      } catch (error) {
        Explorer.fail(error);
      }
    }
    isBusy = false;
  }

  // Whether everything that was asked for has been computed and drawn.
  Explorer.isAtRest = () => !isBusy && !settling;

  function mostUrgent() {
    let best = null;
    for (const entry of waiting) if (best === null || entry[1].urgency < best[1].urgency) best = entry;
    return best;
  }

  Explorer.URGENCY = { stage: 0, moving: 1, still: 2, strip: 3 };

  Explorer.decode = (name, urgency, z, done, options = {}) => {
    const label = options.label === undefined ? state.label : options.label;
    Explorer.request(name, urgency, () => scope.explorer.decode(z, { model: options.model || 0, label }), done);
  };

  // Shows what went wrong, and says it to a screen reader.
  Explorer.fail = function (error) {
    const line = document.getElementById("failure");
    line.textContent = `Something went wrong: ${error.message || error}`;
    line.hidden = false;
  };

  // Says a short text to a screen reader. It waits until nothing new has been said for a while.
  let saying = 0;
  Explorer.say = function (text) {
    clearTimeout(saying);
    saying = setTimeout(() => (document.getElementById("said").textContent = text), 400);
  };

  // The first model's mu of all shown frames, one after the other, and the episode and frame of each row.
  let rows = null;
  Explorer.shownMu = function () {
    rows = rows || gather();
    return rows;
  };

  async function gather() {
    const parts = await Promise.all(episodes.map(({ mu }) => Explorer.array(mu[0])));
    const count = episodes.reduce((sum, { num_frames }) => sum + num_frames, 0);
    const mu = new Float32Array(count * model.z_dim);
    const episode = new Uint16Array(count);
    const frame = new Uint16Array(count);
    let row = 0;
    parts.forEach((part, number) => {
      mu.set(part, row * model.z_dim);
      for (let i = 0; i < episodes[number].num_frames; i += 1, row += 1) {
        episode[row] = number;
        frame[row] = i;
      }
    });
    return { count, mu, episode, frame };
  }
})(window);
