/* The status page's own script: shows how far a rebuild is, as the poller hears it. The poller itself replaces a
 * list's article when there is a newer snapshot; without either the page is as it was when it was asked for. */
"use strict";

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

document.addEventListener("warmcache:progress", ({ detail: { name, phase, done, total, eta } }) => {
  const article = document.getElementById(`warmcache-${name}`);
  const doing = article?.querySelector(".doing");
  if (!doing) return;
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
