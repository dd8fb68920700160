/* warmcache.js: the browser half of flask-warmcache.
 *
 * A page or a JSON answer says that its list is being rebuilt. This script waits for the
 * publication, then refreshes what the user sees. It asks for the status, one small record, and
 * never for the data it waits for. A fresh page asks nothing at all.
 *
 * One poller per list asks STATUS_URL/NAME. A timer is set only after an answer, so requests never
 * overlap; each has a deadline, so none hangs the chain; a hidden tab has neither. The rebuild is
 * over when the status says so and something is published. Then every waiter hears
 * warmcache:ready and is refreshed once, even if the rebuild failed, since its content also tells
 * that one is under way. Before that, only a waiter for a "partial" list (a first build, which
 * publishes as it goes) is refreshed, once for each generation: an empty page fills up, a stale
 * one is left in peace. What a waiter was refreshed for is remembered, so a status and a page
 * that disagree for ever cannot make a loop.
 *
 * Times are milliseconds, except in what the server sends.
 */
"use strict";

(function (root) {
  // The first statement, because currentScript is null once the script has run.
  const tag = root.document?.currentScript;
  if (root.Warmcache?.version) return; // a second copy would ask everything twice

  const settings = {
    statusUrl: "/api/cache/stats",
    interval: 2000,
    timeout: 10000,
    maxInterval: 10000,
    auto: true, // scan the document when it is there
  };

  /** What a test, or an odd host, may replace. */
  const env = {
    fetch: (...args) => root.fetch(...args),
    now: () => root.performance.now(), // does not jump when somebody sets the clock
    random: () => Math.random(),
    setTimeout: (call, delay) => root.setTimeout(call, delay),
    clearTimeout: (timer) => root.clearTimeout(timer),
    navigate: () => root.location.reload(), // keeps the scroll position; setting href does not
  };

  // Less than 100 is somebody who wrote seconds: 2 would be 500 polls a second.
  const isPause = (value) => Number(value) >= 100 && Number(value) < Infinity;

  const warn = (message) => root.console.warn(`warmcache: ${message}`);

  function configure(options) {
    for (const [name, value] of Object.entries(options)) {
      if (!(name in settings)) throw new TypeError(`Warmcache has no option ${name}.`);
      if (name === "auto") settings.auto = String(value) !== "false";
      else if (name === "statusUrl" && value) settings.statusUrl = String(value);
      else if (isPause(value)) settings[name] = Number(value);
      else warn(`${name} cannot be "${value}", it stays ${settings[name]}`);
    }
  }

  for (const name of Object.keys(settings)) {
    const value = tag?.dataset[name]; // data-status-url is dataset.statusUrl
    if (value !== undefined) configure({ [name]: value });
  }

  /* ---- asking ---- */

  /** What went wrong, in the words of the event warmcache:error. */
  class Fault extends Error {
    constructor(code, message, fatal = false, floor = 0) {
      super(message);
      Object.assign(this, { code, fatal, floor });
    }
  }

  function httpFault(url, status, header) {
    const fatal = [401, 403, 404, 410].includes(status); // asking again cannot help
    const code = status === 401 || status === 403 ? "auth" : "http";
    return new Fault(code, `${url} answered ${status}`, fatal, retryAfter(header));
  }

  /** Retry-After, in seconds or as a date, in milliseconds; 0 if it says nothing. */
  function retryAfter(header) {
    const value = header("Retry-After")?.trim();
    if (!value) return 0;
    let wait = Number(value) * 1000;
    // A date is compared with the server's own clock where it tells it: ours may be wrong.
    if (isNaN(wait)) wait = Date.parse(value) - (Date.parse(header("Date")) || Date.now());
    return wait > 0 ? Math.min(wait, 300000) : 0; // an absurd date must not silence a page
  }

  /** Call abort() when the signal aborts; returns what takes the listener away again. */
  function follow(signal, abort) {
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    return () => signal?.removeEventListener("abort", abort);
  }

  /** Fetch JSON within the deadline; throws a Fault. */
  async function ask(url, signal) {
    const control = new root.AbortController();
    const unfollow = follow(signal, () => control.abort());
    let code = "network";
    const deadline = env.setTimeout(() => {
      code = "timeout";
      control.abort();
    }, settings.timeout);
    try {
      const headers = { Accept: "application/json" };
      const response = await env.fetch(url, { headers, signal: control.signal });
      const header = (name) => response.headers.get(name);
      if (!response.ok) throw httpFault(url, response.status, header);
      if (response.redirected && !/\bjson\b/.test(header("Content-Type"))) {
        // The session has ended, and fetch followed to the login page, which answers 200.
        throw new Fault("auth", `${url} was redirected to a page`, true);
      }
      return { body: await response.json(), header, floor: retryAfter(header) };
    } catch (error) {
      if (error instanceof Fault) throw error;
      throw new Fault(error.name === "SyntaxError" ? "body" : code, `${url}: ${error.message}`);
    } finally {
      env.clearTimeout(deadline);
      unfollow();
    }
  }

  /** The header "NAME; gen=…; state=…" of a list's answer, as {name, gen, state}. */
  function readHeader(header) {
    const [name, ...facts] = (header("X-Warmcache") || "").split(";").map((part) => part.trim());
    return { ...Object.fromEntries(facts.map((fact) => fact.split("="))), name };
  }

  /* ---- the poller: asks about one list, for all its waiters ---- */

  const pollers = new Map(); // by status URL and name
  let left = false; // between pagehide and pageshow, in the back/forward cache

  const paused = () => left || root.document?.visibilityState === "hidden";

  /** Dispatch warmcache:TYPE; false if a listener prevented it. */
  function fire(target, type, detail, cancelable = false) {
    const init = { bubbles: true, cancelable, detail };
    return target ? target.dispatchEvent(new root.CustomEvent(`warmcache:${type}`, init)) : true;
  }

  class Poller {
    constructor(name, url) {
      this.name = name;
      this.url = url;
      this.waiters = new Set();
      this.state = "idle"; // then the server's word for the list, or "error"
      this.status = null;
      this.generation = null;
      this.progress = null;
      this.failures = 0; // failed polls in a row
      this.timer = null;
      this.request = null; // the AbortController of the one request in flight
      this.askedAt = env.now();
      this.notBefore = 0; // Retry-After
      this.waited = 0; // the timers that ran out, so that hidden time does not count
    }

    get interval() {
      return Math.min(...[...this.waiters].map((waiter) => waiter.interval));
    }

    /** The normal pause. After a minute it grows: a long rebuild is asked about less often. */
    pause() {
      const growth = 1.5 ** Math.max(0, (this.waited - 60000) / 30000);
      const most = Math.max(this.interval, settings.maxInterval);
      // Within 15 %, so that tabs opened together do not go on asking together.
      return Math.min(this.interval * growth, most) * (0.85 + 0.3 * env.random());
    }

    /** The pause after n failures: half fixed, half random, so that no herd comes back. */
    backOff(n) {
      return (Math.min(60000, this.interval * 2 ** n) / 2) * (1 + env.random());
    }

    /** Ask after delay, or when Retry-After allows. */
    arm(delay) {
      env.clearTimeout(this.timer);
      this.timer = null;
      if (paused() || !this.waiters.size) return;
      const wait = Math.max(delay, this.notBefore - env.now());
      this.timer = env.setTimeout(() => {
        this.waited += wait;
        this.ask();
      }, wait);
    }

    halt() {
      env.clearTimeout(this.timer);
      this.timer = null;
      this.request?.abort();
      this.request = null;
    }

    /** Shown again: ask at once, but flicking through tabs must not cost a poll each time. */
    resume() {
      if (this.request || this.timer !== null) return;
      const since = Math.max(0, env.now() - this.askedAt);
      this.arm(Math.max(this.interval - since, 250 * env.random()));
    }

    /** Ask now, by hand. Returns whether a request was started. */
    poll() {
      if (this.request || paused() || env.now() < this.notBefore) return false;
      this.ask();
      return true;
    }

    async ask() {
      env.clearTimeout(this.timer);
      this.timer = null;
      for (const waiter of [...this.waiters]) {
        if (waiter.element?.isConnected === false) waiter.end("stopped");
      }
      if (!this.waiters.size) return;
      const request = (this.request = new root.AbortController());
      this.askedAt = env.now();
      const answer = await ask(this.url, request.signal).catch((error) => error);
      if (this.request !== request) return; // halted meanwhile, which is no failure
      this.request = null;
      this.askedAt = env.now();
      // A little above the floor: everybody was told the same one.
      this.notBefore = answer.floor && env.now() + answer.floor * (1 + 0.2 * env.random());
      if (answer instanceof Fault) this.fail(answer);
      else if (typeof answer.body?.cache_rebuilding === "boolean") this.take(answer.body);
      else this.fail(new Fault("body", `${this.url} did not answer a status`));
    }

    fail(error) {
      this.failures += 1;
      if (error.fatal || this.failures > 1) {
        // One lost request is everyday life and not worth a word to the user.
        this.enter("error");
        this.complain(error, this.failures);
      }
      if (error.fatal) for (const waiter of [...this.waiters]) waiter.end("failed", error);
      else this.arm(this.backOff(this.failures));
    }

    take(status) {
      this.failures = 0;
      this.status = status;
      this.generation = status.generation ?? null;
      this.enter(status.state);
      this.tellProgress(status.progress);
      // With nothing published there is nothing to show, whatever the flag says: the keeper may be
      // about to start or to try again, or rebuilding may be left to cron.
      if (this.generation !== null && !status.cache_rebuilding) return this.finish(status);
      for (const waiter of status.state === "partial" ? [...this.waiters] : []) {
        if (waiter.generation !== this.generation) waiter.renew(this.generation, status);
      }
      this.arm(this.pause());
    }

    /** The rebuild is over: say so, once for each target, and refresh who was not stopped. */
    finish(status) {
      const { name, generation } = this;
      const key = `${generation} over`; // not the refresh of a partial list
      const goAhead = new Map();
      for (const waiter of [...this.waiters]) {
        const { target } = waiter;
        if (waiter.refreshed.has(key)) waiter.end("skipped");
        if (!waiter.active) continue; // a listener may stop anyone
        if (!goAhead.has(target)) {
          const told = waiter.told === key; // and is here again because its refresh failed
          goAhead.set(target, told || fire(target, "ready", { name, status, generation }, true));
        }
        waiter.told = key;
        if (waiter.busy) this.arm(this.pause()); // with a partial one: look again
        else if (!goAhead.get(target)) waiter.end("prevented");
        else waiter.renew(key, status, true);
      }
    }

    enter(state) {
      const from = this.state;
      if (state === from) return;
      this.state = state;
      this.tell("state", { from, to: state });
    }

    tellProgress(progress) {
      const text = JSON.stringify(progress);
      if (!progress || text === this.progress) return;
      this.progress = text;
      const amount = (value) => (value >= 0 && value !== null ? Number(value) : null);
      const [done, total] = [amount(progress.done), amount(progress.total)];
      const ratio = done !== null && total ? Math.min(1, done / total) : null;
      const { phase = null, eta_seconds: eta } = progress;
      this.tell("progress", { phase, done, total, ratio, eta: amount(eta) });
    }

    complain({ code, message, fatal }, failures, waiters) {
      this.tell("error", { code, message, fatal, failures }, waiters);
    }

    tell(type, detail, waiters = this.waiters) {
      const targets = new Set([...waiters].map((waiter) => waiter.target));
      for (const target of targets) fire(target, type, { name: this.name, ...detail });
    }
  }

  /* ---- the waiters: a region, a json() call, a watch() call ---- */

  class Waiter {
    constructor(poller, options, refreshed, onEnd) {
      this.poller = poller;
      this.element = options.element;
      this.target = options.element || root.document?.body;
      this.generation = options.generation ?? null; // the one the page shows
      this.interval = isPause(options.interval) ? options.interval : settings.interval;
      this.refresh = options.refresh;
      this.refreshed = refreshed; // what for; outlives the waiter
      this.onEnd = onEnd;
      this.busy = false; // refreshing
      this.failures = 0; // failed refreshes in a row
      this.control = new root.AbortController();
    }

    get active() {
      return this.poller.waiters.has(this);
    }

    /** Outcomes: refreshed, left (as it was), prevented, skipped, failed, stopped. */
    end(outcome, error) {
      if (!this.active) return;
      const { poller } = this;
      poller.waiters.delete(this);
      if (!poller.waiters.size) {
        poller.halt();
        pollers.delete(poller.url);
      }
      this.unfollow?.(); // not there yet if the signal had aborted before
      this.control.abort();
      this.onEnd?.(outcome, error);
    }

    /** Refresh for key, unless that was done. */
    async renew(key, status, isLast = false) {
      if (this.busy || !this.active || this.refreshed.has(key)) return;
      const { name, generation } = this.poller;
      let result = false; // what a function returns that leaves the content alone
      this.busy = true;
      try {
        if (this.refresh) result = await this.refresh(status, this.handle, this.control.signal);
      } catch (error) {
        return this.active && this.fail(error);
      } finally {
        this.busy = false;
      }
      if (!this.active) return;
      this.failures = 0;
      if (result !== false) {
        this.refreshed.add(key);
        this.generation = generation;
        fire(this.target, "refreshed", { name, generation });
      }
      if (isLast) this.end(result === false ? "left" : "refreshed");
    }

    /** Try again after a back-off, with a new look at the status; five times. */
    fail(error) {
      const { poller } = this;
      let told = error;
      if (!(error instanceof Fault)) {
        root.console.error(error); // most likely a bug in the page's own function
        told = new Fault("refresh", String(error));
      }
      this.failures += 1;
      if (this.failures > 4) told.fatal = true;
      if (told.fatal || this.failures > 1) poller.complain(told, this.failures, [this]);
      if (told.fatal) this.end("failed", told);
      else if (!poller.request) poller.arm(Math.max(told.floor, poller.backOff(this.failures)));
    }
  }

  function wait(name, options, refreshed, onEnd) {
    if (!name || typeof name !== "string") throw new TypeError("Warmcache needs a list's name.");
    const url = `${settings.statusUrl}/${encodeURIComponent(name)}`;
    const poller = pollers.get(url) || new Poller(name, url);
    const waiter = new Waiter(poller, options, refreshed, onEnd);
    waiter.handle = {
      name,
      get state() {
        return poller.state;
      },
      get status() {
        return poller.status;
      },
      get generation() {
        return poller.generation ?? waiter.generation;
      },
      poll: () => waiter.active && poller.poll(),
      stop: () => waiter.end("stopped"),
    };
    pollers.set(url, poller);
    poller.waiters.add(waiter);
    if (poller.state === "idle" && options.state) poller.state = options.state;
    if (!poller.request && poller.timer === null) poller.arm(poller.pause());
    waiter.unfollow = follow(options.signal, waiter.handle.stop);
    return waiter.handle;
  }

  /**
   * Wait for a list. Options: element (where events start), refresh (a function of status, watcher
   * and signal, or a strategy's name for element), interval, generation (the page's), signal.
   */
  function watch(name, options = {}) {
    const { refresh, element } = options;
    const act = typeof refresh === "string" ? strategy(refresh, element) : refresh;
    return wait(name, { ...options, refresh: act }, new Set());
  }

  /**
   * Fetch JSON; call onData(data, {rebuilding}) now, and again with newer data until it is no
   * longer being rebuilt. Returns {done, stop}; done is a promise of the last data.
   */
  function json(url, onData, options = {}) {
    const control = new root.AbortController();
    const unfollow = follow(options.signal, () => control.abort());
    const { signal } = control;
    const refreshed = new Set();
    let data, name, generation, again;

    function give(flag) {
      again = flag;
      try {
        onData(data, { rebuilding: flag });
      } catch (error) {
        root.console.error(error); // a bug in the page does not end the wait
      }
    }

    async function load() {
      const { body, header } = await ask(url, signal);
      if (signal.aborted) return false;
      const { name: named, gen } = readHeader(header);
      [data, name, generation] = [body, options.name || named, gen];
      give(Boolean(body?.cache_rebuilding));
    }

    async function run() {
      await load();
      while (again && !signal.aborted) {
        if (!name) return warn(`${url} needs options.name or X-Warmcache`);
        const wish = { ...options, signal, generation, refresh: load };
        const outcome = await new Promise((resolve, reject) => {
          wait(name, wish, refreshed, (word, error) => (error ? reject(error) : resolve(word)));
        });
        // It is over, but this generation's answer said otherwise: asking again would be a loop.
        if (outcome === "skipped") give(false);
        if (outcome !== "refreshed") return;
      }
    }

    const done = run()
      .catch((error) => {
        if (!signal.aborted) throw error;
      })
      .then(() => data)
      .finally(unfollow);
    done.catch(() => {}); // whoever ignores it has the events
    return { done, stop: () => control.abort() };
  }

  /**
   * Look at an answer fetched elsewhere, a Response or a parsed body (which needs options.name).
   * Returns a watcher if it is being rebuilt, else null.
   */
  function inspect(answer, options = {}) {
    const isResponse = typeof answer?.headers?.get === "function";
    const { name, gen, state } = isResponse ? readHeader((key) => answer.headers.get(key)) : {};
    // The header has no flag; if a stale list is not being rebuilt, one poll will tell.
    const waits = answer?.cache_rebuilding === true || ["cold", "partial", "stale"].includes(state);
    return waits ? watch(options.name || name, { generation: gen, ...options }) : null;
  }

  /* ---- regions ---- */

  const regions = new WeakMap(); // element: {watcher, refreshed}

  /** Attach the regions in scope, itself included; doing so again does no harm. */
  function scan(scope = root.document) {
    if (scope.matches?.("[data-warmcache]")) attach(scope);
    scope.querySelectorAll("[data-warmcache]").forEach(attach);
  }

  function attach(element) {
    const { dataset } = element;
    const region = regions.get(element) || { refreshed: new Set() };
    regions.set(element, region);
    const state = dataset.warmcacheState;
    const waits = ["cold", "partial"].includes(state) || dataset.warmcacheRebuilding === "true";
    if (region.watcher || !waits || !dataset.warmcache) return;
    const generation = dataset.warmcacheGeneration || null;
    const refresh = strategy(dataset.warmcacheRefresh || "auto", element);
    const options = { element, state, generation, refresh };
    region.watcher = wait(dataset.warmcache, options, region.refreshed, (outcome) => {
      region.watcher = null;
      if (outcome === "refreshed") scan(element); // what came may itself be waiting
      else if (outcome !== "stopped") dataset.warmcacheRebuilding = "false";
    });
  }

  /** The refresh function for a strategy's name; none if the events are all. */
  function strategy(way, element) {
    if (way === "reload" || (way === "auto" && !element?.id)) {
      return (status, { name }) => reload(name, status, element);
    }
    if ((way === "auto" || way === "swap") && element?.id) {
      return (status, { name }, signal) => swap(name, status, element, signal);
    }
    if (way !== "event") warn(`cannot ${way}${element?.id ? "" : " without an id"}`);
  }

  /** Leave the region as it is, and hand over how to refresh it after all. */
  function block(name, element, reason, proceed) {
    fire(element || root.document.body, "blocked", { name, reason, proceed });
    return false;
  }

  async function swap(name, status, element, signal) {
    const fill = (found) => replace(element, found, status);
    const leave = () =>
      !status.cache_rebuilding && // before the end, another chance will come
      block(name, element, "editing", async () => {
        fill(await load(element));
        fire(element, "refreshed", { name, generation: status.generation });
        scan(element);
      });
    if (inUse(element)) return leave();
    const found = await load(element, signal);
    if (signal.aborted) return false;
    return inUse(element) ? leave() : fill(found); // the user did not wait for the answer
  }

  /**
   * The element of the same id in the region's source. An XHR parses it: under Trusted Types it
   * needs no policy, as DOMParser does, and scripts in what it parsed do not run.
   */
  function load(element, signal) {
    const url = element.dataset.warmcacheSrc || root.location.href;
    return new Promise((resolve, reject) => {
      const request = new root.XMLHttpRequest();
      const unfollow = follow(signal, () => request.abort());
      request.open("GET", url);
      request.responseType = "document";
      request.timeout = settings.timeout;
      request.setRequestHeader("Accept", "text/html");
      request.setRequestHeader("Cache-Control", "no-cache"); // the page may be cacheable
      request.ontimeout = () => reject(new Fault("timeout", `${url} did not answer in time`));
      request.onloadend = () => {
        unfollow();
        const { status } = request;
        const found = request.responseXML?.getElementById(element.id);
        if (status === 0) reject(new Fault("network", `${url} did not answer`));
        else if (status < 200 || status > 299) {
          reject(httpFault(url, status, (key) => request.getResponseHeader(key)));
        } else if (found) resolve(found);
        else reject(new Fault("body", `${url} has no element with the id ${element.id}`));
      };
      request.send();
    });
  }

  /** Replace the children and what the region says about itself; keep scroll, and focus by id. */
  function replace(element, found, status) {
    const { document } = root;
    const focused = element.contains(document.activeElement) && document.activeElement.id;
    const { scrollTop, scrollLeft } = element;
    const { scrollX, scrollY } = root;
    element.replaceChildren(...found.childNodes);
    const told = {
      "data-warmcache-state": status.state,
      "data-warmcache-generation": status.generation,
      "data-warmcache-rebuilding": status.cache_rebuilding,
      "aria-busy": null,
    };
    for (const [name, fallback] of Object.entries(told)) {
      const value = found.getAttribute(name) ?? fallback;
      if (value === null || value === undefined) element.removeAttribute(name);
      else element.setAttribute(name, value);
    }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    Object.assign(element, { scrollTop, scrollLeft });
    root.scrollTo(scrollX, scrollY);
  }

  /** Whether a field is focused or holds what nobody has sent: the user would lose it. */
  function inUse(scope) {
    const active = root.document.activeElement;
    const typed = "input:not([type=button],[type=submit],[type=reset]),textarea,select";
    if (scope.contains(active) && (active.matches(typed) || active.isContentEditable)) return true;
    return [...scope.querySelectorAll("input,textarea,select")].some(isDirty);
  }

  function isDirty(field) {
    if (field.options) {
      const options = [...field.options];
      const given = options.filter((option) => option.defaultSelected);
      // Without a default a drop-down shows the first option that may be chosen.
      const isList = field.multiple || field.size > 1;
      if (!given.length && !isList) given.push(options.find((option) => !option.disabled));
      return options.some((option) => option.selected !== given.includes(option));
    }
    if (/^(checkbox|radio)$/.test(field.type)) return field.checked !== field.defaultChecked;
    // A slider or a colour has a value without being given one.
    if (/^(range|color)$/.test(field.type) && !field.hasAttribute("value")) return false;
    return field.value !== field.defaultValue;
  }

  let reloaded = false; // one automatic reload per document: a second call could cut off the first

  /** Reload, unless that could become a loop or cost the user something. */
  function reload(name, status, element) {
    const { generation } = status;
    const shown = element?.dataset.warmcacheGeneration;
    if (status.cache_rebuilding || generation === shown) return false; // nothing new to show
    let reason = inUse(root.document) ? "editing" : reloaded ? "loop" : "";
    const { pathname, search } = root.location;
    const key = `warmcache:${name}:${generation}:${pathname}${search}`;
    try {
      if (!reason && root.sessionStorage.getItem(key)) reason = "loop";
      if (!reason) root.sessionStorage.setItem(key, "reloaded");
    } catch {
      reason = "storage"; // what cannot be remembered could be repeated for ever
    }
    if (reason) return block(name, element, reason, () => env.navigate());
    reloaded = true;
    env.navigate();
    return false; // it is the next document that will be fresh
  }

  /* ---- the page's life ---- */

  function turn() {
    for (const poller of [...pollers.values()]) paused() ? poller.halt() : poller.resume();
  }

  if (root.document) {
    root.document.addEventListener("visibilitychange", turn);
    // Not unload: a listener for it keeps the page out of the back/forward cache.
    for (const type of ["pagehide", "pageshow"]) {
      root.addEventListener(type, () => {
        left = type === "pagehide";
        turn();
      });
    }
    const start = () => settings.auto && scan();
    if (root.document.readyState !== "loading") start();
    else root.document.addEventListener("DOMContentLoaded", start);
  }

  root.Warmcache = { version: "0.1.0", env, configure, watch, json, inspect, scan };
  if (typeof module === "object") module.exports = root.Warmcache;
})(globalThis);
