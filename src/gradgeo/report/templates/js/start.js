// What the page was made with, as text that is never executed; and where all begins.
const pageData = (name) => {
  const node = get(`data-${name}`);
  return node && JSON.parse(node.textContent);
};
const unbroken = (text) => text.replaceAll(" %", "\u00a0%");

document.addEventListener("DOMContentLoaded", () => {
  for (const start of [startTheme, startSlider, startGallery, startLarge, startQueue, startLikeness, startCompare]) start();
});
