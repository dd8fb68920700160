/* A thousand pages that all wait for the same list: what the server hears of them. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { fresh, open, status } = require("./page.cjs");

const PAGES = 1000;
const PUBLISHED = 60000; // ms after the first page was opened
const INTERVAL = 2000;

/** Pseudo-random numbers that a seed repeats. */
function dice(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** How many of the times fall into the busiest stretch of so many ms. */
function busiest(times, stretch) {
  const sorted = [...times].sort((a, b) => a - b);
  let [most, first] = [0, 0];
  sorted.forEach((at, last) => {
    while (sorted[first] <= at - stretch) first += 1;
    most = Math.max(most, last - first + 1);
  });
  return most;
}

/** One page after the other, each with a clock of its own; all are opened in the same instant, as by a reload. */
async function crowd(said) {
  const polls = [];
  const loads = [];
  for (let seed = 1; seed <= PAGES; seed += 1) {
    const page = open({ random: dice(seed), attributes: { spread: "1000" } });
    page.world = () => (page.clock.now < PUBLISHED ? status(said) : fresh());
    page.Warmcache.watch("files", { refresh: () => void loads.push(page.clock.now) });
    await page.clock.advance(PUBLISHED + 30000);
    polls.push(...page.times());
    assert.deepEqual([page.warnings, page.errors], [[], []]);
  }
  return { polls, loads };
}

test("a thousand pages ask no more often than planned, and refresh once each, not all at once", async () => {
  const { polls, loads } = await crowd({});
  const waiting = polls.filter((at) => at < PUBLISHED).length;
  const [early, late] = [busiest(polls, 1000), busiest(polls.filter((at) => at > 30000), 1000)];
  console.log(`${polls.length} polls of ${PAGES} pages in ${PUBLISHED / 1000} s, at most ${early} in a second, ` +
    `${late} after 30 s; ${loads.length} refreshes, at most ${busiest(loads, 1000)} in a second`);
  assert.ok(waiting <= (1.02 * PAGES * PUBLISHED) / INTERVAL, `${waiting} polls while they waited`);
  // Opened in one instant, they come within the jitter's 0.6 s at first, and ever more spread out later.
  assert.ok(early <= PAGES);
  assert.ok(late <= 0.8 * PAGES);
  assert.equal(loads.length, PAGES);
  assert.ok(busiest(loads, 1000) <= 0.6 * PAGES);
  assert.ok(polls.every((at) => at < PUBLISHED + 1.15 * INTERVAL), "polls go on after the list is fresh");
});

test("a server that names a longer pause is asked that seldom by all of them", async () => {
  const { polls } = await crowd({ poll_after_ms: 10000 });
  console.log(`${polls.length} polls with a pause of 10 s`);
  assert.ok(polls.length <= 1.1 * PAGES * (1 + PUBLISHED / 10000 + 1), `${polls.length} polls`);
});
