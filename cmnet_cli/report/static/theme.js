"use strict";
// The button that switches between the light and the dark theme. Without a choice a page follows the system.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");

  // Some browsers store nothing for pages from disk and raise an exception.
  const kept = () => { try { return localStorage.getItem("cmnet-theme"); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem("cmnet-theme", theme); } catch { /* The choice is not stored. */ } };

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };

  const before = kept();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    keep(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  button.hidden = false;
  label();
})();
