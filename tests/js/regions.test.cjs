/* Regions, and the guards of the automatic reload. Swapping itself is tested in a browser. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Node, Storage, fresh, open, status } = require("./page.cjs");

const region = (state, more = {}, attributes = {}) =>
  new Node({
    dataset: { warmcache: "files", warmcacheState: state, warmcacheGeneration: "g1", ...more },
    ...attributes,
  });

const RELOAD = { warmcacheRefresh: "reload" };
const EVENT = { warmcacheRefresh: "event" };

/** A page with one region whose list is fresh at the first poll. */
function publish(element, options = {}) {
  const page = open({ regions: [element], ...options });
  page.world = () => fresh("g2");
  return page;
}

test("a fresh page makes no request and sets no timer", async () => {
  for (const state of ["fresh", "stale", "failed", undefined]) {
    const page = open({ regions: [region(state)] });
    assert.equal(page.clock.timers.size, 0, state);
    await page.clock.advance(600000);
    assert.equal(page.requests.length, 0, state);
  }
});

test("cold, partial and rebuilding regions are watched", async () => {
  const cases = [["cold"], ["partial"], ["stale", { warmcacheRebuilding: "true" }]];
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
  assert.deepEqual([change.from, change.to], ["cold", "fresh"]);
});

test("data-auto=false leaves the page to Warmcache.scan()", async () => {
  const element = region("cold", EVENT);
  const page = open({ regions: [element], attributes: { auto: "false" } });
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 0);
  page.Warmcache.scan();
  page.Warmcache.scan(page.document); // twice does no harm
  await page.clock.advance(2000);
  assert.equal(page.requests.length, 1);
});

test("a document that is still loading is scanned when it is there", async () => {
  const page = open({ regions: [region("cold", EVENT)], readyState: "loading" });
  assert.equal(page.clock.timers.size, 0);
  page.document.dispatchEvent(new Event("DOMContentLoaded"));
  assert.equal(page.clock.timers.size, 1);
});

test("two regions of one list share the requests and hear ready each", async () => {
  const [first, second] = [region("cold", EVENT), region("cold", EVENT)];
  const page = open({ regions: [first, second] });
  page.world = () => fresh("g2");
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 1);
  assert.deepEqual([first, second].map((element) => element.heard("ready").length), [1, 1]);
});

test("strategy event: one ready, nothing else, no second wait", async () => {
  const element = region("cold", EVENT);
  const page = publish(element);
  await page.clock.advance(600000);
  assert.deepEqual(element.events.map(([type]) => type), ["state", "ready"]);
  assert.equal(page.requests.length, 1);
  assert.equal(element.dataset.warmcacheRebuilding, "false");
});

test("a strategy that does not exist, or swap without an id, is warned about", async () => {
  for (const way of ["sawp", "swap"]) {
    const page = publish(region("cold", { warmcacheRefresh: way }));
    await page.clock.advance(60000);
    assert.match(page.warnings[0], new RegExp(`cannot ${way}`));
    assert.equal(page.navigations, 0);
  }
});

test("watch() takes a strategy's name", async () => {
  const page = open();
  page.world = () => fresh("g2");
  page.Warmcache.watch("files", { refresh: "reload" });
  await page.clock.advance(2000);
  assert.equal(page.navigations, 1);
});

test("reload: once, and auto means reload for a region without an id", async () => {
  for (const more of [RELOAD, {}]) {
    const page = publish(region("cold", more));
    await page.clock.advance(600000);
    assert.equal(page.navigations, 1);
    assert.equal(page.requests.length, 1);
  }
});

test("reload: not while the rebuild runs, not for a generation that the page shows", async () => {
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

test("reload: once per page and generation, however often the page comes back cold", async () => {
  const storage = new Storage();
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
  assert.equal(next.navigations, 1); // a new generation is a new reason
});

test("reload: never without a session store", async () => {
  const broken = {
    getItem: () => {
      throw new Error("denied");
    },
  };
  const full = {
    getItem: () => null,
    setItem: () => {
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

test("reload: blocked while the user types, and proceed() does it after all", async () => {
  const element = region("cold", RELOAD);
  const page = publish(element);
  page.document.fields = [{ type: "text", value: "half a wo", defaultValue: "" }];
  await page.clock.advance(60000);
  const [blocked] = element.heard("blocked");
  assert.deepEqual([blocked.name, blocked.reason, page.navigations], ["files", "editing", 0]);
  blocked.proceed();
  assert.equal(page.navigations, 1);
});

test("reload: not when ready was prevented", async () => {
  const element = region("cold", RELOAD);
  const page = publish(element);
  element.addEventListener("warmcache:ready", (event) => event.preventDefault());
  await page.clock.advance(60000);
  assert.equal(page.navigations, 0);
});

/* ---- what counts as in use ---- */

const option = (selected, defaultSelected = false, disabled = false) =>
  ({ selected, defaultSelected, disabled });
const select = (options, more = {}) => ({ type: "select-one", size: 0, multiple: false, options, ...more });
const text = (value, defaultValue) => ({ type: "text", value, defaultValue });
const slider = (attribute) =>
  ({ type: "range", value: "50", defaultValue: attribute || "", hasAttribute: () => Boolean(attribute) });

const CLEAN = {
  "an untouched text field": text("a", "a"),
  "an untouched box without a value attribute":
    { type: "checkbox", checked: true, defaultChecked: true, value: "on", defaultValue: "" },
  "a slider without a value": slider(),
  "a drop-down without a default": select([option(true), option(false)]),
  "a drop-down whose first option is a disabled hint": select([option(false, false, true), option(true)]),
  "a drop-down with a default": select([option(false), option(true, true)]),
  "a list box with nothing chosen": select([option(false), option(false)], { size: 4 }),
};
const DIRTY = {
  "typed text": text("b", "a"),
  "a ticked box": { type: "checkbox", checked: true, defaultChecked: false },
  "a moved slider": slider("20"),
  "a changed drop-down": select([option(false), option(true)]),
  "a drop-down moved from its default": select([option(true), option(false, true)]),
  "a chosen line of a list box": select([option(true), option(false)], { size: 4 }),
};

for (const [fields, navigations] of [[CLEAN, 1], [DIRTY, 0]]) {
  for (const [name, field] of Object.entries(fields)) {
    test(`${name} ${navigations ? "does not block" : "blocks"}`, async () => {
      const page = publish(region("cold", RELOAD));
      page.document.fields = [field];
      await page.clock.advance(2000);
      assert.equal(page.navigations, navigations);
    });
  }
}

test("a focused field blocks, a focused link does not", async () => {
  for (const [isField, navigations] of [[true, 0], [false, 1]]) {
    const page = publish(region("cold", RELOAD));
    const field = { ...text("", ""), matches: () => isField };
    page.document.fields = [field];
    page.document.activeElement = field;
    await page.clock.advance(2000);
    assert.equal(page.navigations, navigations);
  }
});
