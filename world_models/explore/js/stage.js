// The decoded frame, large, with the buttons that set the whole of z, and z as bars.
"use strict";
(function (scope) {
  const Explorer = (scope.Explorer = scope.Explorer || {});
  const { contents, byId, state, element } = Explorer;
  const model = contents.models[0];
  const LARGEST = 4; // standard deviations that the bars show

  let picture = null;

  function decode() {
    Explorer.decode("stage", Explorer.URGENCY.stage, state.z, (pixels) => picture.show(pixels));
  }

  // A random number of the standard normal distribution (Box and Muller).
  function normal() {
    return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }

  // A plain autoencoder has no prior; its z is drawn with the mean and the spread of the data.
  const hasPrior = model.posterior !== "point";

  Explorer.sample = function () {
    const temperature = Number(byId("temperature").value);
    const z = state.z.map((_, dim) => {
      const drawn = temperature * normal();
      return hasPrior ? drawn : Explorer.fromDeviations(dim, drawn);
    });
    const what = hasPrior ? "A sample of the prior" : "A random z";
    Explorer.change(z, `${what}, temperature ${temperature.toFixed(2)}`);
  };

  function showTemperature() {
    const temperature = Number(byId("temperature").value);
    byId("temperature-value").textContent = temperature.toFixed(2);
    Explorer.fillTrack(byId("temperature"), temperature / 2);
  }

  Explorer.zero = () => Explorer.change(model.z_mean, "The mean of the data");

  function showHistory() {
    byId("undo").disabled = !Explorer.canUndo();
    byId("redo").disabled = !Explorer.canRedo();
    byId("origin").textContent = state.origin;
    Explorer.say(state.origin);
  }

  // z as one bar for each dimension, those with the highest KL first.
  function drawBars() {
    const { colours } = Explorer;
    const { context, width, height } = Explorer.sharp(byId("bars"));
    const step = width / model.z_dim;
    const middle = height / 2;
    context.fillStyle = colours.line;
    context.fillRect(0, middle - 0.5, width, 1);
    model.order.forEach((dim, i) => {
      const value = Explorer.deviations(dim, state.z[dim]);
      const length = (Math.min(Math.abs(value), LARGEST) / LARGEST) * middle;
      context.fillStyle = value < 0 ? colours.negative : colours.positive;
      context.globalAlpha = model.used[dim] ? 1 : 0.35;
      const wide = Math.min(step * 0.7, 24);
      context.fillRect((i + 0.5) * step - wide / 2, value < 0 ? middle : middle - length, wide, length);
    });
    context.globalAlpha = 1;
  }

  // The digits that a conditional model can be asked for.
  function makeLabels() {
    if (!model.num_classes) return;
    const { labels } = contents.digits;
    const group = byId("labels");
    group.hidden = false;
    labels.slice(0, model.num_classes).forEach((text, label) => {
      const ask = () => Explorer.change(state.z, `The digit ${text} asked for`, { label });
      group.append(element("button", { type: "button", "aria-pressed": "false", click: ask }, text));
    });
    Explorer.onChange(showLabel);
    showLabel();
  }

  function showLabel() {
    [...byId("labels").querySelectorAll("button")].forEach((button, label) => {
      button.setAttribute("aria-pressed", String(label === state.label));
    });
  }

  Explorer.startStage = function () {
    picture = Explorer.picture(byId("decoded"));
    byId("zero").addEventListener("click", Explorer.zero);
    byId("sample").addEventListener("click", Explorer.sample);
    byId("undo").addEventListener("click", Explorer.undo);
    byId("redo").addEventListener("click", Explorer.redo);
    byId("sample").title = hasPrior ? "z from the prior N(0, 1)" : "z with the data\u2019s mean and spread";
    byId("temperature").addEventListener("input", showTemperature);
    showTemperature();
    makeLabels();
    Explorer.onChange(decode);
    Explorer.onChange(showHistory);
    Explorer.onChange(drawBars);
    Explorer.onResize(byId("bars"), drawBars);
    decode();
    showHistory();
  };
})(window);
