/* What every moving figure of the book shares: controls that the keyboard reaches, drawings in SVG whose colors are
   CSS variables, and a sentence with the current values for those who do not see the drawing. */
(function () {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const makers = {};
  let count = 0;

  /** An element with attributes (a function: a listener; null: left out) and children (elements or text). */
  function element(name, attributes = {}, ...children) {
    const inSvg = ["svg", "g", "path", "line", "rect", "circle", "text", "title"].includes(name);
    const node = inSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(key, value);
      else if (value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  /** A labeled range input; {label, unit, min, max, step, value, digits, show}. .value is a number. */
  function slider(options, onInput) {
    const id = `widget-input-${++count}`;
    const text = (value) =>
      options.show ? options.show(value) : `${value.toFixed(options.digits ?? 0)}${options.unit ? ` ${options.unit}` : ""}`;
    const output = element("output", { for: id, class: "widget-output" });
    const input = element("input", {
      type: "range", id, name: options.name, min: options.min, max: options.max, step: options.step, value: options.value,
    });
    const row = element("div", { class: "widget-control" }, element("label", { for: id }, options.label), output, input);
    const control = {
      row, input,
      get value() { return Number(input.value); },
      set value(number) { input.value = number; update(); },
      limit(max) { input.max = max; update(); },
    };
    function update() {
      output.textContent = text(control.value);
      input.setAttribute("aria-valuetext", text(control.value));
    }
    input.addEventListener("input", () => { update(); onInput(); });
    update();
    return control;
  }

  /** A labeled choice; options: [[value, text], ...]. */
  function choice(label, name, options, value, onInput) {
    const id = `widget-input-${++count}`;
    const input = element("select", { id, name, change: onInput });
    for (const [key, text] of options) input.append(element("option", { value: key }, text));
    input.value = value;
    const row = element("div", { class: "widget-control" }, element("label", { for: id }, label), input);
    return { row, input, get value() { return input.value; } };
  }

  /** Round steps between two numbers: about `wanted` ticks. */
  function ticks(low, high, wanted = 5) {
    const rough = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((nice) => nice * power >= rough * 0.999) * power;
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0)) };
  }

  /** Draw axes and marks into a box that follows its own width.
      spec: {x: {low, high, label, ticks?}, y: same, height, marks: [...]}; a mark is {kind: "line", x, y, class},
      {kind: "dot", x, y, r, class}, {kind: "rule", x, class, text}, {kind: "bar", x, width, y, class} or
      {kind: "block", x, width, row, class}: rows of blocks lie below the axes, labeled by spec.rows. */
  function draw(box, spec, description) {
    const width = Math.max(260, box.clientWidth || 600);
    const rows = spec.rows || [];
    const left = 58, right = 12, top = 14, below = 44, rowHeight = 24;
    const inner = (spec.height || 260) - top - below;
    const height = top + inner + below + rows.length * rowHeight;
    const px = (x) => left + ((x - spec.x.low) / (spec.x.high - spec.x.low)) * (width - left - right);
    const py = (y) => top + inner - ((y - spec.y.low) / (spec.y.high - spec.y.low)) * inner;
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": description });
    axes(svg, spec, { width, left, right, top, inner, px, py });
    rows.forEach((label, k) => {
      const y = top + inner + below + k * rowHeight;
      svg.append(element("text", { x: left - 6, y: y + 14, class: "w-tick", "text-anchor": "end" }, label));
    });
    const plot = element("g");
    for (const mark of spec.marks) plot.append(drawn(mark, { px, py, top, inner, below, rowHeight, spec }));
    svg.append(plot);
    box.replaceChildren(svg);
  }

  function axes(svg, spec, at) {
    const xs = spec.x.ticks || ticks(spec.x.low, spec.x.high, at.width < 450 ? 4 : 7);
    const ys = spec.y.ticks || ticks(spec.y.low, spec.y.high, 4);
    for (const y of ys.values) {
      svg.append(element("line", { x1: at.left, x2: at.width - at.right, y1: at.py(y), y2: at.py(y), class: "w-grid" }));
      const label = ys.labels ? ys.labels[ys.values.indexOf(y)] : y.toFixed(ys.digits);
      svg.append(element("text", { x: at.left - 6, y: at.py(y) + 4, class: "w-tick", "text-anchor": "end" }, label));
    }
    const floor = at.top + at.inner;
    for (const x of xs.values) {
      svg.append(element("line", { x1: at.px(x), x2: at.px(x), y1: floor, y2: floor + 4, class: "w-axis" }));
      svg.append(element("text", { x: at.px(x), y: floor + 17, class: "w-tick", "text-anchor": "middle" }, x.toFixed(xs.digits)));
    }
    svg.append(element("line", { x1: at.left, x2: at.width - at.right, y1: floor, y2: floor, class: "w-axis" }));
    const middle = (at.left + at.width - at.right) / 2;
    svg.append(element("text", { x: middle, y: floor + 35, class: "w-label", "text-anchor": "middle" }, spec.x.label));
    const turn = `translate(14 ${at.top + at.inner / 2}) rotate(-90)`;
    svg.append(element("text", { transform: turn, class: "w-label", "text-anchor": "middle" }, spec.y.label));
  }

  function drawn(mark, { px, py, top, inner, below, rowHeight, spec }) {
    const zero = Math.min(py(Math.max(0, spec.y.low)), top + inner);
    if (mark.kind === "line") {
      const path = mark.x.map((x, k) => `${k ? "L" : "M"}${px(x).toFixed(2)} ${py(mark.y[k]).toFixed(2)}`).join("");
      return element("path", { d: path, class: `w-line ${mark.class}` });
    }
    if (mark.kind === "dot") return element("circle", { cx: px(mark.x), cy: py(mark.y), r: mark.r || 4, class: `w-dot ${mark.class}` });
    if (mark.kind === "bar") {
      const edge = Math.min(py(mark.y), zero);
      const box = { x: px(mark.x), y: edge, width: Math.max(1, px(mark.x + mark.width) - px(mark.x)), height: Math.max(1, Math.abs(py(mark.y) - zero)) };
      return element("rect", { ...box, class: `w-bar ${mark.class}` });
    }
    if (mark.kind === "block") {
      const y = top + inner + below + mark.row * rowHeight;
      return element("rect", { x: px(mark.x), y, width: Math.max(1, px(mark.x + mark.width) - px(mark.x)), height: rowHeight - 5, class: `w-bar ${mark.class}` });
    }
    const group = element("g", {}, element("line", { x1: px(mark.x), x2: px(mark.x), y1: top, y2: top + inner, class: `w-rule ${mark.class}` }));
    if (mark.text) {
      const before = px(mark.x) > (px(spec.x.low) + px(spec.x.high)) / 2;
      group.append(element("text", { x: px(mark.x) + (before ? -5 : 5), y: top + 8, class: "w-tick", "text-anchor": before ? "end" : "start" }, mark.text));
    }
    return group;
  }

  /** Colored samples with their names, for below a drawing. */
  function legend(entries) {
    const list = element("ul", { class: "widget-legend" });
    for (const [kind, name] of entries) list.append(element("li", {}, element("span", { class: `w-key ${kind}`, "aria-hidden": "true" }), name));
    return list;
  }

  /** Bytes of a base64 text. */
  function bytes(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  /** The parts of a figure, in the order of reading: controls, drawing, legend, sentence. */
  function frame(root, ...parts) {
    const body = element("div", { class: "widget-body" }, ...parts);
    const old = root.querySelector(".widget-body");
    if (old) old.replaceWith(body);
    else root.prepend(body);
    return body;
  }

  /** A sentence that is read aloud when it changes, at most twice a second. */
  function sentence() {
    const node = element("p", { class: "widget-value", role: "status" });
    let timer = 0, waiting = "";
    return {
      node,
      say(text) {
        waiting = text;
        if (!node.textContent) { node.textContent = text; return; }
        if (!timer) timer = setTimeout(() => { timer = 0; node.textContent = waiting; }, 250);
      },
    };
  }

  /** Call again when the width of a box changes. */
  function onResize(box, again) {
    let width = box.clientWidth;
    new ResizeObserver(() => { if (box.clientWidth !== width) { width = box.clientWidth; again(); } }).observe(box);
  }

  /** Name the function that fills [data-widget="name"]; where it returns false it is not ready yet and says so itself. */
  function define(name, make) {
    makers[name] = make;
    const start = () => document.querySelectorAll(`[data-widget="${name}"]:not([data-ready])`).forEach((root) => {
      root.dataset.ready = "starting";
      const data = root.querySelector('script[type="application/json"]');
      const done = make(root, data ? JSON.parse(data.textContent) : {});
      if (done !== false && root.dataset.ready === "starting") root.dataset.ready = "yes";
    });
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
  }

  window.aslpinn = Object.assign(window.aslpinn || {}, {
    widgets: { bytes, choice, define, draw, element, frame, legend, onResize, sentence, slider, ticks },
  });
})();
