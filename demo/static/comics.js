/* Make an element, a card or a table row, for each comic.
 *
 * An element is kept as long as its comic stays on the page, so a refreshed list neither flickers nor loses the
 * focus. Text is inserted as text, never as HTML, because names of files may come from anybody. */

const whole = new Intl.NumberFormat();
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

export function count(number) {
  return whole.format(number);
}

export function plural(number, noun = "comic") {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

function bytes(size) {
  if (size < 1000) return plural(size, "byte");
  const power = size < 999_500 ? 1 : size < 999_500_000 ? 2 : 3;
  const value = size / 1000 ** power;
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${"kMG"[power - 1]}B`;
}

/** Return the texts shown for one comic. */
function texts(comic) {
  const folder = comic.relative_path.split("/").slice(0, -1).join(" / ");
  return {
    series: comic.series || comic.name,
    number: comic.number ? `#${comic.number}` : "",
    title: comic.title || "",
    facts: [comic.year, comic.pages && plural(comic.pages, "page"), bytes(comic.size)].filter(Boolean).join(" · "),
    name: comic.name,
    folder,
    year: comic.year || "",
    pages: comic.pages || "",
    size: bytes(comic.size),
    date: day.format(comic.modified * 1000),
    error: comic.error || "",
  };
}

function fill(element, comic) {
  const text = texts(comic);
  for (const place of element.querySelectorAll("[data-text]")) {
    const value = String(text[place.dataset.text]);
    if (place.textContent !== value) place.textContent = value;
  }
  element.querySelector("h2, .name").title = comic.relative_path;
  element.querySelector(".broken").hidden = !comic.error;
  const image = element.querySelector("img");
  image.hidden = !comic.cover;
  if (comic.cover && image.getAttribute("src") !== comic.cover) image.src = comic.cover;
  for (const button of element.querySelectorAll("[data-mark]")) {
    button.setAttribute("aria-pressed", String(Boolean(comic[button.dataset.mark])));
    const word = button.dataset.mark === "processed" ? "Processed" : "Duplicate";
    button.setAttribute("aria-label", `${word}: ${text.series} ${text.number}`);
    button.title = comic[button.dataset.mark] ? `${word} (press to undo)` : `Mark as ${word.toLowerCase()}`;
  }
}

/** Show these comics in the container, in this order, each in a copy of the template. */
export function render(container, template, comics) {
  const focused = focusIn(container);
  const old = new Map([...container.children].map((element) => [element.dataset.path, element]));
  let next = container.firstElementChild;
  for (const comic of comics) {
    const element = old.get(comic.path) || template.content.firstElementChild.cloneNode(true);
    old.delete(comic.path);
    element.dataset.path = comic.path;
    fill(element, comic);
    if (element === next) next = next.nextElementSibling;
    else container.insertBefore(element, next);
  }
  for (const element of old.values()) element.remove();
  for (const element of [...container.children].slice(comics.length)) element.remove();
  restore(container, focused);
}

/** Show grey shapes where comics will be. */
export function renderSkeleton(container, howMany) {
  const shapes = Array.from({ length: howMany }, () => {
    const shape = document.createElement("li");
    shape.className = "card skeleton";
    shape.setAttribute("aria-hidden", "true");
    const cover = document.createElement("div");
    cover.className = "cover";
    shape.append(cover, document.createElement("p"), document.createElement("p"));
    return shape;
  });
  container.replaceChildren(...shapes);
}

/** Return which button of which comic has the focus. */
function focusIn(container) {
  const active = document.activeElement;
  const element = active && active.closest(".comic");
  if (!element || element.parentElement !== container) return null;
  return { active, place: [...container.children].indexOf(element), mark: active.dataset.mark };
}

/** Focus the same button again. If its comic has left the list, focus that of the comic now in its place. */
function restore(container, focused) {
  if (!focused || focused.active === document.activeElement) return;
  const target = focused.active.isConnected
    ? focused.active
    : container.children[Math.min(focused.place, container.children.length - 1)]?.querySelector(
        `[data-mark="${focused.mark}"]`,
      );
  target?.focus({ preventScroll: true });
}
