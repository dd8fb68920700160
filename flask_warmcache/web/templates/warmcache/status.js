/* The script of the status page. It shows each list's state and the progress of rebuilds, as the poller reports them.
 * The poller itself replaces a list's article when there is a newer snapshot. Without scripts the page does not change. */
"use strict";

const { states, phases, troubles } = JSON.parse(document.querySelector("main").dataset.words);

function left(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

const troubled = new Map(); // the lists that are not updated, and why

function showTrouble(name, trouble) {
  troubled.delete(name);
  if (troubles[trouble]) troubled.set(name, trouble);
  const [first] = troubled.values();
  document.getElementById("trouble").textContent = troubles[first] || "";
}

/** Return a part of the article of an event's list. */
function part(event, selector) {
  return document.getElementById(`warmcache-${event.detail.name}`)?.querySelector(selector);
}

document.addEventListener("warmcache:state", (event) => {
  const line = part(event, ".state");
  const { name, to } = event.detail;
  showTrouble(name, to);
  if (!line || !states[to]) return; // a state of the poller only, such as offline
  line.dataset.state = to;
  line.querySelector("strong").textContent = to;
  line.querySelector("span").textContent = states[to];
});

document.addEventListener("warmcache:blocked", (event) => showTrouble(event.detail.name, "blocked"));

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
