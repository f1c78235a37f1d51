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

// From the disk a browser lets no script read another page: search results then come without their excerpts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
