// Plays an episode's frames. The panels that show it draw when it calls them.
//
// Explorer.player           which episode and frame, and the arrays of this episode
// Explorer.transport        buttons, slider and speed of the player
// Explorer.reconstruction   where a model's reconstruction of a frame lies, if it has been computed
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, element, frameSize } = Explorer;
  const { episodes, models } = contents;

  const IMAGES_PER_S = 4; // of digits, which have no time of their own
  const KEPT_BYTES = 40e6; // of the reconstructions of an episode by a model
  const SPEEDS = [0.25, 0.5, 1, 2];

  const listeners = [];
  const loaded = [];
  const transports = [];
  const player = (Explorer.player = {
    episode: 0, // number of the episode
    index: 0, // number of the frame
    isPlaying: false,
    speed: 1,
    frames: null, // the episode's pixels
    mu: [], // mu of each model
    labels: null,
  });

  let position = 0; // with the fraction of a frame
  let before = 0;

  player.count = () => episodes[player.episode].num_frames;
  player.isFilm = () => episodes[player.episode].fps > 0;
  player.onFrame = (listener) => listeners.push(listener);
  player.onLoad = (listener) => loaded.push(listener);
  player.label = (index) => (player.labels ? player.labels[index] : null);
  player.nameOf = (episode, index) =>
    episodes[episode].fps > 0 ? `Frame ${index} of ${episodes[episode].name}` : `Image ${index}`;

  // Reads the arrays of an episode, then calls the panels.
  player.choose = async function (episode) {
    player.pause();
    const { frames, mu, labels } = episodes[episode];
    const arrays = await Promise.all([frames, labels, ...mu].map((name) => (name ? Explorer.array(name) : null)));
    [player.frames, player.labels, ...player.mu] = arrays;
    player.episode = episode;
    for (const listener of loaded) listener();
    player.seek(0);
  };

  player.seek = function (index) {
    position = Math.max(0, Math.min(player.count() - 1, index));
    show(Math.floor(position));
  };

  function show(index) {
    player.index = index;
    for (const listener of listeners) listener(index);
  }

  player.play = function () {
    if (player.isPlaying) return;
    if (player.index === player.count() - 1) player.seek(0);
    player.isPlaying = true;
    before = performance.now();
    requestAnimationFrame(advance);
    showState();
  };

  player.pause = function () {
    player.isPlaying = false;
    showState();
  };

  player.toggle = () => (player.isPlaying ? player.pause() : player.play());

  function advance(now) {
    if (!player.isPlaying) return;
    const rate = (episodes[player.episode].fps || IMAGES_PER_S) * player.speed;
    // A window in the background does not jump ahead. `now` may lie before the click, so time never goes backwards here.
    position += (Math.min(Math.max(0, now - before), 250) / 1000) * rate;
    before = now;
    const last = player.count() - 1;
    const index = Math.min(Math.floor(position), last);
    if (index !== player.index) show(index);
    if (index === last) player.pause();
    else requestAnimationFrame(advance);
  }

  // Puts mu of the shown frame on the sliders.
  player.take = function (gesture = null) {
    const { z_dim, num_classes } = models[0];
    const z = player.mu[0].subarray(player.index * z_dim, (player.index + 1) * z_dim);
    const label = num_classes ? player.label(player.index) : null;
    Explorer.change(z, player.nameOf(player.episode, player.index), { gesture, label });
  };

  // Reconstructions are kept, so that a second look at a frame shows them at once; not those of very long episodes.
  const kept = new Map();

  function store(model) {
    const key = `${player.episode}-${model}`;
    if (!kept.has(key)) {
      const count = player.count() * frameSize <= KEPT_BYTES ? player.count() : 0;
      kept.set(key, { pixels: new Uint8ClampedArray(count * frameSize), known: new Uint8Array(count) });
    }
    return kept.get(key);
  }

  // Calls `show(pixels, start, index)` with a model's reconstruction of frame `index`: at once if it is known, otherwise
  // when it has been computed. While the episode plays, frames that the worker has no time for are left out.
  Explorer.reconstruction = function (name, model, index, done) {
    const { pixels, known } = store(model);
    if (known[index]) {
      done(pixels, index * frameSize, index);
      return;
    }
    const { z_dim } = models[model];
    const z = player.mu[model].subarray(index * z_dim, (index + 1) * z_dim);
    const episode = player.episode;
    const keep = (decoded) => {
      if (index < known.length) {
        pixels.set(decoded, index * frameSize);
        known[index] = 1;
      }
      if (episode === player.episode) done(decoded, 0, index);
    };
    Explorer.decode(`${name}-${model}`, Explorer.URGENCY.moving, z, keep, { model, label: player.label(index) });
  };

  // Buttons and a slider that control the player. Each panel with an episode has its own.
  Explorer.transport = function () {
    const toggle = element("button", { type: "button", class: "play", click: player.toggle });
    const scrub = element("input", {
      type: "range", min: 0, step: 1, class: "scrub", "aria-label": "Frame", input: () => player.seek(Number(scrub.value)),
    });
    const choice = element("select", { "aria-label": "Episode", change: () => player.choose(Number(choice.value)) });
    episodes.forEach(({ name }, i) => choice.append(element("option", { value: i }, name)));
    const setSpeed = () => (player.speed = Number(speed.value));
    const speed = element("select", { "aria-label": "Speed", change: setSpeed });
    for (const each of SPEEDS) speed.append(element("option", { value: each, selected: each === 1 }, `${each}\u00d7`));
    const counter = element("output", { class: "counter" });
    choice.hidden = episodes.length < 2;
    transports.push({ toggle, scrub, choice, counter, text: counter.appendChild(document.createTextNode("")) });
    return element("div", { class: "transport" }, toggle, scrub, counter, speed, choice);
  };

  function showState() {
    for (const { toggle } of transports) {
      toggle.setAttribute("aria-label", player.isPlaying ? "Pause" : "Play");
      toggle.classList.toggle("is-playing", player.isPlaying);
    }
  }

  player.onLoad(() => {
    for (const { scrub, choice } of transports) {
      scrub.max = player.count() - 1;
      choice.value = player.episode;
    }
  });

  player.onFrame((index) => {
    const last = player.count() - 1;
    const digit = player.labels ? `, digit ${player.labels[index]}` : "";
    for (const { scrub, text } of transports) {
      scrub.value = index;
      Explorer.fillTrack(scrub, index / last);
      text.data = `${index} / ${last}${digit}`;
    }
  });

  Explorer.startPlayer = function () {
    showState();
    return player.choose(0);
  };
})(window);
