/* Long waits, other tabs, lost networks, hidden tabs, and pages from the back/forward cache. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Node, answer, fresh, hang, open, status } = require("./page.cjs");

const gaps = (page) => page.times().map((at, i, all) => (i ? at - all[i - 1] : at));
const types = (target) => target.events.map(([type]) => type);

/* ---- intervals ---- */

test("a page that shows progress asks at least once in each interval, however long it takes", async () => {
  for (const eta of [0, 20, 3600, null]) {
    for (const [random, gap] of [[0.5, 2000 / 1.15], [1, 2000]]) {
      const page = open({ random });
      page.world = () => status({ progress: { phase: "enrich", done: 1, total: 9, rate: 1, eta_seconds: eta } });
      page.Warmcache.watch("files");
      await page.clock.advance(300000);
      assert.ok(gaps(page).slice(1).every((one) => Math.abs(one - gap) < 1), `${eta} ${random} ${gaps(page)[1]}`);
    }
  }
});

test("poll_after_ms sets the pause, and invalid values are ignored", async () => {
  for (const [wish, gap] of [[500, 500], [20000, 20000], [1, 250], [1e12, 300000], [0, 2000], [-1, 2000], ["x", 2000], [null, 2000]]) {
    const page = open();
    page.world = () => status({ poll_after_ms: wish });
    page.Warmcache.watch("files");
    await page.clock.advance(303000);
    assert.equal(gaps(page)[1], gap, String(wish));
  }
});

test("the refresh is spread over a second, or over a longer spread_ms", async () => {
  for (const [spread, more, at] of [["1000", {}, 2500], ["0", {}, 2000], ["1000", { spread_ms: 4000 }, 4000], ["1000", { spread_ms: 10 }, 2500]]) {
    const page = open({ attributes: { spread } });
    page.world = () => fresh("g2", more);
    let refreshed;
    page.Warmcache.watch("files", { refresh: () => void (refreshed = page.clock.now) });
    await page.clock.advance(10000);
    assert.equal(refreshed, at);
  }
});

test("ten minutes of waiting cause one stalled event", async () => {
  const page = open();
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(3600000);
  assert.equal(watcher.state, "stalled");
  assert.equal(page.body.heard("stalled").length, 1);
  assert.ok(page.body.heard("stalled")[0].waited >= 600000);
  assert.equal(page.clock.timers.size, 0);
  const asked = page.requests.length;
  page.show("hidden");
  page.show("visible");
  await page.clock.advance(10000);
  assert.equal(page.requests.length, asked);
  watcher.resume();
  await page.clock.advance(10000);
  assert.ok(page.requests.length > asked + 1);
  assert.equal(watcher.state, "stale");
});

test("hidden time does not count as waiting", async () => {
  const page = open({ attributes: { maxWait: "60000" } });
  const watcher = page.Warmcache.watch("files");
  for (let i = 0; i < 10; i += 1) {
    await page.clock.advance(5000);
    page.show("hidden");
    await page.clock.advance(3600000);
    page.show("visible");
  }
  assert.equal(watcher.state, "stale");
});

test("hours in the background do not stall a slow hidden tab", async () => {
  const page = open({ attributes: { hidden: "slow" } });
  const watcher = page.Warmcache.watch("files");
  page.show("hidden");
  await page.clock.advance(7200000);
  assert.equal(watcher.state, "stale");
});

test("only a publication in another tab wakes a stalled page", async () => {
  const tabs = [];
  const page = open({ tabs, attributes: { maxWait: "5000" } });
  page.Warmcache.watch("files", { refresh: () => {} });
  await page.clock.advance(10000);
  const other = open({ tabs, clock: page.clock });
  other.Warmcache.watch("files");
  await page.clock.advance(10000);
  assert.equal(page.Warmcache.state("files"), "stalled");
  assert.equal(page.body.heard("stalled").length, 1);
  other.world = () => fresh("g2");
  await page.clock.advance(10000);
  assert.equal(page.Warmcache.state("files"), "fresh");
});

test("watch: the next refresh replaces one that was blocked", async () => {
  const page = open({ attributes: { watch: "30000" } });
  let isBlocked = true;
  page.world = () => fresh("g2");
  page.Warmcache.strategies.mine = (...args) => !isBlocked || page.Warmcache.strategies.prompt(...args);
  page.Warmcache.watch("files", { refresh: "mine" });
  await page.clock.advance(10000);
  assert.equal(page.Warmcache.state("files"), "ready");
  isBlocked = false;
  page.world = () => fresh("g3");
  await page.clock.advance(60000);
  assert.equal(page.Warmcache.state("files"), "fresh");
});

test("watch: a success resets the count of failures", async () => {
  const page = open({ attributes: { watch: "30000" } });
  let left = 0;
  let done = 0;
  page.Warmcache.watch("files", {
    refresh: () => {
      if ((left -= 1) >= 0) throw new Error("cannot draw");
      done += 1;
    },
  });
  for (const generation of ["g2", "g3", "g4"]) {
    left = 3;
    page.world = () => fresh(generation);
    await page.clock.advance(120000);
  }
  assert.equal(done, 3);
});

