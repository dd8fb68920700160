/* Many pages wait for the same list: count their requests. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { fresh, open, status } = require("./page.cjs");

const PAGES = Number(process.env.PAGES);
const PUBLISHED = 60000; // ms after the first page was opened
const INTERVAL = 2000;

/** Return a generator of pseudo-random numbers that depend on the seed only. */
function dice(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Count the times in the busiest stretch of so many ms. */
function busiest(times, stretch) {
  const sorted = [...times].sort((a, b) => a - b);
  let [most, first] = [0, 0];
  sorted.forEach((at, last) => {
    while (sorted[first] <= at - stretch) first += 1;
    most = Math.max(most, last - first + 1);
  });
  return most;
}

/** Run the pages one after the other, each with its own clock that starts at 0, as if all were reloaded at once. */
async function crowd(more) {
  const polls = [];
  const loads = [];
  for (let seed = 1; seed <= PAGES; seed += 1) {
    const page = open({ random: dice(seed), attributes: { spread: "1000" } });
    page.world = () => (page.clock.now < PUBLISHED ? status(more) : fresh());
    page.Warmcache.watch("files", { refresh: () => void loads.push(page.clock.now) });
    await page.clock.advance(PUBLISHED + 30000);
    polls.push(...page.times());
    assert.deepEqual([page.warnings, page.errors], [[], []]);
  }
  return { polls, loads };
}

test("many pages poll within the planned rate and refresh once each, spread out", async () => {
  const { polls, loads } = await crowd({});
  const waiting = polls.filter((at) => at < PUBLISHED).length;
  const [early, late] = [busiest(polls, 1000), busiest(polls.filter((at) => at > 30000), 1000)];
  console.log(`${polls.length} polls of ${PAGES} pages in ${PUBLISHED / 1000} s, at most ${early} in a second, ` +
    `${late} after 30 s; ${loads.length} refreshes, at most ${busiest(loads, 1000)} in a second`);
  assert.ok(waiting <= (1.02 * PAGES * PUBLISHED) / INTERVAL, `${waiting} polls while they waited`);
  // The pages are opened in the same instant, so jitter first spreads them over 0.6 s, and later over more.
  assert.ok(early <= PAGES);
  assert.ok(late <= 0.8 * PAGES);
  assert.equal(loads.length, PAGES);
  assert.ok(busiest(loads, 1000) <= 0.6 * PAGES);
  assert.ok(polls.every((at) => at < PUBLISHED + 1.15 * INTERVAL), "polls continue after the list is fresh");
});

test("every page obeys a longer pause from the server", async () => {
  const { polls } = await crowd({ poll_after_ms: 10000 });
  console.log(`${polls.length} polls with a pause of 10 s`);
  assert.ok(polls.length <= 1.1 * PAGES * (1 + PUBLISHED / 10000 + 1), `${polls.length} polls`);
});
