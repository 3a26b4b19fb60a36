// The way between two places on the map: a slider, a row of frames, and a walk from one end to the other and back.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { byId, state } = Explorer;

  const STEPS = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1];
  const WALK_MS = 3000; // from one end to the other

  let strip = null;
  let ends = []; // z, label and name of A and B
  let walk = 0;

  const percent = (share) => `${Math.round(100 * share)} %`;

  // The first place is A, the second one B; a third one begins anew.
  function add(place) {
    stop();
    ends = ends.length === 2 ? [place] : [...ends, place];
    byId("path").hidden = ends.length < 2;
    byId("map-hint").textContent = ends.length === 1 ? `A: ${place.name}. Click B.` : "Click a new A.";
    Explorer.say(`${"AB"[ends.length - 1]}: ${place.name}`);
    if (ends.length === 2) {
      strip.render((i, z) => between(STEPS[i], z));
      goTo(0);
    } else {
      Explorer.change(place.z, place.name, { label: place.label });
    }
  }

  function clear() {
    stop();
    ends = [];
    byId("path").hidden = true;
  }

  function between(share, z) {
    const [a, b] = ends;
    for (let i = 0; i < z.length; i += 1) z[i] = (1 - share) * a.z[i] + share * b.z[i];
  }

  function goTo(share) {
    const z = state.z.slice();
    between(share, z);
    byId("path-share").value = share;
    Explorer.fillTrack(byId("path-share"), share);
    const { label } = ends[share < 0.5 ? 0 : 1];
    Explorer.change(z, `${percent(share)} of the way from A to B`, { gesture: "path", label });
  }

  function start() {
    const began = performance.now();
    byId("path-play").classList.add("is-playing");
    const step = (now) => {
      const share = Math.min(Math.max(0, now - began) / WALK_MS, 2);
      goTo(share > 1 ? 2 - share : share);
      if (share < 2) walk = requestAnimationFrame(step);
      else stop();
    };
    walk = requestAnimationFrame(step);
  }

  function stop() {
    cancelAnimationFrame(walk);
    walk = 0;
    byId("path-play").classList.remove("is-playing");
    Explorer.endGesture();
  }

  Explorer.path = {
    add,
    clear,
    ends: () => ends,
    start() {
      strip = Explorer.filmstrip("path", STEPS.map(percent), (i) => goTo(STEPS[i]));
      byId("path-strip").append(strip.element);
      byId("path-play").addEventListener("click", () => (walk ? stop() : start()));
      for (const end of ["pointerup", "blur"]) byId("path-share").addEventListener(end, Explorer.endGesture);
      byId("path-share").addEventListener("input", () => {
        if (walk) stop();
        goTo(Number(byId("path-share").value));
      });
      Explorer.onTab(stop);
    },
  };
})(window);