test("a second watcher wakes a stalled list", async () => {
  const page = open();
  page.Warmcache.watch("files");
  await page.clock.advance(3600000);
  const second = page.Warmcache.watch("files");
  await page.clock.advance(10000);
  assert.equal(second.state, "stale");
});

test("watch: a fresh page keeps polling and is refreshed for each generation", async () => {
  const element = new Node({ dataset: { warmcache: "files", warmcacheState: "fresh", warmcacheGeneration: "g1", warmcacheRefresh: "mine" } });
  const page = open({ regions: [element], attributes: { watch: "30000", auto: "false" } });
  const seen = [];
  page.Warmcache.strategies.mine = (newest) => void seen.push(newest.generation);
  page.world = () => fresh("g1");
  page.Warmcache.scan();
  await page.clock.advance(61000);
  assert.ok(page.requests.length <= 3, String(page.requests.length));
  page.world = () => fresh("g2");
  await page.clock.advance(60000);
  page.world = () => fresh("g3");
  await page.clock.advance(3600000);
  assert.deepEqual(seen, ["g2", "g3"]);
  assert.equal(element.heard("stalled").length, 0);
  assert.deepEqual(element.heard("refreshed").map((detail) => detail.strategy), ["mine", "mine"]);
});

test("watch: a new watcher does not wait for the slow interval", async () => {
  const page = open({ attributes: { watch: "60000" } });
  page.world = () => fresh("g1");
  page.Warmcache.watch("files");
  await page.clock.advance(4000);
  const promise = page.Warmcache.ready("files");
  await page.clock.advance(2000);
  assert.equal((await promise).generation, "g1");
  await page.clock.advance(120000);
  assert.ok(page.requests.length <= 5, String(page.requests.length));
});

/* ---- workers with different generations ---- */

test("a replaced generation from another worker is ignored", async () => {
  const page = open();
  const watcher = page.Warmcache.watch("files", { generation: "g1", refresh: () => {} });
  page.world = () => status({ generation: "g1" });
  await page.clock.advance(2000);
  page.world = () => status({ generation: "g2" }); // as after refresh(key)
  await page.clock.advance(2000);
  page.world = () => fresh("g1"); // from a worker that has not seen it
  await page.clock.advance(10000);
  assert.deepEqual([watcher.state, watcher.generation], ["stale", "g2"]);
  page.world = () => fresh("g3");
  await page.clock.advance(2000);
  assert.deepEqual([watcher.state, watcher.generation], ["fresh", "g3"]);
});

test("a refresh after a publication happens whatever is polled before it", async () => {
  const tabs = [];
  const page = open({ tabs, attributes: { spread: "2000" } });
  let refreshes = 0;
  page.Warmcache.watch("files", { generation: "g1", refresh: () => void (refreshes += 1) });
  page.world = () => fresh("g2");
  await page.clock.advance(2000);
  page.world = () => status({ generation: "g1" });
  const other = open({ tabs, clock: page.clock, random: 0, attributes: { interval: "500" } });
  other.world = page.world;
  other.Warmcache.watch("files");
  await page.clock.advance(60000);
  assert.equal(refreshes, 1);
});

/* ---- several tabs ---- */

test("ten tabs share their answers and poll hardly more than one", async () => {
  const tabs = [];
  const first = open({ tabs, random: 0.1 });
  const pages = [first];
  for (let i = 1; i < 10; i += 1) pages.push(open({ tabs, clock: first.clock, random: 0.1 * i }));
  for (const page of pages) page.Warmcache.watch("files", { refresh: () => {} });
  await first.clock.advance(60000);
  const asked = pages.flatMap((page) => page.times()).length;
  assert.ok(asked >= 25 && asked <= 45, String(asked));
  for (const page of pages) {
    page.world = () => fresh("g2");
    assert.equal(page.Warmcache.state("files"), "stale");
  }
  await first.clock.advance(10000);
  for (const page of pages) assert.equal(page.body.heard("refreshed").length, 1);
});

test("a shared answer aborts the tab's own request", async () => {
  const tabs = [];
  const page = open({ tabs });
  page.world = hang;
  page.Warmcache.watch("files");
  await page.clock.advance(2000);
  const other = open({ tabs, clock: page.clock, attributes: { interval: "500" } });
  other.Warmcache.watch("files");
  await page.clock.advance(500);
  assert.equal(page.requests[0].signal.aborted, true);
  assert.equal(page.Warmcache.state("files"), "stale");
});

test("answers of other tabs do not affect a page that waits for nothing", async () => {
  const tabs = [];
  const page = open({ tabs });
  const watcher = page.Warmcache.watch("files");
  watcher.stop();
  const other = open({ tabs, clock: page.clock });
  other.Warmcache.watch("files");
  await page.clock.advance(5000);
  assert.equal(page.Warmcache.state("files"), "idle");
});

