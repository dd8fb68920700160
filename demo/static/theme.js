// This is loaded before the first paint, so that a dark page does not start with a white flash.
"use strict";
try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // Storage is switched off, so the system's setting applies.
}
