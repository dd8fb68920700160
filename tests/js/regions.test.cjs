/* Regions, and the guards of automatic reloads. A browser test covers swaps. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Field, Node, fresh, open, status } = require("./page.cjs");

const region = (state, more = {}, attributes = {}) =>
  new Node({
    dataset: { warmcache: "files", warmcacheState: state, warmcacheGeneration: state === "cold" ? "" : "g1", ...more },
    ...attributes,
  });

const RELOAD = { warmcacheRefresh: "reload" };
const EVENT = { warmcacheRefresh: "event" };

/** Open a page with one region whose list is fresh at the first poll. */
function publish(element, options = {}) {
  const page = open({ regions: [element], ...options });
  page.world = () => fresh("g2");
  return page;
}

test("a fresh page makes no request and sets no timer", async () => {
  for (const state of ["fresh", "failed", undefined, "stale and at rest"]) {
    const more = state === "stale and at rest" ? { warmcacheRebuilding: "false" } : {};
    const page = open({ regions: [region(state?.split(" ")[0], more)] });
    assert.equal(page.clock.timers.size, 0, state);
    await page.clock.advance(600000);
    assert.equal(page.requests.length, 0, state);
  }
});

test("cold, partial and rebuilding regions are watched", async () => {
  const cases = [["cold"], ["partial"], ["stale"], ["failed", { warmcacheRebuilding: "true" }]];
  for (const [state, more] of cases) {
    const page = open({ regions: [region(state, { ...EVENT, ...more })] });
    page.world = () => status({ state });
    await page.clock.advance(2000);
    assert.equal(page.requests.length, 1, state);
  }
});

test("the region's own state is where the state event starts", async () => {
  const element = region("cold", EVENT);
  const page = publish(element);
  await page.clock.advance(2000);
  const [change] = element.heard("state");
  assert.deepEqual([change.from, change.to], ["cold", "ready"]);
});

test("a region that the app has updated is not refreshed for the shown generation", async () => {
  const element = region("stale", EVENT);
  const page = publish(element);
  await page.clock.advance(10000);
  Object.assign(element.dataset, { warmcacheGeneration: "g3", warmcacheRebuilding: "true" });
  page.world = () => fresh("g3");
  page.Warmcache.scan();
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 2);
  assert.equal(element.heard("ready").length, 1);
});

test("data-auto=false watches no region before Warmcache.scan()", async () => {
  const element = region("cold", EVENT);
  const page = open({ regions: [element], attributes: { auto: "false" } });
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 0);
  page.Warmcache.scan();
  page.Warmcache.scan(page.document); // a second scan has no effect
  await page.clock.advance(2000);
  assert.equal(page.requests.length, 1);
});

test("a loading document is scanned after it has loaded", async () => {
  const page = open({ regions: [region("cold", EVENT)], readyState: "loading" });
  assert.equal(page.clock.timers.size, 0);
  page.document.dispatchEvent(new Event("DOMContentLoaded"));
  assert.equal(page.clock.timers.size, 1);
});

test("two regions of one list share requests, and each gets ready", async () => {
  const [first, second] = [region("cold", EVENT), region("cold", EVENT)];
  const page = open({ regions: [first, second] });
  page.world = () => fresh("g2");
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 1);
  assert.deepEqual([first, second].map((element) => element.heard("ready").length), [1, 1]);
});

test("strategy event: one ready, no refresh and no second wait", async () => {
  const element = region("cold", EVENT);
  const page = publish(element);
  await page.clock.advance(600000);
  assert.deepEqual(element.events.map(([type]) => type), ["state", "ready", "state"]);
  assert.equal(page.requests.length, 1);
  assert.equal(element.dataset.warmcacheRebuilding, "false");
});

for (const strategy of ["event", "mine"]) {
  test(`a region that is replaced at every refresh gets one ready for a publication: ${strategy}`, async () => {
    const page = open({ attributes: { auto: "false" } });
    let made = 0;
    const puts = () => {
      made += 1;
      for (const old of page.document.regions) old.isConnected = false;
      const more = { warmcacheRefresh: strategy, warmcacheGeneration: `odd${made}` };
      page.document.regions = [region("stale", more, { id: "rows" })];
      page.Warmcache.scan();
      if (strategy === "event") page.document.regions[0].addEventListener("warmcache:ready", puts);
    };
    page.Warmcache.strategies.mine = puts;
    page.world = () => fresh("g2");
    puts();
    await page.clock.advance(600000);
    assert.equal(made, 2); // one load and one refresh
    assert.equal(page.requests.length, 2);
    const [blocked] = page.document.regions[0].heard("blocked");
    assert.equal(blocked.reason, "loop"); // the user may go on
    assert.equal(page.Warmcache.state("files"), "ready");

    page.world = () => fresh("g3"); // another generation may be refreshed
    puts();
    await page.clock.advance(600000);
    assert.equal(made, 4);
  });
}

test("another page of the same document has its own count", async () => {
  const page = open({ attributes: { auto: "false" } });
  page.world = () => fresh("g2");
  for (const url of ["/a", "/b", "/a"]) {
    page.document.URL = url;
    const element = region("cold", EVENT);
    page.document.regions = [element];
    page.Warmcache.scan();
    await page.clock.advance(60000);
    assert.equal(element.heard("ready").length, 1, url);
  }
});

