/* Names for the theme's controls that have none, or one that differs from what is seen. */
(function () {
  "use strict";

  function name() {
    document.querySelectorAll("nav li.has-children > details > summary").forEach((summary) => {
      const link = summary.closest("li").querySelector("a");
      summary.setAttribute("aria-label", `Pages below ${link ? link.textContent.trim() : "this one"}`);
    });
    document.querySelectorAll('summary[aria-label="Toggle hidden content"]').forEach((summary) => summary.removeAttribute("aria-label"));
    // entries of the bibliography, whose own role is no longer one of a list's items
    document.querySelectorAll('[role="list"] > [role="doc-biblioentry"]').forEach((entry) => entry.setAttribute("role", "listitem"));
    document.querySelectorAll(".search-button-field").forEach((button) => button.removeAttribute("aria-label"));
    document.querySelectorAll(".theme-switch-button").forEach((button) => {
      plain(button);
      new MutationObserver(() => plain(button)).observe(button, { childList: true });
    });
  }

  /** The pictures of the light and dark switch become drawings whose titles would count as its text. */
  function plain(button) {
    button.querySelectorAll("svg title").forEach((title) => title.remove());
    button.querySelectorAll("svg").forEach((picture) => {
      picture.removeAttribute("aria-labelledby");
      picture.removeAttribute("role");
      picture.setAttribute("aria-hidden", "true");
    });
    button.querySelectorAll("i[title]").forEach((picture) => picture.removeAttribute("title"));
  }

  /** A box that scrolls sideways is reached by the keyboard. */
  function reach() {
    document.querySelectorAll(".bd-article :is(figure, .cell_output, .output, pre, mjx-container[display='true'])").forEach((box) => {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX === "auto";
      if (scrolls) box.tabIndex = 0;
    });
  }
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", name);
  else name();
})();
