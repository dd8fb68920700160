/* A simulated page for the poller: document, clock and network, without a browser and without waiting.
 *
 * The script runs in a new vm context for each test, where the test controls document, fetch and timers.
 */
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const FILE = path.join(__dirname, "..", "..", "static", "warmcache.js");
const SOURCE = fs.readFileSync(FILE, "utf8");

/** Let pending promises settle, and deliver messages to other tabs. */
async function settle() {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Timers that fire only when the test advances the time. */
class Clock {
  constructor() {
    this.now = 0;
    this.timers = new Map();
    this.last = 0;
  }

  setTimeout(call, delay) {
    this.last += 1;
    this.timers.set(this.last, { at: this.now + delay, call });
    return this.last;
  }

  clearTimeout(id) {
    this.timers.delete(id);
  }

  async advance(duration) {
    const end = this.now + duration;
    await settle();
    for (;;) {
      const due = [...this.timers].filter(([, timer]) => timer.at <= end);
      if (!due.length) break;
      const [id, timer] = due.reduce((a, b) => (b[1].at < a[1].at ? b : a));
      this.timers.delete(id);
      this.now = timer.at;
      timer.call();
      await settle();
    }
    this.now = end;
  }
}

/** The parts of an element, or of the document, that the poller uses. It records its events. */
class Node extends EventTarget {
  constructor(attributes = {}) {
    super();
    this.id = "";
    this.dataset = {};
    this.isConnected = true;
    this.fields = [];
    this.nodes = []; // elements with an id
    this.childNodes = [];
    this.attributes = {};
    this.events = [];
    Object.assign(this, attributes);
  }

  dispatchEvent(event) {
    if (event.type.startsWith("warmcache:")) this.events.push([event.type.slice(10), event.detail]);
    return super.dispatchEvent(event);
  }

  /** Return the details of the events of one type. */
  heard(type) {
    return this.events.filter((event) => event[0] === type).map((event) => event[1]);
  }

  querySelectorAll(selector) {
    if (selector === "[data-warmcache]") return this.regions || [];
    if (selector === "[id]") return this.nodes;
    return selector.startsWith("input") ? this.fields : this.nodes.filter((node) => selector.includes(node.id));
  }

  querySelector(name) {
    return this.childNodes.find((child) => child.localName === name) || null;
  }

  append(...nodes) {
    this.childNodes.push(...nodes);
  }

  replaceChildren(...nodes) {
    this.childNodes = nodes;
  }

  scrollTo(...place) {
    this.place = place;
  }

  setAttribute(name, value) {
    this.attributes[name] = value;
  }

  removeAttribute(name) {
    delete this.attributes[name];
  }

  getAttribute(name) {
    return this.attributes[name] ?? null;
  }

  contains(node) {
    return Boolean(node) && this.fields.includes(node);
  }

  matches() {
    return true;
  }
}

/** The parts of a field that the poller uses; a browser test covers which kinds of fields are dirty. */
class Field {
  constructor(attributes) {
    Object.assign(this, { value: "", defaultValue: "", kept: false }, attributes);
  }

  cloneNode() {
    return new Field(this);
  }

  closest() {
    return this.kept ? this : null;
  }
}

class Form {
  appendChild(field) {
    this.field = field;
    return field;
  }

  reset() {
    this.field.value = this.field.defaultValue;
  }
}

/** A channel between the tabs that share `others`. */
class Channel {
  constructor(name, others) {
    this.name = name;
    this.others = others;
    others.push(this);
  }

  postMessage(data) {
    for (const other of this.others) {
      const copy = structuredClone({ data });
      if (other !== this && other.name === this.name) setImmediate(() => other.onmessage(copy));
    }
  }

  close() {
    this.others.splice(this.others.indexOf(this), 1);
  }
}

const status = (more = {}) => ({
  file_count: 3,
  age_seconds: 1,
  is_populated: true,
  rebuild_in_progress: true,
  state: "stale",
  generation: "g1",
  progress: null,
  last_error: null,
  cache_rebuilding: true,
  ...more,
});

const fresh = (generation = "g2", more = {}) =>
  status({ state: "fresh", generation, cache_rebuilding: false, rebuild_in_progress: false, ...more });

/** Make an answer of the server: a Response that may be marked as redirected. */
function answer(body, { code = 200, headers = {}, redirected = false } = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const type = typeof body === "string" ? "text/html" : "application/json";
  const response = new Response(text, { status: code, headers: { "Content-Type": type, ...headers } });
  Object.defineProperty(response, "redirected", { value: redirected });
  return response;
}

/**
 * Load the script into a new page. Options: attributes (the dataset of the script tag), regions, random (a number, or
 * a function like Math.random), visibility, readyState, storage, tabs (a list of channels that several pages share),
 * clock (may be shared, too), online. page.world answers every request: it is a function of (url, request) that
 * returns a body, a Response, an Error, or a promise of one.
 */
function open(options = {}) {
  const clock = options.clock || new Clock();
  const page = { clock, requests: [], loads: [], elements: {}, warnings: [], errors: [], navigations: 0, world: () => status(), pageWorld: () => ({ code: 404 }) };
  page.document = new Node({
    currentScript: { dataset: { spread: "0", ...options.attributes } }, // refresh without delay
    body: new Node(),
    activeElement: null,
    visibilityState: options.visibility || "visible",
    readyState: options.readyState || "complete",
    regions: options.regions || [],
    matches: undefined,
    dataset: undefined,
    createElement: (name) => (name === "form" ? new Form() : new Node({ localName: name })),
    adoptNode: () => {},
    getElementById: (id) => page.document.regions.flatMap((region) => region.nodes).find((node) => node.id === id),
  });
  Object.defineProperty(page.document, "hidden", { get: () => page.document.visibilityState === "hidden" });
  page.body = page.document.body;
  page.channels = options.tabs || [];

  const window = new EventTarget();
  const logTo = (list) => (...words) => list.push(words.map(String).join(" "));
  Object.assign(window, {
    document: page.document,
    location: { pathname: "/files", search: "", href: "http://host/files" },
    console: { warn: logTo(page.warnings), error: logTo(page.errors) },
    sessionStorage: options.storage || {},
    navigator: { onLine: options.online ?? true },
    getSelection: () => page.selection,
    queueMicrotask: (call) =>
      queueMicrotask(() => {
        try {
          call();
        } catch (error) {
          page.errors.push(String(error)); // a browser shows uncaught errors in the console
        }
      }),
    HTMLElement: class extends Node {},
    XMLHttpRequest: class {
      headers = {};
      open(method, url) {
        Object.assign(this, { method, url });
      }
      setRequestHeader(name, value) {
        this.headers[name] = value;
      }
      getResponseHeader(name) {
        return this.answer.headers?.[name] ?? null;
      }
      send() {
        page.loads.push({ url: this.url, at: clock.now, headers: this.headers });
        setImmediate(() => {
          this.answer = page.pageWorld();
          this.status = this.answer.code ?? 200;
          this.responseXML = { getElementById: () => this.answer.region || null };
          this.onloadend();
        });
      }
    },
    BroadcastChannel: class extends Channel {
      constructor(name) {
        super(name, page.channels);
      }
    },
    AbortController,
    CustomEvent,
  });
  const { elements } = page;
  if (options.elements) window.customElements = { define: (name, type) => (elements[name] = type) };
  if (options.before) window.Warmcache = options.before;
  page.window = window;

  vm.createContext(window);
  // Methods of EventTarget need the real object, not the vm context's proxy.
  for (const name of ["addEventListener", "removeEventListener", "dispatchEvent"]) {
    window[name] = EventTarget.prototype[name].bind(window);
  }
  const env = {
    now: () => clock.now,
    random: typeof options.random === "function" ? options.random : () => options.random ?? 0.5, // 0.5 means no jitter
    setTimeout: (call, delay) => clock.setTimeout(call, delay),
    clearTimeout: (id) => clock.clearTimeout(id),
    navigate: () => (page.navigations += 1),
    fetch: async (url, request) => {
      page.requests.push({ url, at: clock.now, ...request });
      const aborted = new Promise((resolve, reject) => {
        const abort = () => reject(request.signal.reason);
        request.signal.addEventListener("abort", abort);
      });
      const result = await Promise.race([page.world(url, request), aborted]);
      if (result instanceof Error) throw result;
      return result instanceof Response ? result : answer(result);
    },
  };
  // Regions start timers during the first scan, so set the clock before loading the script.
  window.performance = { now: env.now };
  window.setTimeout = env.setTimeout;
  window.clearTimeout = env.clearTimeout;
  window.fetch = env.fetch;
  vm.runInContext("Math", window).random = env.random;
  vm.runInContext(SOURCE, window, { filename: FILE });
  page.Warmcache = window.Warmcache;
  if (!options.before) Object.assign(page.Warmcache.env, env);

  page.times = () => page.requests.map((request) => Math.round(request.at));
  /** Put a custom element on the page. */
  page.connect = (localName, attributes = {}) => {
    const element = new elements[localName]();
    element.localName = localName;
    element.attributes = { for: "files", ...attributes };
    element.connectedCallback();
    return element;
  };
  page.go = (line) => {
    window.navigator.onLine = line === "online";
    window.dispatchEvent(new Event(line));
  };
  page.leave = () => window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
  page.comeBack = () => window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  page.show = (visibility) => {
    page.document.visibilityState = visibility;
    page.document.dispatchEvent(new Event("visibilitychange"));
  };
  return page;
}

/** A request that is never answered. */
const hang = () => new Promise(() => {});

module.exports = { FILE, Field, Node, answer, fresh, hang, open, settle, status };
