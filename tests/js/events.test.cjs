/* The poller's events and refreshes. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Node, answer, fresh, hang, open, settle, status } = require("./page.cjs");

const plain = (value) => JSON.parse(JSON.stringify(value)); // objects of the vm have other prototypes

test("a publication causes one ready, one refresh and no more polls", async () => {
  const page = open();
  const calls = [];
  const watcher = page.Warmcache.watch("files", {
    generation: "g1",
    refresh: (newest, self, signal) => void calls.push([newest.generation, self === watcher, signal.aborted]),
  });
  await page.clock.advance(4000);
  page.world = () => fresh("g2");
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 3);
  assert.deepEqual(calls, [["g2", true, false]]);
  assert.deepEqual(page.body.events.map(([type]) => type), ["state", "state", "ready", "refreshed", "state"]);
  assert.deepEqual(plain(page.body.heard("state")), [
    { name: "files", from: "idle", to: "stale" },
    { name: "files", from: "stale", to: "ready" },
    { name: "files", from: "ready", to: "fresh" },
  ]);
  const [ready] = plain(page.body.heard("ready"));
  assert.deepEqual([ready.name, ready.generation, ready.status.state], ["files", "g2", "fresh"]);
  assert.deepEqual(plain(page.body.heard("refreshed")), [
    { name: "files", strategy: "function", generation: "g2" },
  ]);
  assert.deepEqual([watcher.name, watcher.state, watcher.generation], ["files", "fresh", "g2"]);
});

test("events bubble from the element and are not repeated on body", async () => {
  const page = open();
  const element = new Node();
  page.world = () => fresh();
  let bubbles;
  element.addEventListener("warmcache:ready", (event) => (bubbles = event.bubbles));
  page.Warmcache.watch("files", { element });
  await page.clock.advance(2000);
  assert.equal(bubbles, true);
  assert.equal(element.heard("ready").length, 1);
  assert.equal(page.body.events.length, 0);
});

test("a prevented ready cancels the refresh", async () => {
  const page = open();
  page.world = () => fresh();
  let refreshes = 0;
  page.body.addEventListener("warmcache:ready", (event) => event.preventDefault());
  page.Warmcache.watch("files", { refresh: () => (refreshes += 1) });
  await page.clock.advance(60000);
  assert.equal(refreshes, 0);
  assert.equal(page.requests.length, 1);
  assert.equal(page.body.heard("refreshed").length, 0);
});

test("two watchers of one element share a ready event, and both refresh", async () => {
  const page = open();
  page.world = () => fresh();
  const calls = [];
  page.Warmcache.watch("files", { refresh: () => void calls.push("a") });
  page.Warmcache.watch("files", { refresh: () => void calls.push("b") });
  await page.clock.advance(60000);
  assert.equal(page.body.heard("ready").length, 1);
  assert.deepEqual(calls, ["a", "b"]);
});

test("a partial list is refreshed once for each new generation, and once at the end", async () => {
  const page = open();
  const seen = [];
  page.Warmcache.watch("files", { refresh: (newest) => void seen.push([newest.generation, newest.state]) });
  page.world = () => status({ state: "cold", generation: null });
  await page.clock.advance(6000);
  for (const generation of ["p1", "p2"]) {
    page.world = () => status({ state: "partial", generation });
    await page.clock.advance(6000);
  }
  assert.equal(page.body.heard("ready").length, 0);
  page.world = () => fresh("p3");
  await page.clock.advance(60000);
  assert.deepEqual(seen, [["p1", "partial"], ["p2", "partial"], ["p3", "fresh"]]);
  assert.equal(page.body.heard("refreshed").length, 3);
});

test("a partial generation that the page shows is not fetched again", async () => {
  const page = open();
  let refreshes = 0;
  page.world = () => status({ state: "partial", generation: "p1" });
  page.Warmcache.watch("files", { generation: "p1", refresh: () => void (refreshes += 1) });
  await page.clock.advance(20000);
  assert.equal(refreshes, 0);
});

test("two hosts with different partial generations cause no loop", async () => {
  const page = open();
  let refreshes = 0;
  const generations = ["p1", "p2"];
  page.world = () => {
    generations.reverse();
    return status({ state: "partial", generation: generations[0] });
  };
  page.Warmcache.watch("files", { refresh: () => void (refreshes += 1) });
  await page.clock.advance(30000);
  assert.equal(refreshes, 2);
});

test("a stale page is refreshed only after the rebuild", async () => {
  const page = open();
  let refreshes = 0;
  let generation = 1;
  page.world = () => status({ generation: `g${(generation += 1)}` }); // as when refresh(key) publishes
  page.Warmcache.watch("files", { generation: "g1", refresh: () => void (refreshes += 1) });
  await page.clock.advance(20000);
  assert.equal(refreshes, 0);
});

test("a list without a publication is not ready, whatever the flag says", async () => {
  const page = open();
  page.world = () => status({ state: "cold", generation: null, cache_rebuilding: false });
  page.Warmcache.watch("files");
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 5);
  assert.equal(page.body.heard("ready").length, 0);
});

test("a failed rebuild ends the wait with an error and fetches nothing again", async () => {
  const page = open();
  let refreshes = 0;
  page.world = () => fresh("g1", { state: "failed", last_error: "OSError" });
  const watcher = page.Warmcache.watch("files", { generation: "g1", refresh: () => void (refreshes += 1) });
  await page.clock.advance(60000);
  assert.equal(refreshes, 0);
  assert.equal(page.requests.length, 1);
  assert.deepEqual(page.body.events.map(([type]) => type), ["state", "error"]);
  const [error] = page.body.heard("error");
  assert.deepEqual([error.code, error.message, error.fatal], ["rebuild", "OSError", false]);
  assert.equal(watcher.state, "failed");
});

test("an unchanged generation causes no ready and no refresh", async () => {
  const page = open();
  page.world = () => fresh("g1");
  page.Warmcache.watch("files", { generation: "g1", refresh: () => assert.fail("refreshed") });
  await page.clock.advance(60000);
  assert.deepEqual(page.body.events.map(([type]) => type), ["state"]);
  assert.equal(page.clock.timers.size, 0);
});

test("a stale list without a rebuild is not polled", async () => {
  const page = open();
  page.world = () => fresh("g1", { state: "stale" });
  const watcher = page.Warmcache.watch("files", { generation: "g1" });
  await page.clock.advance(60000);
  assert.equal(watcher.state, "idle");
  assert.equal(page.requests.length, 1);
});

test("a failed refresh is retried with back-off, but ready is sent once", async () => {
  const page = open();
  page.world = () => fresh();
  let calls = 0;
  page.Warmcache.watch("files", {
    refresh: () => {
      calls += 1;
      if (calls < 3) throw new Error("cannot draw");
    },
  });
  await page.clock.advance(60000);
  assert.equal(calls, 3);
  assert.deepEqual(page.times(), [2000, 5000, 11000]);
  assert.equal(page.Warmcache.state("files"), "fresh");
  assert.equal(page.body.heard("ready").length, 1);
  assert.equal(page.body.heard("refreshed").length, 1);
  const errors = plain(page.body.heard("error"));
  assert.deepEqual(errors.map((e) => [e.code, e.failures, e.fatal]), [["refresh", 2, false]]);
  assert.equal(page.errors.length, 2); // the console shows each failure
});

test("a refresh that fails five times is abandoned", async () => {
  const page = open();
  page.world = () => fresh();
  let calls = 0;
  page.Warmcache.watch("files", { refresh: () => Promise.reject(new Error(`no ${(calls += 1)}`)) });
  await page.clock.advance(600000);
  assert.equal(calls, 5);
  assert.deepEqual(page.body.heard("error").map((e) => e.fatal), [false, false, false, true]);
  assert.equal(page.clock.timers.size, 0);
});

test("an abandoned refresh does not delay other watchers", async () => {
  const page = open();
  page.world = () => fresh();
  page.Warmcache.watch("files", { refresh: () => Promise.reject(new Error("no")) });
  const second = page.Warmcache.watch("files", { refresh: () => {} });
  await page.clock.advance(600000);
  assert.equal(second.state, "fresh");
  assert.equal(page.clock.timers.size, 0);
  assert.equal(page.body.heard("ready").length, 1);
});

test("a slow partial refresh is not started twice, and delays the last one", async () => {
  const page = open();
  const started = [];
  const finish = [];
  page.world = () => status({ state: "partial", generation: "p1" });
  page.Warmcache.watch("files", {
    generation: "g1",
    refresh: (newest) => {
      started.push(newest.generation);
      return new Promise((resolve) => finish.push(resolve));
    },
  });
  await page.clock.advance(8000);
  page.world = () => fresh("g2");
  await page.clock.advance(8000);
  assert.deepEqual(started, ["p1"]);
  finish.pop()();
  await page.clock.advance(2000);
  assert.deepEqual(started, ["p1", "g2"]);
  finish.pop()();
  await page.clock.advance(60000);
  assert.equal(page.clock.timers.size, 0);
});

test("a slow last refresh causes no polls and no second ready", async () => {
  const page = open();
  page.world = () => fresh("g2");
  page.Warmcache.watch("files", { refresh: () => new Promise((resolve) => page.clock.setTimeout(resolve, 30000)) });
  page.Warmcache.watch("files", { refresh: () => {} });
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 1);
  assert.equal(page.body.heard("ready").length, 1);
  assert.equal(page.body.heard("refreshed").length, 2);
});

test("a refresh that is stopped while it runs reports nothing", async () => {
  const page = open();
  page.world = () => fresh();
  let received;
  let finish;
  const watcher = page.Warmcache.watch("files", {
    refresh: (_status, _watcher, signal) => {
      received = signal;
      return new Promise((resolve) => (finish = resolve));
    },
  });
  await page.clock.advance(2000);
  watcher.stop();
  assert.equal(received.aborted, true);
  finish();
  await page.clock.advance(60000);
  assert.equal(page.body.heard("refreshed").length, 0);
});

test("invalid values are removed from progress events", async () => {
  const page = open();
  const steps = [
    { phase: "source", done: 0, total: null, rate: null, eta_seconds: null },
    { phase: "enrich", done: 25, total: 100, rate: 5, eta_seconds: 1 },
    { phase: "enrich", done: 150, total: 100, rate: 5, eta_seconds: -3 },
    { phase: "enrich", done: -1, total: 100, rate: 5, eta_seconds: "x" },
    { phase: "enrich", done: 3, total: 0 },
    null,
  ];
  page.world = () => status({ progress: steps.shift() });
  page.Warmcache.watch("files");
  await page.clock.advance(12000);
  assert.deepEqual(
    plain(page.body.heard("progress")).map((p) => [p.name, p.phase, p.done, p.total, p.ratio, p.eta]),
    [
      ["files", "source", 0, null, null, null],
      ["files", "enrich", 25, 100, 0.25, 1],
      ["files", "enrich", 150, 100, 1, null],
      ["files", "enrich", -1, 100, null, null],
      ["files", "enrich", 3, 0, null, null],
    ],
  );
});

test("a watcher without a name throws", () => {
  const { Warmcache } = open();
  for (const name of [undefined, null, "", 7]) assert.throws(() => Warmcache.watch(name), /list's name/);
});

test("a name is escaped in the URL", async () => {
  const page = open();
  page.Warmcache.watch("a/b ?");
  await page.clock.advance(2000);
  assert.equal(page.requests[0].url, "/api/cache/stats/a%2Fb%20%3F");
});

/* ---- the script tag and configure() ---- */

