/* The status page's own script: shows what the poller hears of a list's state and of a rebuild. The poller itself
 * replaces a list's article when there is a newer snapshot; without either the page is as it was asked for. */
"use strict";

const meanings = {
  cold: "nothing to show yet",
  partial: "being built for the first time; what is there is shown",
  fresh: "up to date",
  stale: "older than it should be; still shown",
  failed: "the last rebuild failed",
};
const phases = {
  import: "Starting a process",
  source: "Looking for what there is",
  enrich: "Reading",
  views: "Putting in order",
  publish: "Publishing",
};

function left(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

/** A part of the article of the list that an event is about. */
function part(event, selector) {
  return document.getElementById(`warmcache-${event.detail.name}`)?.querySelector(selector);
}

document.addEventListener("warmcache:state", (event) => {
  const line = part(event, ".state");
  const { to } = event.detail;
  if (!line || !meanings[to]) return; // what is only the poller's, such as offline
  line.dataset.state = to;
  line.querySelector("strong").textContent = to;
  line.querySelector("span").textContent = meanings[to];
});

document.addEventListener("warmcache:progress", (event) => {
  const doing = part(event, ".doing");
  if (!doing) return;
  const { phase, done, total, eta } = event.detail;
  const bar = doing.querySelector("progress");
  const number = (value) => value.toLocaleString("en");
  let text = phases[phase] || "Rebuilding";
  if (total) {
    bar.max = total;
    bar.value = done;
    text += `: ${number(done)} of ${number(total)}`;
  } else {
    bar.removeAttribute("value");
    if (done) text += `: ${number(done)}`;
  }
  if (eta >= 1) text += `, about ${left(eta)} left`;
  doing.querySelector("p").textContent = text;
  doing.hidden = false;
});
