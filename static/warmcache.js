/* The poller of flask-warmcache; docs/poller.md describes it.
 *
 * While a list is rebuilt, the poller asks for its status until a newer one is published, and then
 * refreshes the page. Each list has one timer and one request. Times are milliseconds.
 */
"use strict";

(function (root) {
  const { document } = root;
  const given = document?.currentScript?.dataset || {}; // null in callbacks
  if (root.Warmcache?.version) return;

  const settings = {
    statusUrl: "/api/cache/stats",
    interval: 2000,
    maxInterval: 10000,
    jitter: 0.15,
    timeout: 10000,
    errorMax: 60000,
    hidden: "pause",
    hiddenInterval: 60000,
    maxWait: 600000,
    spread: 1000,
    share: true,
    refresh: "auto",
    watch: 0,
    auto: true,
    credentials: "same-origin",
  };

  // A number below 100 is probably in seconds.
  const pauses = /^[1-9]\d{2,7}$/;
  const pausesOrNone = /^(0|[1-9]\d{2,7})$/;
  const rules = {
    jitter: /^0(\.\d+)?$/,
    spread: pausesOrNone,
    watch: pausesOrNone,
    hidden: /^(pause|slow|keep)$/,
    boolean: /^(true|false)$/,
    number: pauses,
  };

  const env = {
    fetch: (...args) => fetch(...args),
    setTimeout: (...args) => setTimeout(...args),
    clearTimeout: (timer) => clearTimeout(timer),
    now: () => performance.now(),
    random: () => Math.random(),
    navigate: () => location.reload(), // keeps the scroll position
  };

  function configure(options) {
    for (const [name, value] of Object.entries(options)) {
      const type = typeof settings[name];
      if (type === "undefined") throw new TypeError(`Warmcache has no option ${name}.`);
      if (!(rules[name] || rules[type] || /./).test(value)) {
        console.warn(`warmcache: ${name} cannot be "${value}"`);
      } else settings[name] = /number|boolean/.test(type) ? JSON.parse(value) : value;
    }
  }

  for (const name in settings) if (name in given) configure({ [name]: given[name] });

  /* ---- asking ---- */

  const fault = (code, message, fatal = false, floor = 0) =>
    Object.assign(new Error(message), { code, fatal, floor });

  function httpFault(url, status, header) {
    const fatal = /^4(0[134]|10)$/.test(status);
    const code = /^40[13]$/.test(status) ? "auth" : "http";
    return fault(code, `${url} answered ${status}`, fatal, retryAfter(header));
  }

  function retryAfter(header) {
    const wait = isNaN(header) ? Date.parse(header) - Date.now() : header * 1000;
    return wait > 0 ? Math.min(wait, 300000) : 0;
  }

  async function ask(url, control) {
    const deadline = env.setTimeout(() => control.abort("timeout"), settings.timeout);
    const { signal } = control;
    let response, body;
    try {
      const headers = { Accept: "application/json" };
      response = await env.fetch(url, { headers, credentials: settings.credentials, signal });
      if (response.ok) body = await response.json();
    } catch (error) {
      const code = signal.reason || (!response?.ok ? "network" : response.redirected ? "auth" : "body");
      throw fault(code, `${url}: ${error.message || code}`, code === "auth");
    } finally {
      env.clearTimeout(deadline);
      control.abort();
    }
    const { headers, ok, status } = response;
    const floor = headers.get("Retry-After");
    if (!ok) throw httpFault(url, status, floor);
    return { body, headers, floor: retryAfter(floor) };
  }

  function readHeader(headers) {
    const [name, ...facts] = (headers.get("X-Warmcache") || "").split("; ");
    const { gen: generation, state } = Object.fromEntries(facts.map((fact) => fact.split("=")));
    return { name, state, generation };
  }

  /* ---- lists ---- */

  const lists = new Map();
  const views = new Set();
  let left = false;
  let channel; // to other tabs; prevents the back/forward cache

  const isHidden = () => document?.hidden && settings.hidden !== "keep";
  const isPaused = () => left || (isHidden() && settings.hidden !== "slow");
  const vary = (wait) => wait * (1 + settings.jitter * (2 * env.random() - 1));
  const isOffline = () => root.navigator?.onLine === false;
  const isWaiting = (state) => /cold|partial|stale/.test(state);

  function fire(target, type, detail) {
    const init = { bubbles: true, cancelable: true, detail };
    return target?.dispatchEvent(new CustomEvent(`warmcache:${type}`, init));
  }

  function listOf(name) {
    if (!name || typeof name !== "string") throw new TypeError("Warmcache needs a list's name.");
    if (!lists.has(name)) lists.set(name, createList(name));
    return lists.get(name);
  }

  function createList(name) {
    const watchers = new Set();
    const replaced = new Set(); // generations that only outdated workers report
    let timer, request;
    let waited; // while the page was visible
    let isDue; // a refresh is scheduled
    let askedAt = 0;
    let notBefore = 0;
    let hasInsisted; // that poll() asks before
    let delivered;

    const list = { name, poll, _tell: tell, _fail: fail, _take: take, _settle: settle, _wake: wake, _join: join };
    reset();
    return list;

    function reset(state = "idle") {
      Object.assign(list, {
        state,
        status: null,
        generation: null,
        progress: null,
        _isOver: false,
        _proceed: null,
        _failures: 0,
      });
      waited = 0;
      isDue = false;
    }

    function tell(type, detail, to = watchers) {
      for (const target of new Set([...to].map((watcher) => watcher._target))) fire(target, type, { name, ...detail });
      paint();
    }

    function paint() {
      for (const view of views) if (view.getAttribute("for") === name) view._paint(list);
    }

    function enter(to) {
      const from = list.state;
      if (to === from) return;
      list.state = to;
      tell("state", { from, to });
      if (to === "failed") tell("error", { code: "rebuild", message: list.status.last_error, fatal: false, failures: 1 });
    }

    /** Return what the server asks for, one interval at most while progress is to be seen, or a slowly growing pause. */
    function pause() {
      const wish = list.status?.poll_after_ms;
      const { interval, maxInterval, jitter } = settings;
      let wait = Math.min(interval * 1.5 ** Math.max(0, waited / 30000 - 2), Math.max(interval, maxInterval));
      if (list.progress) wait = interval / (1 + jitter);
      if (wish > 0) wait = Math.max(250, Math.min(wish, 300000));
      return vary(isHidden() ? settings.hiddenInterval : wait);
    }

    function halt() {
      env.clearTimeout(timer);
      request?.abort();
      timer = request = null;
    }

    function arm(delay) {
      env.clearTimeout(timer);
      timer = null;
      if (isPaused() || !watchers.size) return;
      let wait = Math.max(delay, notBefore - env.now());
      if (isDue) wait = env.random() * Math.max(settings.spread, list.status.spread_ms || 0);
      else if (waited >= settings.maxWait) {
        enter("stalled");
        tell("stalled", { waited });
        for (const watcher of watchers) if (watcher._until === "stalled") watcher._end("stalled");
        return;
      }
      timer = env.setTimeout(() => {
        timer = null;
        if (!isHidden()) waited += wait;
        for (const watcher of watchers) if (watcher.element?.isConnected === false) watcher.stop();
        if (watchers.size) isDue ? deliver() : look();
      }, wait);
    }

    function wake(delay, state) {
      if (!watchers.size || list.state === "stalled") return;
      open();
      if (state || isPaused()) halt();
      if (state) enter(state);
      const rest = settings.interval - Math.abs(env.now() - askedAt); // clocks may jump
      if (!request) arm(delay ?? Math.max(rest, 250 * env.random()));
    }

    function poll() {
      const isEarly = env.now() < notBefore;
      if (request || isDue || isPaused() || !watchers.size || (isEarly && hasInsisted)) return false;
      hasInsisted = isEarly;
      if (list.state === "stalled") {
        waited = 0;
        enter("idle");
      }
      look();
      return true;
    }

    async function look() {
      halt();
      const mine = (request = new AbortController());
      const url = `${settings.statusUrl}/${encodeURIComponent(name)}`;
      askedAt = env.now();
      const answer = await ask(url, mine).catch((error) => error);
      if (request !== mine) return;
      request = null;
      notBefore = answer.floor && env.now() + answer.floor * (1 + 0.2 * env.random());
      const { body } = answer;
      if (answer.code) fail(answer);
      else if (typeof body?.cache_rebuilding !== "boolean") fail(fault("body", `${url}: no status`));
      else {
        channel?.postMessage({ name, body });
        take(body);
      }
    }

    /** Handle a failed poll, or a failed refresh, which is tried five times. */
    function fail(error, who = list) {
      const count = (who._failures += 1);
      const isPoll = who === list;
      const concerned = isPoll ? [...watchers] : [who];
      error.fatal ||= !isPoll && count > 4;
      if (error.fatal || count > 1) {
        // A single failed request is not reported.
        if (isPoll) enter(isOffline() ? "offline" : "error");
        const { code, message, fatal } = error;
        tell("error", { code, message, fatal, failures: count }, concerned);
      }
      if (error.fatal) {
        for (const watcher of concerned) watcher._end("failed", error);
        return isPoll || settle();
      }
      // Pages must not come back all at once.
      const wait = (Math.min(settings.errorMax, settings.interval * 2 ** count) / 2) * (1 + env.random());
      arm(isOffline() ? vary(settings.errorMax) : Math.max(error.floor, wait));
    }

    function take(status) {
      const { generation = null, state } = status;
      const isOver = generation && !status.cache_rebuilding;
      if (isDue || !watchers.size || (list.state === "stalled" && !isOver)) return;
      halt();
      list._failures = hasInsisted = 0;
      askedAt = env.now();
      if (!replaced.has(generation)) {
        replaced.add(list.generation).delete(generation);
        Object.assign(list, { status, generation, _isOver: isOver, progress: status.progress && measure(status.progress) });
        const behind = [...watchers].filter((watcher) => generation && watcher._lacks());
        if (isOver && !behind.length) return settle();
        isDue = isOver;
        if (isDue) list._proceed = null;
        enter(isDue ? "ready" : state);
        if (list.progress) tell("progress", list.progress);
        // A cold page shows parts of the list; a stale page waits for the end.
        for (const watcher of behind) {
          if (!isDue && (state === "partial" || watcher._isCold)) watcher._renew();
        }
      }
      arm(pause());
    }

    function measure({ phase, done, total, eta_seconds: eta }) {
      const ratio = done >= 0 && total > 0 ? Math.min(1, done / total) : null;
      return { phase, done, total, ratio, eta: eta >= 0 ? eta : null };
    }

    function deliver() {
      const { status, generation } = list;
      const goAhead = new Map();
      const before = delivered;
      delivered = generation + document?.URL;
      const isLoop = delivered === before; // in a region that replaced another
      isDue = false;
      for (const watcher of [...watchers]) {
        const { _target: target } = watcher;
        if (!watchers.has(watcher) || !watcher._lacks()) continue;
        if (!watcher._failures && !goAhead.has(target)) {
          goAhead.set(
            target,
            isLoop && watcher.element ? block(watcher, "loop") : fire(target, "ready", { name, status, generation }),
          );
        }
        watcher._renew(goAhead.get(target) !== false);
      }
      settle();
    }

    function settle() {
      if (isDue || !list._isOver) return;
      for (const watcher of watchers) {
        if (watcher._busy) return;
        if (watcher._lacks()) return timer || request || arm(pause());
      }
      waited = 0;
      const { state } = list.status;
      enter(list._proceed ? "ready" : /fresh|failed/.test(state) ? state : "idle");
      for (const watcher of watchers) {
        if (watcher._until || !settings.watch) watcher._end(watcher._outcome);
      }
      arm(vary(settings.watch));
    }

    /** Add a watcher; return a function that removes it. */
    function join(watcher, { state }) {
      if (!watchers.size) reset(state);
      watchers.add(watcher);
      open();
      paint();
      if (!request) arm(pause());
      return (outcome) => {
        watchers.delete(watcher);
        if (watchers.size) return;
        halt();
        if (outcome === "stopped") reset();
        paint();
      };
    }
  }

  function open() {
    if (channel || left || !document || !settings.share) return;
    channel = new BroadcastChannel(`warmcache ${settings.statusUrl}`);
    channel.onmessage = ({ data }) => lists.get(data.name)?._take(data.body);
  }

  /* ---- watchers ---- */

  function follow(signal, stop, control) {
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { signal: control.signal });
  }

  function watch(name, options = {}, heed) {
    const list = listOf(name);
    const { element, seen = new Set() } = options; // generations that are shown
    seen.add(options.generation);
    const { refresh = element ? settings.refresh : "event" } = options;
    let control, leave;

    // A watcher inherits from its list; _ is private.
    const watcher = Object.assign(Object.create(list), {
      element,
      stop: () => end("stopped"),
      resume() {
        if (list.state === "stalled") list.poll();
        if (leave) return;
        control = new AbortController();
        watcher._outcome = "left";
        leave = list._join(watcher, options);
        follow(options.signal, watcher.stop, control);
      },
      _target: element || document?.body,
      _failures: 0,
      _until: options.until,
      _isCold: options.state === "cold",
      _seen: seen,
      _lacks: () => !seen.has(list.generation),
      _end: end,
      _renew: renew,
      _refreshed: refreshed,
    });

    function end(outcome, error) {
      if (!leave) return;
      leave = leave(outcome);
      control.abort();
      heed?.(outcome, error);
    }

    function refreshed() {
      const strategy = refresh.call ? "function" : refresh;
      watcher._outcome = "refreshed";
      fire(watcher._target, "refreshed", { name, strategy, generation: list.generation });
    }

    async function renew(isAllowed = true) {
      const { status, generation } = list;
      const { signal } = control;
      if (watcher._busy || signal.aborted) return;
      watcher._busy = true;
      try {
        const strategy = strategies[refresh] || refresh;
        const result = isAllowed && (await strategy(status, watcher, signal));
        watcher._busy = false;
        if (signal.aborted) return;
        watcher._failures = 0;
        seen.add(generation);
        if (result !== false) refreshed();
        list._settle();
      } catch (error) {
        watcher._busy = false;
        if (signal.aborted) return;
        if (watcher._failures > 3 && element) block(watcher, "prompt");
        if (error.fatal === undefined) {
          console.error(error);
          error = fault("refresh", String(error));
        }
        list._fail(error, watcher);
      }
    }

    watcher.resume();
    return watcher;
  }

  function ready(name, { timeout, ...options } = {}) {
    return new Promise((resolve, reject) => {
      let timer;
      const wish = { refresh: "event", until: "stalled", ...options };
      const watcher = watch(name, wish, (outcome, error) => {
        env.clearTimeout(timer);
        if (/left|refreshed/.test(outcome)) resolve(watcher.status);
        else reject(error || fault(outcome, name));
      });
      if (timeout) timer = env.setTimeout(() => watcher._end("timeout"), timeout);
    });
  }

  function json(url, onData, options = {}) {
    const control = new AbortController();
    const { signal } = control;
    const stop = () => control.abort();
    let data, facts, again;
    const seen = new Set();

    function give(rebuilding) {
      again = rebuilding;
      // An error of the page must not end the wait.
      queueMicrotask(() => onData(data, { rebuilding, generation: facts.generation }));
    }

    async function load() {
      const request = new AbortController();
      follow(signal, () => request.abort(), request);
      const { body, headers } = await ask(url, request);
      data = body;
      facts = { ...readHeader(headers), ...options };
      if (!signal.aborted) give(body?.cache_rebuilding ?? isWaiting(facts.state));
    }

    async function run() {
      for (await load(); again && !signal.aborted; ) {
        if (!facts.name) {
          console.warn("Warmcache needs a list's name.");
          break;
        }
        again = null;
        await ready(facts.name, { ...facts, seen, signal, refresh: load, until: "over" });
        if (again === null) give(false); // nothing newer
      }
      return data;
    }

    follow(options.signal, stop, control);
    const done = run()
      .catch((error) => {
        if (!signal.aborted) throw error;
        return data;
      })
      .finally(stop);
    return { done, stop };
  }

  function inspect(answer, options) {
    const wish = { ...(answer?.headers?.get && readHeader(answer.headers)), ...options };
    return answer?.cache_rebuilding ?? isWaiting(wish.state) ? watch(wish.name, wish) : null;
  }

  /* ---- regions ---- */

  function scan(scope = document) {
    const found = [scope, ...scope.querySelectorAll("[data-warmcache]")];
    found.forEach(attach);
    try {
      if (found[1] && !lists.size) delete sessionStorage.warmcache; // all is fresh
    } catch {}
  }

  function attach(element) {
    const { dataset = {} } = element;
    const { warmcache: name, warmcacheState: state, warmcacheRebuilding: flag } = dataset;
    const { warmcacheGeneration: generation, warmcacheRefresh: refresh, warmcacheAt: at } = dataset;
    const waits = flag ? flag === "true" : isWaiting(state);
    if (!name || !(waits || settings.watch)) return;
    if (state === "cold") element.setAttribute("aria-busy", "true");
    if (element.warmcache) {
      element.warmcache._seen.add(generation);
      return element.warmcache.resume();
    }
    const heed = (outcome) => {
      if (outcome === "refreshed") scan(element);
      else if (outcome !== "stopped") {
        dataset.warmcacheRebuilding = "false";
        element.removeAttribute("aria-busy");
      }
    };
    element.warmcache = watch(name, { element, state, generation, refresh }, heed);
    if (Date.now() - at > settings.interval) element.warmcache.poll();
  }

  /** Ways to refresh; each returns false if it changed nothing. */
  const strategies = {
    auto(status, watcher, signal) {
      const { element, _isCold: isCold } = watcher;
      const way = !element ? "event" : element.id ? "swap" : isCold ? "reload" : "prompt";
      return strategies[way](status, watcher, signal);
    },
    event: () => false,
    prompt: (status, watcher) => block(watcher, "prompt", status),
    async swap(status, watcher, signal, isForced) {
      const { element } = watcher;
      const isFree = () => isForced || !inUse(element) || block(watcher, "editing", status);
      const found = isFree() && (await load(watcher));
      if (!found || signal?.aborted || !isFree()) return false; // the user is typing again
      replace(element, found, status);
    },
    reload(status, watcher) {
      if (status.cache_rebuilding) return false;
      const reason = whyNot(watcher.name + status.generation);
      if (reason) return block(watcher, reason);
      hasReloaded = true;
      env.navigate();
      return false;
    },
  };

  /** Do not refresh; report why, with a function that refreshes anyway. */
  function block(watcher, reason, status) {
    if (status?.cache_rebuilding) return false;
    const { name, element } = watcher;
    const list = listOf(name);
    const proceed = async () => {
      list._proceed = null;
      if (!element?.id) return env.navigate();
      try {
        await strategies.swap(list.status, watcher, null, true);
        watcher._refreshed();
        list._settle();
        scan(element);
      } catch (error) {
        list._proceed = proceed;
        watcher._failures ||= 1;
        list._fail(error, watcher);
      }
    };
    list._proceed = proceed;
    list._tell("blocked", { reason, proceed }, [watcher]);
    return false;
  }

  /** Load the new region; null if it has not changed. DOMParser would need a Trusted Types policy. */
  function load(watcher) {
    const { id, dataset } = watcher.element;
    const url = dataset.warmcacheSrc || location.href;
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("GET", url);
      request.responseType = "document";
      request.timeout = settings.timeout;
      request.setRequestHeader("Cache-Control", "no-cache");
      request.onloadend = () => {
        const { status } = request;
        const found = request.responseXML?.getElementById(id);
        const { warmcacheState: state, warmcacheGeneration: generation } = found?.dataset || {};
        const isOld = state === "cold" || (generation && generation === dataset.warmcacheGeneration);
        const etag = request.getResponseHeader("ETag");
        if (!status) reject(fault("network", `${url}: no answer`));
        else if (status > 299) reject(httpFault(url, status, request.getResponseHeader("Retry-After")));
        else if (!found || isOld) reject(fault("body", `${url}: ${found ? "old" : "no"} #${id}`));
        else resolve(etag && etag === watcher._etag ? null : found);
        watcher._etag = etag;
      };
      request.send();
    });
  }

  const keptIn = ({ dataset }) =>
    dataset?.warmcacheKeep?.match(/\S+/g)?.map((id) => `[id="${id}"]`).join() || "_";

  function replace(element, found, { state, generation, cache_rebuilding }) {
    const focused = document.activeElement?.id;
    const nodes = [element, ...element.querySelectorAll("[id]")];
    const looks = nodes.map(({ id, open, scrollLeft, scrollTop }) => ({ id, open, scrollLeft, scrollTop }));
    const kept = keptIn(element);
    Object.assign(
      element.dataset,
      { warmcacheState: state, warmcacheGeneration: generation, warmcacheRebuilding: cache_rebuilding },
      found.dataset,
    );
    element.removeAttribute("aria-busy");
    if (root.Idiomorph) {
      const callbacks = { beforeNodeMorphed: (node) => !node.matches?.(kept) };
      root.Idiomorph.morph(element, found.childNodes, { morphStyle: "innerHTML", callbacks });
    } else {
      document.adoptNode(found);
      for (const node of element.querySelectorAll(kept)) {
        found.querySelector(`[id="${node.id}"]`)?.replaceWith(node);
      }
      element.replaceChildren(...found.childNodes);
    }
    document.getElementById(focused)?.focus({ preventScroll: true });
    for (const look of looks) Object.assign(document.getElementById(look.id) || {}, look);
  }

  /** Return whether a refresh would disturb the user. */
  function inUse(scope) {
    const kept = keptIn(scope);
    const selection = getSelection();
    const nodes = scope.querySelectorAll("input,textarea,select,[contenteditable],dialog[open],audio,video,details[open]:not([id]),:focus:not([id])");
    return (
      [...nodes].some((node) => !node.closest(kept) && (node.open || node.paused === false || isDirty(node))) ||
      (selection?.isCollapsed === false && scope.contains(selection.anchorNode))
    );
  }

  function isDirty(field) {
    const form = document.createElement("form");
    const copy = form.appendChild(field.cloneNode(true));
    form.reset();
    return (
      field === document.activeElement ||
      copy.value !== field.value ||
      copy.checked !== field.checked ||
      [...(field.options || [])].some(({ selected }, i) => selected !== copy.options[i].selected)
    );
  }

  let hasReloaded = false; // a second reload could interrupt the first

  function whyNot(publication) {
    const now = Date.now();
    if (given.method) return "post";
    if (isHidden() || isOffline()) return "prompt";
    if (inUse(document)) return "editing";
    try {
      const log = JSON.parse(sessionStorage.warmcache || "[]");
      const id = publication + location.href;
      if (hasReloaded || log.some(([done]) => done === id)) return "loop";
      if (log.filter(([, at]) => at > now - 300000).length > 2) return "rate";
      sessionStorage.warmcache = JSON.stringify([...log, [id, now]]);
      return "";
    } catch {
      return "storage"; // without a record reloads could loop
    }
  }

  /* ---- elements ---- */

  const texts = {
    cold: "Preparing",
    partial: "Preparing",
    stale: "Updating",
    ready: "Update available",
    fresh: "Up to date",
    error: "No news",
    failed: "Update failed",
    offline: "Offline",
    stalled: "Taking long",
  };

  function defineElements() {
    class Bar extends HTMLElement {
      _shown = 1;

      connectedCallback() {
        const names = ["progress", "span", "button"];
        this._parts = names.map((name) => this.querySelector(name) || document.createElement(name));
        this.append(...this._parts.slice(0, this._shown));
        views.add(this);
        this._paint(listOf(this.getAttribute("for")));
      }

      disconnectedCallback() {
        views.delete(this);
      }

      _paint(list) {
        const { state, progress, _proceed: proceed } = list;
        const ratio = progress?.ratio;
        const [bar, line, button] = this._parts;
        this.setAttribute("state", state);
        bar.ariaLabel = this.getAttribute("label") || "Progress";
        bar.hidden = !isWaiting(state);
        if (ratio == null) bar.removeAttribute("value");
        else bar.value = ratio;
        line.role = "status";
        button.type = "button";
        const act = proceed || (state === "stalled" && list.poll);
        const label = state === "stalled" ? "Check again" : "Refresh";
        button.textContent = this.getAttribute("refresh-label") || label;
        button.onclick = act;
        // Hiding the focused button would lose the focus.
        button.hidden = !act && document.activeElement !== button;
        button.onblur = () => this._paint(list);

        const quarter = !bar.hidden && Math.floor(ratio * 4) * 25;
        const text = (this.getAttribute(`text-${state}`) ?? texts[state] ?? "") + (quarter ? ` ${quarter} %` : "");
        // Screen readers speak every change: states at once, progress seldom.
        const now = env.now();
        const isChatter = state === this._said ? now - this._saidAt < 5000 : state === "ready" && !proceed;
        if (isChatter || text === line.textContent || (state === "fresh" && !this._said)) return;
        this._said = state;
        this._saidAt = now;
        // They often miss the text of a new line.
        env.setTimeout(() => (line.textContent = text), 100);
      }
    }

    customElements.define("warmcache-progress", Bar);
    customElements.define("warmcache-status", class extends Bar {
      _shown = 3;
    });
  }

  /* ---- the page's life ---- */

  const turn = (delay, state) => lists.forEach((list) => list._wake(delay, state));

  if (document) {
    document.addEventListener("visibilitychange", () => turn());
    addEventListener("offline", () => turn(vary(settings.errorMax), "offline"));
    addEventListener("online", () => turn(1000 * env.random()));
    // unload would prevent the back/forward cache, too.
    for (const type of ["pagehide", "pageshow"]) {
      addEventListener(type, ({ persisted }) => {
        left = type === "pagehide";
        if (left) channel = channel?.close();
        if (left || persisted) turn(250 * env.random());
      });
    }
    const start = () => {
      if (settings.auto) scan();
      if (root.customElements) defineElements();
    };
    if (document.readyState !== "loading") start();
    else document.addEventListener("DOMContentLoaded", start);
  }

  const version = "0.1.0";
  const state = (name) => listOf(name).state;
  root.Warmcache = { version, env, strategies, configure, watch, ready, json, inspect, scan, state };
  if (typeof module === "object") module.exports = root.Warmcache;
})(globalThis);