test("share=false opens no channel, and each status URL has its own", async () => {
  assert.equal(open({ attributes: { share: "false" } }).channels.length, 0);
  const tabs = [];
  const page = open({ tabs, attributes: { statusUrl: "/a" } });
  page.Warmcache.watch("files");
  const other = open({ tabs, clock: page.clock, attributes: { statusUrl: "/b", interval: "500" } });
  other.Warmcache.watch("files");
  await page.clock.advance(1900);
  assert.equal(page.Warmcache.state("files"), "idle");
  assert.equal(tabs.length, 2);
});

test("a fresh page opens no channel, and pagehide closes it", async () => {
  const page = open();
  assert.equal(page.channels.length, 0);
  page.Warmcache.watch("files");
  assert.equal(page.channels.length, 1);
  page.leave();
  assert.equal(page.channels.length, 0);
  page.comeBack();
  assert.equal(page.channels.length, 1);
});

test("pagehide aborts the request, and a page from the back/forward cache polls at once", async () => {
  const page = open({ random: 1 });
  page.world = hang;
  page.Warmcache.watch("files");
  await page.clock.advance(2300);
  page.leave();
  assert.equal(page.requests[0].signal.aborted, true);
  await page.clock.advance(100);
  assert.equal(page.clock.timers.size, 0);
  page.comeBack();
  await page.clock.advance(250);
  assert.equal(page.requests.length, 2);
});

/* ---- the network ---- */

test("offline: the request is aborted, the state is sent, and a probe is made once a minute", async () => {
  const page = open();
  page.world = hang;
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(2000);
  page.go("offline");
  assert.equal(page.requests[0].signal.aborted, true);
  assert.equal(watcher.state, "offline");
  page.world = () => new TypeError("no network");
  await page.clock.advance(240000);
  assert.equal(page.requests.length, 5);
  assert.equal(watcher.state, "offline");
});

test("offline: a successful probe ends it although the browser reports it", async () => {
  const page = open();
  const watcher = page.Warmcache.watch("files");
  page.go("offline");
  await page.clock.advance(60000);
  assert.equal(watcher.state, "stale");
});

test("offline: a page that starts so polls nevertheless", async () => {
  const page = open({ online: false });
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(2000);
  assert.equal(watcher.state, "stale");
});

test("online: the page polls within a second", async () => {
  const page = open({ random: 1 });
  page.Warmcache.watch("files");
  page.go("offline");
  page.go("online");
  await page.clock.advance(1000);
  assert.equal(page.requests.length, 1);
});

/* ---- hidden ---- */

test("hidden=slow polls once a minute, and at once when shown", async () => {
  const page = open({ attributes: { hidden: "slow" } });
  page.Warmcache.watch("files");
  await page.clock.advance(2000);
  page.show("hidden");
  await page.clock.advance(300000);
  assert.ok(page.requests.length <= 7, String(page.requests.length));
  assert.ok(page.requests.length >= 5);
  const asked = page.requests.length;
  page.show("visible");
  await page.clock.advance(2000);
  assert.ok(page.requests.length > asked);
});

test("hidden=keep polls as if the page were visible", async () => {
  const page = open({ attributes: { hidden: "keep" } });
  page.Warmcache.watch("files");
  page.show("hidden");
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 5);
});

test("a hidden tab takes answers from others and refreshes when it is shown", async () => {
  const tabs = [];
  const page = open({ tabs });
  let refreshes = 0;
  page.Warmcache.watch("files", { refresh: () => void (refreshes += 1) });
  page.show("hidden");
  const other = open({ tabs, clock: page.clock });
  other.world = () => fresh("g2");
  other.Warmcache.watch("files");
  await page.clock.advance(60000);
  assert.deepEqual([refreshes, page.Warmcache.state("files")], [0, "ready"]);
  page.show("visible");
  await page.clock.advance(1000);
  assert.deepEqual([refreshes, page.requests.length], [1, 0]);
});

test("hidden=keep prompts instead of reloading a hidden page", async () => {
  const element = new Node({ dataset: { warmcache: "files", warmcacheState: "cold", warmcacheRefresh: "reload" } });
  const page = open({ regions: [element], attributes: { hidden: "slow" } });
  page.world = () => fresh("g2");
  page.show("hidden");
  await page.clock.advance(120000);
  assert.equal(page.navigations, 0);
  assert.equal(element.heard("blocked")[0].reason, "prompt");
  assert.equal(page.Warmcache.state("files"), "ready");
});

test("repeated errors stall a watcher", async () => {
  const page = open();
  page.world = () => answer({}, { code: 500 });
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(3600000);
  assert.equal(watcher.state, "stalled");
  assert.ok(types(page.body).includes("error"));
});
