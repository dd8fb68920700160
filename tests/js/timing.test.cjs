/* When the poller polls, and when it does not. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { Node, answer, fresh, hang, open, status } = require("./page.cjs");

const gaps = (page) => page.times().map((at, i, all) => (i ? at - all[i - 1] : at));

test("the first poll comes one interval after the start", async () => {
  const page = open();
  page.Warmcache.watch("files");
  await page.clock.advance(1999);
  assert.equal(page.requests.length, 0);
  await page.clock.advance(1);
  assert.deepEqual(page.times(), [2000]);
  assert.equal(page.requests[0].url, "/api/cache/stats/files");
  assert.deepEqual({ ...page.requests[0].headers }, { Accept: "application/json" });
});

test("five polls in ten seconds, and none after stop", async () => {
  const page = open();
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 5);
  watcher.stop();
  assert.equal(page.clock.timers.size, 0);
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 5);
});

test("the last stop discards the list's state", async () => {
  const page = open();
  page.Warmcache.watch("files").stop();
  const first = page.Warmcache.watch("files");
  await page.clock.advance(2000);
  first.stop();
  assert.equal(page.Warmcache.state("files"), "idle");
  const second = page.Warmcache.watch("files");
  assert.deepEqual([second.state, second.status, second.generation], ["idle", null, null]);
});

test("an answer that comes after stop is ignored", async () => {
  const page = open();
  let give;
  page.world = () => new Promise((resolve) => (give = resolve));
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(2000);
  give(fresh());
  watcher.stop();
  await page.clock.advance(60000);
  assert.equal(page.body.events.length, 0);
});

test("the jitter is fifteen per cent in both directions", async () => {
  for (const [random, first] of [[0, 1700], [1, 2300]]) {
    const page = open({ random });
    page.Warmcache.watch("files");
    await page.clock.advance(2500);
    assert.deepEqual(page.times(), [first]);
  }
});

test("the next timer starts after the answer, so requests never overlap", async () => {
  const page = open();
  let under = 0;
  page.world = async () => {
    under += 1;
    assert.equal(under, 1);
    await new Promise((resolve) => page.clock.setTimeout(resolve, 5000));
    under -= 1;
    return status();
  };
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(3000);
  assert.equal(watcher.poll(), false);
  await page.clock.advance(20000);
  assert.deepEqual(page.times(), [2000, 9000, 16000, 23000]);
});

test("the pause grows up to max-interval after a minute of waiting", async () => {
  const page = open({ attributes: { maxInterval: "6000" } });
  page.Warmcache.watch("files");
  await page.clock.advance(600000);
  const all = gaps(page);
  assert.ok(all.slice(0, 30).every((gap) => gap === 2000));
  assert.ok(all[32] > 2000 && all[32] < 3000);
  assert.equal(all.at(-1), 6000);
});

test("a hidden tab does not poll, and polls within 250 ms when shown", async () => {
  const page = open({ random: 1 });
  page.Warmcache.watch("files");
  page.show("hidden");
  await page.clock.advance(600000);
  assert.equal(page.requests.length, 0);
  assert.equal(page.clock.timers.size, 0);
  page.show("visible");
  await page.clock.advance(250);
  assert.equal(page.requests.length, 1);
});

test("a watch in a hidden tab starts when the tab is shown", async () => {
  const page = open({ visibility: "hidden" });
  page.Warmcache.watch("files");
  assert.equal(page.clock.timers.size, 0);
  await page.clock.advance(60000);
  page.show("visible");
  await page.clock.advance(250);
  assert.equal(page.requests.length, 1);
});

test("switching tabs fast does not cost a poll each time", async () => {
  const page = open();
  page.Warmcache.watch("files");
  await page.clock.advance(2000);
  for (let i = 0; i < 10; i += 1) {
    page.show("hidden");
    page.show("visible");
    await page.clock.advance(100);
  }
  assert.equal(page.requests.length, 1);
  await page.clock.advance(1000);
  assert.equal(page.requests.length, 2);
});

test("a clock that is set back does not delay the poll of a shown tab", async () => {
  const page = open();
  page.clock.now = 1e9;
  page.Warmcache.watch("files");
  await page.clock.advance(2000);
  page.show("hidden");
  page.clock.now = 1e6;
  page.show("visible");
  await page.clock.advance(2000);
  assert.equal(page.requests.length, 2);
});

test("hiding aborts the request without counting a failure", async () => {
  const page = open();
  page.world = hang;
  page.Warmcache.watch("files");
  for (let i = 0; i < 3; i += 1) {
    await page.clock.advance(2000);
    page.show("hidden");
    assert.equal(page.requests[i].signal.aborted, true);
    await page.clock.advance(0);
    page.show("visible");
  }
  assert.deepEqual(page.body.events, []);
});

test("a page that is shown during a request sends no other", async () => {
  const page = open();
  page.world = hang;
  page.Warmcache.watch("files");
  await page.clock.advance(2000);
  page.window.dispatchEvent(new Event("pageshow"));
  page.show("visible");
  await page.clock.advance(9000);
  assert.equal(page.requests.length, 1);
});

test("pagehide stops polling, and a pageshow from the back/forward cache resumes it", async () => {
  const page = open();
  page.Warmcache.watch("files");
  page.window.dispatchEvent(new Event("pagehide"));
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 0);
  page.window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  await page.clock.advance(250);
  assert.equal(page.requests.length, 1);
});

test("a request that hangs fails at its deadline", async () => {
  const page = open({ attributes: { timeout: "3000" } });
  page.world = hang;
  page.Warmcache.watch("files");
  await page.clock.advance(5000);
  assert.equal(page.requests[0].signal.aborted, true);
  await page.clock.advance(10000);
  assert.deepEqual(page.body.heard("error").map((error) => error.code), ["timeout"]);
});

test("errors back off to a minute, with jitter over half of it", async () => {
  for (const random of [0, 1]) {
    const page = open({ random });
    page.world = () => new TypeError("no network");
    page.Warmcache.watch("files");
    await page.clock.advance(400000);
    const all = gaps(page).slice(1);
    const steps = [4, 8, 16, 32, 60, 60].map((s) => s * 1000 * (random ? 1 : 0.5));
    assert.deepEqual(all.slice(0, 6), steps);
    assert.ok(Math.max(...all) <= 60000);
  }
});

test("fewer than fourteen polls in five minutes of errors", async () => {
  const page = open();
  page.world = () => answer("", { code: 500 });
  page.Warmcache.watch("files");
  await page.clock.advance(300000);
  assert.ok(page.requests.length < 14, String(page.requests.length));
});

test("a success ends the back-off", async () => {
  const page = open();
  let failing = true;
  page.world = () => (failing ? answer({}, { code: 500 }) : status());
  page.Warmcache.watch("files");
  await page.clock.advance(30000);
  failing = false;
  await page.clock.advance(25000);
  assert.equal(gaps(page).at(-1), 2000);
});

test("Retry-After in seconds is a minimum, plus up to a fifth", async () => {
  for (const [random, wait] of [[0, 30000], [1, 36000]]) {
    const page = open({ random });
    page.world = () => answer({}, { code: 503, headers: { "Retry-After": "30" } });
    page.Warmcache.watch("files");
    await page.clock.advance(80000);
    assert.equal(gaps(page)[1], wait);
  }
});

test("Retry-After may be a date", async () => {
  const page = open({ random: 0 });
  const headers = { "Retry-After": new Date(Date.now() + 201500).toUTCString() }; // dates have whole seconds
  page.world = () => answer({}, { code: 503, headers });
  page.Warmcache.watch("files");
  await page.clock.advance(250000);
  const gap = gaps(page)[1];
  assert.ok(gap > 150000 && gap <= 201500, String(gap));
});

test("Retry-After is limited to five minutes, and invalid or past values are ignored", async () => {
  const cases = { 999999: 300000, soon: 2000, "-5": 2000, "Tue, 01 Jan 2019 10:00:00 GMT": 2000 };
  for (const [value, wait] of Object.entries(cases)) {
    const page = open({ random: 0 });
    page.world = () => answer({}, { code: 503, headers: { "Retry-After": value } });
    page.Warmcache.watch("files");
    await page.clock.advance(303000);
    assert.equal(gaps(page)[1], wait, value);
  }
});

test("poll() may ignore Retry-After once, but showing the tab may not", async () => {
  const page = open({ random: 0 });
  page.world = () => answer({}, { code: 503, headers: { "Retry-After": "60" } });
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(1700);
  assert.equal(watcher.poll(), true);
  await page.clock.advance(0);
  assert.equal(watcher.poll(), false);
  assert.equal(page.requests.length, 2);
  page.show("hidden");
  await page.clock.advance(30000);
  page.show("visible");
  await page.clock.advance(29900);
  assert.equal(page.requests.length, 2);
  await page.clock.advance(200);
  assert.equal(page.requests.length, 3);
});

test("Retry-After of a success is a minimum, too", async () => {
  const page = open({ random: 0 });
  page.world = () => answer(status(), { headers: { "Retry-After": "7" } });
  page.Warmcache.watch("files");
  await page.clock.advance(9000);
  assert.deepEqual(page.times(), [1700, 8700]);
});

test("poll() polls at once and resets the timer", async () => {
  const page = open();
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(1000);
  assert.equal(watcher.poll(), true);
  await page.clock.advance(2500);
  assert.deepEqual(page.times(), [1000, 3000]);
  page.show("hidden");
  assert.equal(watcher.poll(), false);
});

for (const code of [401, 403, 404, 410]) {
  test(`${code} ends the watch with one error`, async () => {
    const page = open();
    page.world = () => answer({}, { code });
    page.Warmcache.watch("files");
    await page.clock.advance(600000);
    assert.equal(page.requests.length, 1);
    const errors = page.body.heard("error");
    assert.deepEqual(errors.map((error) => [error.fatal, error.failures]), [[true, 1]]);
    assert.equal(errors[0].code, code < 404 ? "auth" : "http");
    assert.match(errors[0].message, new RegExp(`answered ${code}`));
  });
}

test("a redirect to a login page ends the watch", async () => {
  const page = open();
  page.world = () => answer("<h1>Log in</h1>", { redirected: true });
  page.Warmcache.watch("files");
  await page.clock.advance(600000);
  assert.equal(page.requests.length, 1);
  assert.deepEqual(page.body.heard("error").map((e) => [e.code, e.fatal]), [["auth", true]]);
});

test("a redirect to JSON is accepted", async () => {
  const page = open();
  page.world = () => answer(status(), { redirected: true });
  page.Warmcache.watch("files");
  await page.clock.advance(4000);
  assert.equal(page.requests.length, 2);
});

test("the second failed poll in a row is reported", async () => {
  const page = open();
  const bad = [true, false, true, true, true];
  page.world = () => (bad.shift() ? new TypeError("no network") : status());
  const watcher = page.Warmcache.watch("files");
  await page.clock.advance(60000);
  const errors = page.body.heard("error");
  assert.deepEqual(errors.map((e) => [e.code, e.failures, e.fatal]), [["network", 2, false], ["network", 3, false]]);
  assert.deepEqual(
    page.body.heard("state").map((change) => change.to),
    ["stale", "error", "stale"],
  );
  assert.equal(watcher.state, "stale");
});

test("an answer that is not a status is a body error", async () => {
  for (const body of ["<h1>hello</h1>", "{", "null", "[]", "7", '{"cache_rebuilding": "no"}']) {
    const page = open();
    page.world = () => answer(body);
    page.Warmcache.watch("files");
    await page.clock.advance(10000);
    assert.deepEqual(page.body.heard("error").map((error) => error.code), ["body"], body);
  }
});

test("an element that leaves the page ends its watch", async () => {
  const { Node } = require("./page.cjs");
  const page = open();
  const element = new Node();
  page.Warmcache.watch("files", { element });
  await page.clock.advance(2000);
  element.isConnected = false;
  await page.clock.advance(60000);
  assert.equal(page.requests.length, 1);
});

test("watchers share one poller until the last one stops", async () => {
  const page = open();
  const first = page.Warmcache.watch("files");
  const second = page.Warmcache.watch("files");
  page.Warmcache.watch("others").stop();
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 5);
  first.stop();
  first.stop();
  await page.clock.advance(2000);
  assert.equal(page.requests.length, 6);
  assert.deepEqual([second.generation, second.state], ["g1", "stale"]);
  second.stop();
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 6);
});

test("a signal stops the watch before or after its start", async () => {
  const page = open();
  const control = new AbortController();
  page.Warmcache.watch("files", { signal: control.signal });
  await page.clock.advance(2000);
  control.abort();
  page.Warmcache.watch("files", { signal: control.signal });
  await page.clock.advance(10000);
  assert.equal(page.requests.length, 1);
  assert.equal(page.clock.timers.size, 0);
});

test("stop() works inside an event handler", async () => {
  for (const type of ["state", "progress", "ready", "error"]) {
    const page = open();
    let refreshes = 0;
    const watcher = page.Warmcache.watch("files", { refresh: () => (refreshes += 1) });
    page.body.addEventListener(`warmcache:${type}`, () => watcher.stop());
    const progress = { phase: "enrich", done: 1, total: 2, rate: 1, eta_seconds: 1 };
    page.world = () => (type === "error" ? new TypeError("no") : fresh("g2", { progress }));
    await page.clock.advance(60000);
    assert.equal(refreshes, 0, type);
    assert.equal(page.requests.length, type === "error" ? 2 : 1, type);
    assert.equal(page.clock.timers.size, 0, type);
  }
});

test("a watcher stopped by another's handler gets no event", async () => {
  const page = open();
  const elements = [new Node(), new Node()];
  const [first, second] = elements.map((element) =>
    page.Warmcache.watch("files", { element, generation: "g1", refresh: "event" }),
  );
  elements[0].addEventListener("warmcache:ready", () => second.stop());
  page.world = () => fresh("g2");
  await page.clock.advance(10000);
  assert.equal(first.state, "fresh");
  assert.deepEqual(elements.map((element) => element.heard("ready").length), [1, 0]);
});

test("five hundred watches leave no timer and no listener", async () => {
  const { getEventListeners } = require("node:events");
  const page = open();
  const control = new AbortController();
  const count = () =>
    getEventListeners(control.signal, "abort").length +
    getEventListeners(page.document, "visibilitychange").length;
  const before = count();
  for (let i = 0; i < 500; i += 1) page.Warmcache.watch("files", { signal: control.signal }).stop();
  assert.equal(count(), before);
  assert.equal(page.clock.timers.size, 0);
});
