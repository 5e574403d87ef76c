/* Light or dark: the system's choice, or the visitor's. Runs before anything is drawn, so that nothing flashes. */
(() => {
  const NAME = "unipixel.theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  const remembered = () => {
    try {
      return localStorage.getItem(NAME);
    } catch {
      return null; // storage is switched off
    }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () =>
      button.setAttribute("aria-label", isDark() ? "Switch to the light theme" : "Switch to the dark theme");
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        // going back to what the system says is no choice to remember
        if ((root.dataset.theme === "dark") === system.matches) localStorage.removeItem(NAME);
        else localStorage.setItem(NAME, root.dataset.theme);
      } catch {
        // it then lasts until the page is left
      }
      name();
    });
    system.addEventListener("change", name);
    name();
  });
})();
