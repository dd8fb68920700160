/* json(), inspect() and ready(), for apps that render their lists themselves. */
"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { answer, fresh, hang, open, status } = require("./page.cjs");

/* ---- json() ---- */

const DATA = { url: "/api/files", headers: { "X-Warmcache": "files; gen=g1; state=stale" } };

/** Return a world with data at DATA.url and the status elsewhere; a test may replace both. */
function library(page) {
  const world = {
    data: () => answer({ files: ["old"], cache_rebuilding: true }, { headers: DATA.headers }),
    status: () => status(),
  };
  page.world = (url, request) => (url === DATA.url ? world.data(request) : world.status(request));
  return world;
}

const asked = (page) => page.requests.filter((request) => request.url === DATA.url).length;

test("json() passes the data at once, and again after the publication", async () => {
  const page = open();
  const world = library(page);
  const calls = [];
  const job = page.Warmcache.json(DATA.url, (data, info) => calls.push([data.files[0], info.rebuilding]));
  await page.clock.advance(6000);
  assert.deepEqual(calls, [["old", true]]);
  world.status = () => fresh("g2");
  world.data = () => answer({ files: ["new"], cache_rebuilding: false });
  await page.clock.advance(60000);
  assert.deepEqual(calls, [["old", true], ["new", false]]);
  assert.deepEqual((await job.done).files, ["new"]);
  assert.equal(asked(page), 2);
  assert.equal(page.requests[0].headers.Accept, "application/json");
});

test("json() of fresh data polls no status", async () => {
  const page = open();
  library(page).data = () => answer({ cache_rebuilding: false });
  const job = page.Warmcache.json(DATA.url, () => {});
  await page.clock.advance(60000);
  await job.done;
  assert.equal(page.requests.length, 1);
});

test("json() continues while the new answer is still being rebuilt", async () => {
  const page = open();
  const world = library(page);
  const calls = [];
  page.Warmcache.json(DATA.url, (data, info) => calls.push(info.rebuilding));
  world.status = () => fresh("g2");
  // The data is newer, but the next rebuild already runs.
  world.data = () =>
    answer({ cache_rebuilding: true }, { headers: { "X-Warmcache": "files; gen=g2; state=stale" } });
  await page.clock.advance(2000);
  world.status = () => fresh("g3");
  world.data = () => answer({ cache_rebuilding: false });
  await page.clock.advance(60000);
  assert.deepEqual(calls, [true, true, false]);
});

test("json() does not loop if status and data always disagree", async () => {
  const page = open();
  const world = library(page);
  world.status = () => fresh("g2");
  const calls = [];
  const job = page.Warmcache.json(DATA.url, (data, info) => calls.push(info.rebuilding));
  await page.clock.advance(600000);
  assert.deepEqual(calls, [true, true, false]); // the last call needs no request
  assert.equal(asked(page), 2);
  assert.equal(page.body.heard("ready").length, 1);
  await job.done;
});

test("json() does not loop if every answer has another generation", async () => {
  const page = open();
  const world = library(page);
  world.status = () => fresh("g2");
  let number = 0;
  world.data = () => {
    number += 1;
    const headers = { "X-Warmcache": `files; gen=odd${number}; state=stale` };
    return answer({ cache_rebuilding: true }, { headers });
  };
  const calls = [];
  const job = page.Warmcache.json(DATA.url, (data, info) => calls.push([info.rebuilding, info.generation]));
  await page.clock.advance(600000);
  assert.deepEqual(calls, [[true, "odd1"], [true, "odd2"], [false, "odd2"]]);
  assert.equal(asked(page), 2);
  await job.done;
});

test("json() passes a partial list as it grows", async () => {
  const page = open();
  const world = library(page);
  let size = 1;
  world.data = () =>
    answer({ files: size, cache_rebuilding: size < 3 }, { headers: { "X-Warmcache": `files; gen=p${size}; state=partial` } });
  world.status = () =>
    status({ state: size < 3 ? "partial" : "fresh", generation: `p${size}`, cache_rebuilding: size < 3 });
  const sizes = [];
  page.Warmcache.json(DATA.url, (data) => sizes.push(data.files));
  await page.clock.advance(6000);
  size = 2;
  await page.clock.advance(6000);
  size = 3;
  await page.clock.advance(60000);
  assert.deepEqual(sizes, [1, 2, 3]);
});

