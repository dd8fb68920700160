// Loaded before the first paint, so that a dark page does not begin with a white flash.
"use strict";
try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Storage is switched off: the system's choice it is.
}
