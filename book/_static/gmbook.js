// The map: the lines of the box that is pointed at, or has the keyboard, stand out.
document.addEventListener("DOMContentLoaded", () => {
  for (const svg of document.querySelectorAll(".gm-map svg")) {
    const paths = [...svg.querySelectorAll(".gm-edges path")];
    const show = (key) => {
      svg.classList.toggle("gm-some", Boolean(key));
      for (const path of paths) {
        path.classList.toggle("gm-on", Boolean(key) && [path.dataset.older, path.dataset.newer].includes(key));
      }
    };
    for (const node of svg.querySelectorAll("a[data-key]")) {
      for (const event of ["mouseenter", "focus"]) node.addEventListener(event, () => show(node.dataset.key));
      for (const event of ["mouseleave", "blur"]) node.addEventListener(event, () => show(""));
    }
  }
});

// A displayed equation that is a little too wide is set smaller, down to seven tenths; a wider one keeps its size and
// scrolls, as most do on a phone. What is folded has no width before it is opened.
const LEAST = 0.7;
const fit = () => {
  for (const display of document.querySelectorAll('mjx-container[display="true"]')) {
    display.dataset.size ??= display.style.fontSize;
    display.style.fontSize = display.dataset.size;
    const ratio = display.clientWidth / display.scrollWidth;
    if (ratio < 1 && ratio >= LEAST) {
      display.style.fontSize = `${0.99 * ratio * parseFloat(getComputedStyle(display).fontSize)}px`;
    }
  }
};
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  fit();
  window.addEventListener("resize", () => requestAnimationFrame(fit));
  for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", fit);
});

// From the disk a browser lets no script read another page: search results then come without their excerpts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