test("attributes of the script tag are settings", async () => {
  const page = open({ attributes: { statusUrl: "/warm", interval: "500" } });
  page.Warmcache.watch("files");
  await page.clock.advance(500);
  assert.equal(page.requests[0].url, "/warm/files");
  assert.equal(page.warnings.length, 0);
});

test("an invalid attribute causes one warning and keeps the default", async () => {
  for (const value of ["2s", "", "0", "-5", "2", "NaN", "Infinity", "1e9", "99999999999"]) {
    const page = open({ attributes: { interval: value } });
    assert.equal(page.warnings.length, 1, value);
    assert.match(page.warnings[0], /interval cannot be/);
    page.Warmcache.watch("files");
    await page.clock.advance(2000);
    assert.equal(page.requests.length, 1, value);
  }
});

test("configure() sets options and refuses unknown ones", async () => {
  const page = open();
  page.Warmcache.configure({ statusUrl: "/s", interval: 1000 });
  page.Warmcache.watch("files");
  await page.clock.advance(1000);
  assert.equal(page.requests[0].url, "/s/files");
  assert.throws(() => page.Warmcache.configure({ intervall: 1 }), /no option intervall/);
});

test("every option accepts valid values and refuses others", () => {
  const cases = {
    jitter: [["0", "0.5"], ["1", "15", "-0.1", ".", "x"]],
    spread: [["0", "5000"], ["-1", "x", ""]],
    watch: [["0", "5000"], ["5", "-1", ""]],
    maxWait: [["60000"], ["0", "60"]],
    hidden: [["pause", "slow", "keep"], ["", "puase"]],
    share: [["true", "false", true, false], ["", "1", "no"]],
    auto: [["false"], [0]],
    statusUrl: [["/warm"], [""]],
    refresh: [["event", () => false], [""]],
    timeout: [[500, "500"], ["50"]],
  };
  for (const [name, [good, bad]] of Object.entries(cases)) {
    const page = open();
    for (const value of good) page.Warmcache.configure({ [name]: value });
    assert.deepEqual(page.warnings, [], name);
    for (const value of bad) page.Warmcache.configure({ [name]: value });
    assert.equal(page.warnings.length, bad.length, `${name}: ${page.warnings}`);
  }
});

test("a second copy of the script does not replace the first", () => {
  const before = { version: "0.0.9" };
  const page = open({ before });
  assert.equal(page.Warmcache, before);
});

test("an element with the id Warmcache is not mistaken for the script", () => {
  const page = open({ before: new Node({ id: "Warmcache" }) });
  assert.equal(page.Warmcache.version, "0.1.0");
});

test("require() returns the same object in Node without a document", () => {
  const { FILE } = require("./page.cjs");
  const Warmcache = require(FILE);
  assert.deepEqual(Object.keys(Warmcache), [
    "version", "env", "strategies", "configure", "watch", "ready", "json", "inspect", "scan", "state",
  ]);
  delete globalThis.Warmcache;
});