test("json() ends if a listener prevents the refresh", async () => {
  const page = open();
  const world = library(page);
  world.status = () => fresh();
  page.body.addEventListener("warmcache:ready", (event) => event.preventDefault());
  const job = page.Warmcache.json(DATA.url, () => {});
  await page.clock.advance(60000);
  await job.done;
  assert.equal(page.requests.length, 2);
});

test("json() prefers the name from the options", async () => {
  const page = open();
  library(page);
  page.Warmcache.json(DATA.url, () => {}, { name: "mine" });
  await page.clock.advance(2000);
  assert.equal(page.requests[1].url, "/api/cache/stats/mine");
});

test("json() without a name keeps what it has shown, and says what is missing", async () => {
  const page = open();
  library(page).data = () => answer({ files: ["old"], cache_rebuilding: true });
  const calls = [];
  const job = page.Warmcache.json(DATA.url, (data, info) => calls.push([data.files[0], info.rebuilding]));
  assert.deepEqual((await job.done).files, ["old"]);
  assert.deepEqual(calls, [["old", true]]);
  assert.match(page.warnings.join(), /list's name/);
  assert.equal(page.requests.length, 1);
});

test("json() with a name needs no header", async () => {
  const page = open();
  const world = library(page);
  const calls = [];
  let shown = { state: "cold", files: 0 };
  world.data = () => answer({ files: shown.files, cache_rebuilding: shown.state !== "fresh" });
  world.status = () =>
    status({ state: shown.state, generation: shown.files ? `g${shown.files}` : null, cache_rebuilding: shown.state !== "fresh" });
  const job = page.Warmcache.json(DATA.url, ({ files }, info) => calls.push([files, info.rebuilding]), { name: "files" });
  await page.clock.advance(6000);
  for (const next of [{ state: "partial", files: 1 }, { state: "partial", files: 2 }, { state: "fresh", files: 3 }]) {
    shown = next;
    await page.clock.advance(60000);
  }
  assert.deepEqual(calls, [[0, true], [1, true], [2, true], [3, false]]);
  await job.done;
});

test("json() with a name and without a header does not loop if status and data disagree", async () => {
  const page = open();
  const world = library(page);
  world.data = () => answer({ cache_rebuilding: true });
  world.status = () => fresh("g2");
  const calls = [];
  const job = page.Warmcache.json(DATA.url, (data, info) => calls.push(info.rebuilding), { name: "files" });
  await page.clock.advance(600000);
  assert.deepEqual(calls, [true, true, false]);
  assert.equal(asked(page), 2);
  await job.done;
});

test("json() of another shape is told by the header whether to wait", async () => {
  const page = open();
  const world = library(page);
  world.data = () => answer({ rows: 1 }, { headers: DATA.headers });
  const calls = [];
  page.Warmcache.json(DATA.url, ({ rows }, info) => calls.push([rows, info.rebuilding]));
  await page.clock.advance(6000);
  world.status = () => fresh("g2");
  world.data = () => answer({ rows: 2 }, { headers: { "X-Warmcache": "files; gen=g2; state=fresh" } });
  await page.clock.advance(60000);
  assert.deepEqual(calls, [[1, true], [2, false]]);
});

test("json() rejects if the first fetch fails", async () => {
  const page = open();
  library(page).data = () => answer({}, { code: 500 });
  const job = page.Warmcache.json(DATA.url, () => assert.fail("called"));
  await assert.rejects(job.done, { code: "http", message: "/api/files answered 500" });
});

test("json() retries a failed second fetch", async () => {
  const page = open();
  const world = library(page);
  const calls = [];
  page.Warmcache.json(DATA.url, (data, info) => calls.push(info.rebuilding));
  await page.clock.advance(0);
  world.status = () => fresh();
  world.data = () => new TypeError("no network");
  await page.clock.advance(2500);
  world.data = () => answer({ cache_rebuilding: false });
  await page.clock.advance(60000);
  assert.deepEqual(calls, [true, false]);
  assert.equal(page.body.heard("error").length, 0);
});

test("json() rejects if the session ends", async () => {
  const page = open();
  const world = library(page);
  const job = page.Warmcache.json(DATA.url, () => {});
  const end = assert.rejects(job.done, { code: "auth", fatal: true });
  await page.clock.advance(0);
  world.status = () => answer({}, { code: 401 });
  await page.clock.advance(60000);
  await end;
});

test("stop() and a signal end json() during the fetch and during the wait", async () => {
  for (const way of ["stop", "signal"]) {
    for (const moment of [0, 3000]) {
      const page = open();
      const world = library(page);
      if (!moment) world.data = hang;
      const control = new AbortController();
      let calls = 0;
      const job = page.Warmcache.json(DATA.url, () => (calls += 1), { signal: control.signal });
      await page.clock.advance(moment);
      const requests = page.requests.length;
      if (way === "stop") job.stop();
      else control.abort();
      await page.clock.advance(60000);
      await job.done;
      assert.equal(page.requests.length, requests);
      assert.equal(calls, moment ? 1 : 0);
      assert.equal(page.clock.timers.size, 0);
    }
  }
});

test("an error in onData is reported and does not end the wait", async () => {
  const page = open();
  const world = library(page);
  let calls = 0;
  page.Warmcache.json(DATA.url, () => {
    calls += 1;
    throw new Error("bug in the page");
  });
  await page.clock.advance(0);
  world.status = () => fresh();
  world.data = () => answer({ cache_rebuilding: false });
  await page.clock.advance(60000);
  assert.equal(calls, 2);
  assert.equal(page.errors.length, 2);
});

/* ---- inspect() ---- */

test("inspect() watches an answer that is being rebuilt", async () => {
  const page = open();
  const { Warmcache } = page;
  const watcher = Warmcache.inspect(answer({}, { headers: DATA.headers }));
  assert.deepEqual([watcher.name, watcher.state], ["files", "stale"]);
  assert.equal(Warmcache.inspect({ cache_rebuilding: true }, { name: "files" }).name, "files");
  await page.clock.advance(2000);
  assert.equal(page.requests.length, 1);
});

test("inspect() ignores other answers", () => {
  const { Warmcache } = open();
  const header = { headers: { "X-Warmcache": "files; gen=g1; state=fresh" } };
  for (const other of [null, undefined, {}, { cache_rebuilding: false }, answer({}), answer({}, header)]) {
    assert.equal(Warmcache.inspect(other), null);
  }
  assert.throws(() => Warmcache.inspect({ cache_rebuilding: true }), /list's name/);
});

/* ---- ready() ---- */

test("ready() resolves to the status at publication", async () => {
  const page = open();
  const promise = page.Warmcache.ready("files");
  await page.clock.advance(4000);
  page.world = () => fresh("g2");
  await page.clock.advance(2000);
  assert.equal((await promise).generation, "g2");
  assert.equal(page.clock.timers.size, 0);
});

test("ready() rejects on a signal, a timeout, a stall and the end of the session", async () => {
  const cases = {
    stopped: (page, control) => control.abort(),
    timeout: (page) => page.clock.advance(5000),
    stalled: (page) => page.clock.advance(700000),
    auth: (page) => {
      page.world = () => answer({}, { code: 403 });
      return page.clock.advance(5000);
    },
  };
  for (const [code, act] of Object.entries(cases)) {
    const page = open();
    const control = new AbortController();
    const timeout = code === "timeout" ? 3000 : undefined;
    const promise = page.Warmcache.ready("files", { signal: control.signal, timeout });
    const end = assert.rejects(promise, { code });
    await page.clock.advance(0);
    await act(page, control);
    await end;
    assert.equal(page.clock.timers.size, 0, code);
  }
});