test("a region older than an interval is polled at once", async () => {
  const cases = [[() => Date.now() - 60000, 0], [Date.now, 2000], [() => Date.now() + 60000, 2000], [() => "long ago", 2000]];
  for (const [when, first] of cases) {
    const at = when();
    const page = open({ regions: [region("stale", { ...EVENT, warmcacheAt: String(at) })] });
    await page.clock.advance(2500);
    assert.equal(page.times()[0], first, at);
  }
});

test("an unknown strategy is an error and ends in a prompt", async () => {
  const element = region("cold", { warmcacheRefresh: "sawp" });
  const page = publish(element);
  await page.clock.advance(120000);
  assert.match(page.errors[0], /strategy is not a function/);
  assert.equal(element.heard("error").at(-1).fatal, true);
  assert.equal(element.heard("blocked")[0].reason, "prompt");
  assert.equal(page.navigations, 0);
});

test("watch() accepts the name of a strategy", async () => {
  const page = open();
  page.world = () => fresh("g2");
  page.Warmcache.watch("files", { refresh: "reload" });
  await page.clock.advance(2000);
  assert.equal(page.navigations, 1);
});

test("reload: happens once, also for auto without an id", async () => {
  for (const more of [RELOAD, {}]) {
    const page = publish(region("cold", more));
    await page.clock.advance(600000);
    assert.equal(page.navigations, 1);
    assert.equal(page.requests.length, 1);
  }
});

test("reload: never during a rebuild or for the shown generation", async () => {
  const element = region("partial", RELOAD);
  const page = open({ regions: [element] });
  page.world = () => status({ state: "partial", generation: "p2" });
  await page.clock.advance(10000);
  page.world = () => fresh("g1");
  await page.clock.advance(10000);
  assert.equal(page.navigations, 0);
  assert.equal(element.heard("blocked").length, 0);
});

test("reload: once per document, even for two lists", async () => {
  const other = region("cold", { ...RELOAD, warmcache: "markers" });
  const page = open({ regions: [region("cold", RELOAD), other] });
  page.world = () => fresh("g2");
  await page.clock.advance(600000);
  assert.equal(page.navigations, 1);
  assert.equal(other.heard("blocked")[0].reason, "loop");
});

test("reload: once per page and generation, even if the page returns cold", async () => {
  const storage = {};
  let navigations = 0;
  let blocked;
  for (let load = 0; load < 5; load += 1) {
    const element = region("cold", RELOAD);
    const page = publish(element, { storage });
    await page.clock.advance(60000);
    navigations += page.navigations;
    [blocked] = element.heard("blocked");
    if (load) assert.equal(blocked.reason, "loop");
  }
  assert.equal(navigations, 1);

  const next = open({ regions: [region("cold", RELOAD)], storage });
  next.world = () => fresh("g3");
  await next.clock.advance(60000);
  assert.equal(next.navigations, 1); // another generation may be reloaded
});

test("reload: never without session storage", async () => {
  const broken = {
    get warmcache() {
      throw new Error("denied");
    },
  };
  const full = {
    set warmcache(value) {
      throw new Error("quota");
    },
  };
  for (const storage of [broken, full]) {
    const element = region("cold", RELOAD);
    const page = publish(element, { storage });
    await page.clock.advance(60000);
    assert.equal(page.navigations, 0);
    assert.equal(element.heard("blocked")[0].reason, "storage");
  }
});

test("reload: blocked while the user types, until proceed()", async () => {
  const element = region("cold", RELOAD);
  const page = publish(element);
  page.document.fields = [new Field({ value: "half a wo" })];
  await page.clock.advance(60000);
  const [blocked] = element.heard("blocked");
  assert.deepEqual([blocked.name, blocked.reason, page.navigations], ["files", "editing", 0]);
  blocked.proceed();
  assert.equal(page.navigations, 1);
});

test("reload: not if ready was prevented", async () => {
  const element = region("cold", RELOAD);
  const page = publish(element);
  element.addEventListener("warmcache:ready", (event) => event.preventDefault());
  await page.clock.advance(60000);
  assert.equal(page.navigations, 0);
});

/* ---- what counts as in use; a browser test covers every kind of field ---- */

test("typed text, a focused field, an open dialog, media and a selection block, except in kept elements", async () => {
  const cases = [
    [new Field({ value: "half a wo" }), 0],
    [new Field({}), 1],
    [new Field({ open: true }), 0],
    [new Field({ paused: false }), 0],
    [new Field({ paused: true }), 1],
    [new Field({ value: "mine", kept: true }), 1],
  ];
  for (const [field, navigations] of cases) {
    const page = publish(region("cold", RELOAD));
    page.document.fields = [field];
    await page.clock.advance(2000);
    assert.equal(page.navigations, navigations, JSON.stringify(field));
  }
  const focused = publish(region("cold", RELOAD));
  focused.document.fields = [new Field({})];
  focused.document.activeElement = focused.document.fields[0];
  await focused.clock.advance(2000);
  assert.equal(focused.navigations, 0);
  for (const isCollapsed of [true, false]) {
    const page = publish(region("cold", RELOAD));
    page.document.contains = () => true;
    page.selection = { isCollapsed, anchorNode: {} };
    await page.clock.advance(2000);
    assert.equal(page.navigations, isCollapsed ? 1 : 0);
  }
});
