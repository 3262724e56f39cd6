/* Names for the theme's controls that have none, or one that differs from what is seen; tables and code that fit the page. */
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
    document.querySelectorAll(".bd-article :is(figure, .cell_output, .output, pre, mjx-container[display='true'], .pst-scrollable-table-container)").forEach((box) => {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX === "auto";
      if (scrolls) box.tabIndex = 0;
      box.classList.toggle("wide", scrolls && box.matches("figure, .cell_output, mjx-container, .pst-scrollable-table-container")); // says that there is more
    });
  }

  /** Names in tables may be broken between their parts: after _ . / ( = and before a capital; those of functions after a dot. */
  function parts() {
    document.querySelectorAll(".bd-article td code .pre, .bd-article dt.sig :is(.descname, .descclassname) .pre").forEach((name) => {
      const ends = name.closest("dt") ? /(?<=\.)/ : /(?<=[_./(=])(?=[^_./(=])|(?<=[a-z])(?=[A-Z])/;
      const found = name.textContent.split(ends);
      name.replaceChildren(...found.flatMap((part, k) => (k ? [document.createElement("wbr"), part] : [part])));
    });
  }

  /** Cells with a figure and no words are marked: they do not wrap, or only before the error. */
  function figures() {
    document.querySelectorAll(".bd-article td").forEach((cell) => {
      const text = cell.textContent.trim();
      if (/\d/.test(text) && !/[a-z]{2}/i.test(text) && text.length < 25) {
        cell.classList.add("number");
        const pieces = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        while (pieces.nextNode()) pieces.currentNode.data = pieces.currentNode.data.replace(/± /g, "±\u00a0").replace(/ \//g, "\u00a0/");
      }
    });
  }

  /** Each line of a cell's code becomes a block, so that what is wrapped can be set in below its own line. */
  function lines() {
    document.querySelectorAll(".bd-article .cell_input pre").forEach((code) => {
      const found = [[]];
      [...code.childNodes].forEach((node) => node.textContent.split("\n").forEach((part, k) => {
        if (k) found.push([]);
        if (!part) return;
        const piece = node.nodeType === Node.TEXT_NODE ? document.createTextNode(part) : node.cloneNode(false);
        if (node.nodeType !== Node.TEXT_NODE) piece.textContent = part;
        found[found.length - 1].push(piece);
      }));
      if (!found[found.length - 1].length) found.pop();
      code.replaceChildren(...found.map((pieces) => {
        const line = document.createElement("span");
        line.className = "code-line";
        line.append(...pieces, "\n");
        line.style.setProperty("--further", `${line.textContent.search(/\S|$/) + 4}ch`);
        return line;
      }));
    });
  }

  window.addEventListener("load", () => {
    reach();
    if (window.MathJax && MathJax.startup && MathJax.startup.promise) MathJax.startup.promise.then(reach);
  });
  window.addEventListener("resize", reach);

  /** What explains comes before the pages of single subjects, which have the same words. */
  function explained() {
    if (typeof Scorer !== "undefined") Scorer.score = ([page, , , , score]) => (page.startsWith("subjects/") ? score / 10 : score);
  }

  function start() {
    explained();
    name();
    figures();
    parts();
    lines();
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
