/* <warmcache-status> and <warmcache-progress>: what they show, and what they announce. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { fresh, open, status } = require("./page.cjs");

const working = (done, more = {}) => status({ progress: { phase: "enrich", done, total: 100, eta_seconds: null }, ...more });

/** Record every text of the line, in order. */
function listen(element) {
  const announced = [];
  const line = element.querySelector("span");
  let text = "";
  Object.defineProperty(line, "textContent", {
    get: () => text,
    set: (value) => {
      if (value !== text) announced.push(value);
      text = value;
    },
  });
  line.textContent = "";
  return announced;
}

test("an element reads the state when it is connected and announces it a moment later", async () => {
  const page = open({ elements: true });
  page.world = () => working(25);
  page.Warmcache.watch("files");
  await page.clock.advance(2000);
  const element = page.connect("warmcache-status");
  const [bar, line] = [element.querySelector("progress"), element.querySelector("span")];
  assert.deepEqual([element.getAttribute("state"), bar.hidden, bar.value, line.role], ["stale", false, 0.25, "status"]);
  assert.equal(line.textContent, undefined);
  await page.clock.advance(100);
  assert.equal(line.textContent, "Updating 25 %");
});

test("a hundred steps are announced by at most six texts, five seconds apart within a state", async () => {
  const page = open({ elements: true, attributes: { interval: "500" } });
  const element = page.connect("warmcache-status");
  const announced = listen(element);
  let done = -1;
  page.world = () => ((done += 1) < 100 ? working(done) : fresh("g2"));
  page.Warmcache.watch("files", { refresh: () => {} });
  await page.clock.advance(120000);
  assert.deepEqual(announced, ["Updating", "Updating 25 %", "Updating 50 %", "Updating 75 %", "Up to date"]);
});

test("fast progress is not announced", async () => {
  const page = open({ elements: true, attributes: { interval: "500" } });
  const element = page.connect("warmcache-status");
  const announced = listen(element);
  let done = -20;
  page.world = () => ((done += 20) < 100 ? working(done) : fresh("g2"));
  page.Warmcache.watch("files", { refresh: () => {} });
  await page.clock.advance(60000);
  assert.deepEqual(announced, ["Updating", "Up to date"]);
});

test("a fresh page announces nothing", async () => {
  const page = open({ elements: true });
  const element = page.connect("warmcache-status");
  const announced = listen(element);
  await page.clock.advance(60000);
  assert.deepEqual(announced, []);
  assert.equal(element.querySelector("button").hidden, true);
  page.world = () => fresh("g1");
  page.Warmcache.watch("files", { generation: "g1" });
  await page.clock.advance(10000);
  const late = page.connect("warmcache-status");
  await page.clock.advance(10000);
  assert.deepEqual([late.getAttribute("state"), late.querySelector("span").textContent], ["fresh", undefined]);
});

test("the bar has no value while the total is unknown, and stops when no rebuild runs", async () => {
  const page = open({ elements: true });
  const element = page.connect("warmcache-progress", { label: "Fortschritt" });
  const bar = element.querySelector("progress");
  assert.deepEqual([bar.hidden, bar.ariaLabel, element.childNodes.length], [true, "Fortschritt", 1]);
  page.world = () => status({ progress: { phase: "source", done: 3, total: null } });
  page.Warmcache.watch("files", { generation: "g1" });
  await page.clock.advance(2000);
  assert.deepEqual([bar.hidden, bar.value], [false, undefined]);
  page.world = () => fresh("g1");
  await page.clock.advance(2000);
  assert.equal(bar.hidden, true);
});

test("a stalled list offers to check again, a blocked refresh to proceed, with texts from attributes", async () => {
  const page = open({ elements: true, attributes: { maxWait: "5000" } });
  const element = page.connect("warmcache-status", { "text-stalled": "Das dauert" });
  const button = element.querySelector("button");
  page.Warmcache.watch("files");
  await page.clock.advance(10000);
  assert.deepEqual([button.hidden, button.textContent], [false, "Check again"]);
  assert.equal(element.querySelector("span").textContent, "Das dauert");
  page.document.activeElement = button;
  button.onclick();
  await page.clock.advance(100);
  assert.equal(button.hidden, false); // hiding it would lose the focus
  page.document.activeElement = null;
  button.onblur();
  assert.equal(button.hidden, true);

  page.world = () => fresh("g2");
  page.Warmcache.watch("files", { refresh: "reload" });
  page.document.fields = [{ closest: () => null, open: true }];
  await page.clock.advance(10000);
  assert.deepEqual([button.hidden, button.textContent, element.getAttribute("state")], [false, "Refresh", "ready"]);
  assert.equal(element.querySelector("span").textContent, "Update available");
  button.onclick();
  assert.equal(page.navigations, 1);
});

test("an element for another list, or outside the page, does not change", async () => {
  const page = open({ elements: true });
  const other = page.connect("warmcache-progress", { for: "markers" });
  const gone = page.connect("warmcache-progress");
  gone.disconnectedCallback();
  page.Warmcache.watch("files");
  await page.clock.advance(4000);
  assert.deepEqual([other, gone].map((element) => element.getAttribute("state")), ["idle", "idle"]);
});

test("the script works in a browser without custom elements", async () => {
  const page = open();
  page.Warmcache.watch("files");
  await page.clock.advance(4000);
  assert.equal(page.Warmcache.state("files"), "stale");
});
