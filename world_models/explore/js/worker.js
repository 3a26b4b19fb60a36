// The thread that computes the networks. The page's own thread does not run this file: engine.js starts a worker with
// the text of networks.js and of this file.
"use strict";
(function (scope) {
  if (typeof scope.document !== "undefined") return;

  const models = [];

  // Each request has an id, which comes back with the answer.
  scope.onmessage = ({ data: { id, task, model, values, label, description } }) => {
    try {
      if (task === "load") {
        models[model] = scope.Explorer.makeModel(description, values);
        scope.postMessage({ id });
      } else {
        scope.postMessage({ id, answer: models[model][task](values, label) });
      }
    } catch (error) {
      scope.postMessage({ id, failure: String(error) });
    }
  };
})(self);
