// Light or dark, as the reader's system says or the button; and what the browser keeps, where it keeps anything.
const top = document.documentElement;
const stored = {
  read(key) { try { return localStorage.getItem(key); } catch { return null; } },
  write(key, text) { // false where a page opened from a file has no storage, or it is full
    try { localStorage.setItem(key, text); return true; } catch { return false; }
  },
};
const isDark = () => top.dataset.theme ? top.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
if (["light", "dark"].includes(stored.read("gradgeo-theme"))) top.dataset.theme = stored.read("gradgeo-theme");

const startTheme = () => {
  const button = get("theme");
  const show = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    top.dataset.theme = isDark() ? "light" : "dark";
    stored.write("gradgeo-theme", top.dataset.theme);
    show();
  });
  button.hidden = false;
  show();
};
