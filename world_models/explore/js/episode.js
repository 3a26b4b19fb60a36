// An episode: its frames, their reconstructions, the difference, mu and telemetry over time.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { byId, frameSize } = Explorer;

  Explorer.startEpisode = function () {
    const { player } = Explorer;
    const frame = Explorer.picture(byId("episode-frame"));
    const decoded = Explorer.picture(byId("episode-decoded"));
    const difference = Explorer.picture(byId("episode-difference"));

    // While the episode plays, the reconstruction may be that of an earlier frame; the difference is then to that frame.
    function showDecoded(pixels, start, index) {
      decoded.show(pixels, start);
      difference.difference(player.frames, index * frameSize, pixels, start);
    }

    function show(index) {
      if (!Explorer.isShown("episode")) return;
      frame.show(player.frames, index * frameSize);
      Explorer.reconstruction("episode", 0, index, showDecoded);
      if (follows()) player.take("follow");
    }

    // The sliders can follow the episode: they show the mu of each frame.
    const follows = () => byId("follow").getAttribute("aria-pressed") === "true";
    byId("follow").addEventListener("click", () => {
      byId("follow").setAttribute("aria-pressed", String(!follows()));
      Explorer.endGesture();
      if (follows()) player.take("follow");
    });

    byId("episode-transport").prepend(Explorer.transport());
    byId("episode-strip").append(Explorer.muStrip(0));
    Explorer.plots(byId("plots"));
    for (const id of ["episode-frame", "episode-decoded", "episode-difference"]) {
      byId(id).closest("button").addEventListener("click", () => player.take());
    }
    player.onFrame(show);
    Explorer.onTab((name) => name === "episode" && player.frames && show(player.index));
  };
})(window);
