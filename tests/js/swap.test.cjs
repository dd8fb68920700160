/* When new content for a region is fetched and accepted. A browser test covers how it is inserted. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Field, Node, answer, fresh, open, status } = require("./page.cjs");

const section = (state, generation, more = {}) =>
  new Node({
    id: "files",
    dataset: { warmcache: "files", warmcacheState: state, warmcacheGeneration: generation },
    ...more,
  });

function publish(element, options = {}) {
  const page = open({ regions: [element], ...options });
  page.world = () => fresh("g2");
  page.pageWorld = () => ({ region: section("fresh", "g2", { childNodes: ["new"] }) });
  return page;
}

test("a swap fetches once, bypassing caches, and replaces children and attributes", async () => {
  const element = section("stale", "g1");
  element.setAttribute("aria-busy", "true");
  const page = publish(element);
  await page.clock.advance(60000);
  assert.deepEqual(page.loads.map((load) => [load.url, load.at]), [["http://host/files", 2000]]);
  assert.deepEqual({ ...page.loads[0].headers }, { "Cache-Control": "no-cache" });
  assert.deepEqual(element.childNodes, ["new"]);
  assert.deepEqual([element.dataset.warmcacheState, element.dataset.warmcacheGeneration], ["fresh", "g2"]);
  assert.equal(element.getAttribute("aria-busy"), null);
  assert.deepEqual(element.heard("refreshed").map((detail) => [detail.strategy, detail.generation]), [["auto", "g2"]]);
});

test("a fragment without attributes gets them from the status", async () => {
  const element = section("cold", "");
  const page = publish(element);
  assert.equal(element.getAttribute("aria-busy"), "true");
  page.pageWorld = () => ({ region: new Node({ childNodes: ["new"] }) });
  await page.clock.advance(60000);
  assert.deepEqual([element.dataset.warmcacheState, element.dataset.warmcacheGeneration], ["fresh", "g2"]);
  assert.equal(page.requests.length, 1);
});

test("old content from another worker is refused five times, then the user is asked", async () => {
  for (const old of [section("cold", ""), section("stale", "g1")]) {
    const element = section("stale", "g1");
    const page = publish(element);
    page.pageWorld = () => ({ region: old });
    await page.clock.advance(600000);
    assert.equal(page.loads.length, 5);
    assert.deepEqual(element.childNodes, []);
    assert.equal(element.heard("blocked")[0].reason, "prompt");
    assert.equal(page.Warmcache.state("files"), "ready");
    assert.equal(page.clock.timers.size, 0);

    page.pageWorld = () => ({ region: section("fresh", "g2", { childNodes: ["new"] }) });
    await element.heard("blocked")[0].proceed();
    assert.deepEqual(element.childNodes, ["new"]);
    assert.equal(page.Warmcache.state("files"), "fresh");
  }
});

test("a failed fetch sends an error with its code", async () => {
  const cases = [
    [{ code: 0 }, "network"],
    [{ code: 500 }, "http"],
    [{ code: 403 }, "auth"],
    [{ code: 200 }, "body"],
  ];
  for (const [failure, code] of cases) {
    const element = section("stale", "g1");
    const page = publish(element);
    page.pageWorld = () => failure;
    await page.clock.advance(10000);
    assert.equal(element.heard("error")[0].code, code);
    assert.equal(element.heard("error")[0].fatal, code === "auth");
  }
});

test("a swap obeys Retry-After of the page", async () => {
  const page = publish(section("stale", "g1"));
  page.pageWorld = () => ({ code: 503, headers: { "Retry-After": "60" } });
  await page.clock.advance(100000);
  assert.deepEqual(page.loads.map((load) => load.at), [2000, 62000]);
});

test("an unchanged ETag causes no swap", async () => {
  const element = section("cold", "");
  const page = publish(element);
  const seen = [];
  page.world = () => status({ state: "partial", generation: `p${page.requests.length}` });
  page.pageWorld = () => ({
    headers: { ETag: '"same"' },
    region: section("partial", `p${page.requests.length}`, { childNodes: [seen.push("taken")] }),
  });
  await page.clock.advance(6000);
  assert.equal(page.loads.length, 3);
  assert.equal(element.heard("refreshed").length, 1);
});

test("an edit during the fetch stops the swap", async () => {
  const element = section("stale", "g1");
  const page = publish(element);
  const region = section("fresh", "g2", { childNodes: ["new"] });
  page.pageWorld = () => {
    element.fields = [new Field({ value: "half a wo" })];
    return { region };
  };
  await page.clock.advance(60000);
  assert.deepEqual(element.childNodes, []);
  assert.equal(element.heard("blocked")[0].reason, "editing");
  await element.heard("blocked")[0].proceed();
  assert.deepEqual(element.childNodes, ["new"]);

  const other = publish(section("stale", "g1"));
  other.pageWorld = () => {
    other.document.regions[0].warmcache.stop();
    return { region };
  };
  await other.clock.advance(60000);
  assert.deepEqual(other.document.regions[0].childNodes, []);
});

test("a partial list is neither swapped during an edit nor prompts", async () => {
  const element = section("partial", "p1");
  element.fields = [new Field({ value: "half a wo" })];
  const page = publish(element);
  page.world = () => status({ state: "partial", generation: `p${page.requests.length + 1}` });
  await page.clock.advance(10000);
  assert.deepEqual([page.loads.length, element.heard("blocked").length], [0, 0]);
});

test("a failed prompt reports its error and stays", async () => {
  const element = section("stale", "g1");
  element.dataset.warmcacheRefresh = "prompt";
  const page = publish(element);
  await page.clock.advance(10000);
  const [{ reason, proceed }] = element.heard("blocked");
  assert.equal(reason, "prompt");
  page.pageWorld = () => ({ code: 500 });
  await proceed();
  assert.equal(element.heard("error")[0].code, "http");
  page.pageWorld = () => ({ region: section("fresh", "g2") });
  await proceed();
  assert.equal(element.heard("refreshed").length, 1);
});

test("auto without an id reloads an empty page and prompts on a stale one", async () => {
  for (const [state, generation, navigations] of [["cold", "", 1], ["stale", "g1", 0]]) {
    const element = section(state, generation, { id: "" });
    const page = publish(element);
    await page.clock.advance(60000);
    assert.equal(page.navigations, navigations);
    if (navigations) continue;
    await element.heard("blocked")[0].proceed();
    assert.equal(page.navigations, 1);
  }
});

test("neither the answer to a POST nor an offline page is reloaded", async () => {
  const cases = [
    [{ attributes: { method: "POST" } }, "post"],
    [{ online: false }, "prompt"],
  ];
  for (const [options, reason] of cases) {
    const element = section("cold", "");
    element.dataset.warmcacheRefresh = "reload";
    const page = publish(element, options);
    await page.clock.advance(60000);
    assert.deepEqual([page.navigations, element.heard("blocked")[0].reason], [0, reason]);
  }
});

test("at most three reloads in five minutes, until a page arrives fresh", async () => {
  const storage = {};
  const visit = async (generation) => {
    const element = section("cold", "");
    element.dataset.warmcacheRefresh = "reload";
    const page = publish(element, { storage });
    page.world = () => fresh(generation);
    await page.clock.advance(60000);
    return element.heard("blocked")[0]?.reason ?? page.navigations;
  };
  assert.deepEqual([await visit("a"), await visit("b"), await visit("c"), await visit("d")], [1, 1, 1, "rate"]);
  open({ regions: [section("fresh", "d")], storage });
  assert.equal(await visit("e"), 1);
});

test("idiomorph is used if the page has it, except for kept elements", async () => {
  const element = section("stale", "g1");
  element.dataset.warmcacheKeep = "player notes";
  const page = publish(element);
  const calls = [];
  page.window.Idiomorph = { morph: (...args) => calls.push(args) };
  await page.clock.advance(10000);
  const [[target, nodes, options]] = calls;
  assert.equal(target, element);
  assert.deepEqual([...nodes], ["new"]);
  assert.equal(options.morphStyle, "innerHTML");
  const node = (kept) => ({ matches: (selector) => kept && selector === '[id="player"],[id="notes"]' });
  assert.equal(options.callbacks.beforeNodeMorphed(node(true)), false);
  assert.equal(options.callbacks.beforeNodeMorphed(node(false)), true);
  assert.equal(options.callbacks.beforeNodeMorphed({}), true); // a text node
});

test("an element that returns to the page waits again", async () => {
  const element = section("stale", "g1");
  const page = publish(element);
  page.world = () => status();
  await page.clock.advance(2000);
  element.isConnected = false;
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 1);
  element.isConnected = true;
  page.Warmcache.scan(element);
  page.world = () => answer(fresh("g2"));
  await page.clock.advance(10000);
  assert.deepEqual(element.childNodes, ["new"]);
});
