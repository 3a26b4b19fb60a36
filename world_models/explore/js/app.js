// Starts the page: panels, theme, keyboard, and what the page is about.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, element } = Explorer;
  const model = contents.models[0];

  const THEMES = ["auto", "light", "dark"];
  const OWN_KEYS = {
    // which elements do something else with a key
    " ": "button:not([role=tab]), select, summary, a, [data-keys]",
    Enter: "button, select, summary, a, [data-keys]",
    arrows: "input, select, [data-keys]",
  };
  const tabListeners = [];
  let shown = "sliders";

  Explorer.isShown = (name) => name === shown;
  Explorer.onTab = (listener) => tabListeners.push(listener);

  // The tabs that suit the contents. All others are hidden.
  function tabs() {
    const suits = {
      directions: contents.directions.length > 0,
      compare: contents.models.length > 1,
      digits: contents.digits !== null && model.z_dim > 1,
    };
    const all = [...document.querySelectorAll("[role=tab]")];
    for (const tab of all) tab.hidden = suits[tab.dataset.panel] === false;
    return all.filter((tab) => !tab.hidden);
  }

  Explorer.showTab = function (name, focus = false) {
    shown = name;
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const isChosen = tab.dataset.panel === name;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      byId(`panel-${tab.dataset.panel}`).hidden = !isChosen;
      if (isChosen && focus) tab.focus();
      if (isChosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    document.body.dataset.panel = name;
    if (name !== "episode" && name !== "compare") Explorer.player.pause();
    for (const listener of tabListeners) listener(name);
  };

  function startTabs() {
    const usable = tabs();
    usable.forEach((tab, i) => {
      tab.addEventListener("click", () => Explorer.showTab(tab.dataset.panel));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
        if (step === undefined) return;
        event.preventDefault();
        event.stopPropagation();
        Explorer.showTab(usable.at(step % usable.length).dataset.panel, true);
      });
    });
    return usable;
  }

  // Automatic, light, dark. The choice is not stored: a page in a frame of another site may not store anything.
  function startTheme() {
    const button = byId("theme");
    const set = (theme) => {
      document.documentElement.dataset.theme = theme;
      button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
      button.setAttribute("aria-label", `Colours: ${theme}`);
      Explorer.readTheme();
    };
    Explorer.nextTheme = () => {
      set(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
    };
    button.addEventListener("click", Explorer.nextTheme);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", Explorer.readTheme);
    set("auto");
  }

  // Keys do what they always do in a field, on a button and in a drawing; elsewhere they are shortcuts.
  function startKeys(usable) {
    const { player } = Explorer;
    const film = {
      " ": player.toggle,
      ArrowLeft: () => player.seek(player.index - 1),
      ArrowRight: () => player.seek(player.index + 1),
      PageUp: () => player.seek(player.index - 50),
      PageDown: () => player.seek(player.index + 50),
      Home: () => player.seek(0),
      End: () => player.seek(player.count() - 1),
      Enter: () => player.take(),
      f: () => byId("follow").click(),
    };
    const always = {
      z: () => (shown === "draw" ? Explorer.undoStroke() : Explorer.undo()),
      y: Explorer.redo,
      0: Explorer.zero,
      s: Explorer.sample,
      t: Explorer.nextTheme,
      "?": () => byId("help").showModal(),
    };
    document.addEventListener("keydown", (event) => {
      const { target, key } = event;
      const isCommand = event.ctrlKey || event.metaKey;
      if (event.defaultPrevented || event.altKey || byId("help").open || (isCommand && key !== "z" && key !== "y")) return;
      const isFilm = shown === "episode" || shown === "compare";
      const number = Number(key);
      let action = null;
      if (isFilm && film[key] && !target.matches(OWN_KEYS[key] || OWN_KEYS.arrows)) action = film[key];
      else if (always[key] && !target.matches("select")) action = always[key];
      else if (number >= 1 && number <= usable.length && !target.matches("select")) {
        action = () => Explorer.showTab(usable[number - 1].dataset.panel, true);
      }
      if (!action) return;
      event.preventDefault();
      action();
    });
    byId("help-open").addEventListener("click", () => byId("help").showModal());
    byId("help-close").addEventListener("click", () => byId("help").close());
  }

  // The numbers of the model, in the head of the page.
  function showFacts() {
    const scores = model.scores || {};
    const kl = model.kl_per_dim.reduce((sum, value) => sum + value, 0);
    const facts = [["z", `${model.z_dim}`], ["in use", `${Explorer.usedDims.length}`]];
    if (model.posterior !== "point") facts.push(["KL", `${Explorer.short(kl)} nats`]);
    if (typeof scores.sse === "number") facts.push(["squared error", Explorer.short(scores.sse)]);
    if (typeof scores.psnr_db === "number") facts.push(["PSNR", `${Explorer.short(scores.psnr_db)} dB`]);
    for (const [name, value] of facts) {
      byId("facts").append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    }
    const made = `${contents.created.slice(0, 10)}, world_models ${contents.package_version}`;
    byId("made").textContent = `${contents.data} \u00b7 ${made}`;
  }

  async function start() {
    document.body.classList.toggle("is-digits", contents.digits !== null);
    if (contents.digits) byId("tab-episode").textContent = "Images";
    for (const caption of document.querySelectorAll(".difference")) caption.textContent = Explorer.differenceName;
    startTheme();
    if (!Explorer.array) await scope.explorer.ready; // the browser is too old, and this says so
    showFacts();
    Explorer.startStage();
    Explorer.startPaint();
    Explorer.startEpisode();
    Explorer.startCompare();
    Explorer.startDirections();
    Explorer.startDigits();
    const usable = startTabs();
    startKeys(usable);
    await Promise.all([Explorer.startPlayer(), Explorer.startSliders(), Explorer.startMap(), scope.explorer.ready]);
    Explorer.showTab("sliders");
    document.body.classList.add("is-ready");
  }

  start().catch(Explorer.fail);
})(window);
