/* What the poller says, and what it refreshes. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Node, answer, fresh, hang, open, settle, status } = require("./page.cjs");

const plain = (value) => JSON.parse(JSON.stringify(value)); // the vm has prototypes of its own

test("ready, then one refresh, then silence", async () => {
  const page = open();
  const calls = [];
  const watcher = page.Warmcache.watch("files", {
    generation: "g1",
    refresh: (given, self, signal) => void calls.push([given.generation, self === watcher, signal.aborted]),
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

test("events bubble from the element; body hears nothing of its own", async () => {
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

test("two callers with the same target: one ready, both refreshed", async () => {
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
  page.Warmcache.watch("files", { refresh: (given) => void seen.push([given.generation, given.state]) });
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

test("the generation that the page has is not fetched again while it is partial", async () => {
  const page = open();
  let refreshes = 0;
  page.world = () => status({ state: "partial", generation: "p1" });
  page.Warmcache.watch("files", { generation: "p1", refresh: () => void (refreshes += 1) });
  await page.clock.advance(20000);
  assert.equal(refreshes, 0);
});

test("two hosts that disagree about a partial list do not make a loop", async () => {
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

test("a stale page is left in peace until the end", async () => {
  const page = open();
  let refreshes = 0;
  let generation = 1;
  page.world = () => status({ generation: `g${(generation += 1)}` }); // refresh(key) publishes, too
  page.Warmcache.watch("files", { generation: "g1", refresh: () => void (refreshes += 1) });
  await page.clock.advance(20000);
  assert.equal(refreshes, 0);
});

test("with nothing published it is not ready, whatever the flag says", async () => {
  const page = open();
  page.world = () => status({ state: "cold", generation: null, cache_rebuilding: false });
  page.Warmcache.watch("files");
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 5);
  assert.equal(page.body.heard("ready").length, 0);
});

test("a rebuild that failed is an end, told as an error; what is shown already is not fetched again", async () => {
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

test("the same generation is no news: no ready, no refresh", async () => {
  const page = open();
  page.world = () => fresh("g1");
  page.Warmcache.watch("files", { generation: "g1", refresh: () => assert.fail("refreshed") });
  await page.clock.advance(60000);
  assert.deepEqual(page.body.events.map(([type]) => type), ["state"]);
  assert.equal(page.clock.timers.size, 0);
});

test("a list that is stale and not being rebuilt is at rest", async () => {
  const page = open();
  page.world = () => fresh("g1", { state: "stale" });
  const watcher = page.Warmcache.watch("files", { generation: "g1" });
  await page.clock.advance(60000);
  assert.equal(watcher.state, "idle");
  assert.equal(page.requests.length, 1);
});

test("a failed refresh is tried again, with back-off; ready is said once", async () => {
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
  assert.equal(page.errors.length, 2); // the developer sees each one in the console
});

test("a refresh that fails five times is given up", async () => {
  const page = open();
  page.world = () => fresh();
  let calls = 0;
  page.Warmcache.watch("files", { refresh: () => Promise.reject(new Error(`no ${(calls += 1)}`)) });
  await page.clock.advance(600000);
  assert.equal(calls, 5);
  assert.deepEqual(page.body.heard("error").map((e) => e.fatal), [false, false, false, true]);
  assert.equal(page.clock.timers.size, 0);
});

test("one whose refresh is given up does not keep the others waiting", async () => {
  const page = open();
  page.world = () => fresh();
  page.Warmcache.watch("files", { refresh: () => Promise.reject(new Error("no")) });
  const second = page.Warmcache.watch("files", { refresh: () => {} });
  await page.clock.advance(600000);
  assert.equal(second.state, "fresh");
  assert.equal(page.clock.timers.size, 0);
  assert.equal(page.body.heard("ready").length, 1);
});

test("a slow refresh of a partial list is not started twice, and the end waits for it", async () => {
  const page = open();
  const started = [];
  const finish = [];
  page.world = () => status({ state: "partial", generation: "p1" });
  page.Warmcache.watch("files", {
    generation: "g1",
    refresh: (given) => {
      started.push(given.generation);
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

test("a slow last refresh is waited for without a poll or a second ready", async () => {
  const page = open();
  page.world = () => fresh("g2");
  page.Warmcache.watch("files", { refresh: () => new Promise((resolve) => page.clock.setTimeout(resolve, 30000)) });
  page.Warmcache.watch("files", { refresh: () => {} });
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 1);
  assert.equal(page.body.heard("ready").length, 1);
  assert.equal(page.body.heard("refreshed").length, 2);
});

test("a refresh that is under way when stop is called reports nothing", async () => {
  const page = open();
  page.world = () => fresh();
  let given;
  let finish;
  const watcher = page.Warmcache.watch("files", {
    refresh: (_status, _watcher, signal) => {
      given = signal; 
      return new Promise((resolve) => (finish = resolve));
    },
  });
  await page.clock.advance(2000);
  watcher.stop();
  assert.equal(given.aborted, true);
  finish();
  await page.clock.advance(60000);
  assert.equal(page.body.heard("refreshed").length, 0);
});

test("progress is told, with nonsense taken out", async () => {
  const page = open();
  const given = [
    { phase: "source", done: 0, total: null, rate: null, eta_seconds: null },
    { phase: "enrich", done: 25, total: 100, rate: 5, eta_seconds: 1 },
    { phase: "enrich", done: 150, total: 100, rate: 5, eta_seconds: -3 },
    { phase: "enrich", done: -1, total: 100, rate: 5, eta_seconds: "x" },
    { phase: "enrich", done: 3, total: 0 },
    null,
  ];
  page.world = () => status({ progress: given.shift() });
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

test("a name is needed", () => {
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

test("the script tag's attributes are read", async () => {
  const page = open({ attributes: { statusUrl: "/warm", interval: "500" } });
  page.Warmcache.watch("files");
  await page.clock.advance(500);
  assert.equal(page.requests[0].url, "/warm/files");
  assert.equal(page.warnings.length, 0);
});

test("a value that cannot be read falls back and is warned about once", async () => {
  for (const value of ["2s", "", "0", "-5", "2", "NaN", "Infinity", "1e9", "99999999999"]) {
    const page = open({ attributes: { interval: value } });
    assert.equal(page.warnings.length, 1, value);
    assert.match(page.warnings[0], /interval cannot be/);
    page.Warmcache.watch("files");
    await page.clock.advance(2000);
    assert.equal(page.requests.length, 1, value);
  }
});

test("configure() sets options and refuses those it does not know", async () => {
  const page = open();
  page.Warmcache.configure({ statusUrl: "/s", interval: 1000 });
  page.Warmcache.watch("files");
  await page.clock.advance(1000);
  assert.equal(page.requests[0].url, "/s/files");
  assert.throws(() => page.Warmcache.configure({ intervall: 1 }), /no option intervall/);
});

test("every option has values that it takes and values that it refuses", () => {
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

test("a second copy of the script leaves the first one alone", () => {
  const before = { version: "0.0.9" };
  const page = open({ before });
  assert.equal(page.Warmcache, before);
});

test("an element with the id Warmcache is not taken for the script", () => {
  const page = open({ before: new Node({ id: "Warmcache" }) });
  assert.equal(page.Warmcache.version, "0.1.0");
});

test("require() gives the same object, in a Node without a document", () => {
  const { FILE } = require("./page.cjs");
  const Warmcache = require(FILE);
  assert.deepEqual(Object.keys(Warmcache), [
    "version", "env", "strategies", "configure", "watch", "ready", "json", "inspect", "scan", "state",
  ]);
  delete globalThis.Warmcache;
});
