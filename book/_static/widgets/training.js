/* Training as an animation: the maps after each epoch, one panel an objective, with a play button and a slider. */
(function () {
  "use strict";
  const { bytes, choice, define, draw, element, frame, legend, onResize, sentence, slider } = window.aslpinn.widgets;
  const PAUSE = 350;

  /** Paint one frame: 0 is outside the brain, 1 to 255 an index of the color map. */
  function paint(canvas, frameBytes, lut) {
    const at = canvas.getContext("2d");
    const image = at.createImageData(canvas.width, canvas.height);
    frameBytes.forEach((value, i) => {
      if (value) image.data.set([lut[3 * value], lut[3 * value + 1], lut[3 * value + 2], 255], 4 * i);
    });
    at.putImageData(image, 0, 0);
  }

  function colorBar(quantity, lut) {
    const canvas = element("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    paint(canvas, Uint8Array.from({ length: 256 }, (_, k) => Math.max(k, 1)), lut);
    const middle = (quantity.low + quantity.high) / 2;
    const tick = (value) => element("span", {}, String(Number(value.toFixed(2))));
    return [canvas, element("div", { class: "widget-bar-ticks" }, tick(quantity.low), tick(middle), tick(quantity.high)), element("div", {}, quantity.label)];
  }

  define("training", (root, data) => {
    if (!data.panels) { root.dataset.ready = "empty"; return; }
    const [height, width] = data.shape;
    const size = height * width;
    const maps = Object.fromEntries(Object.entries(data.quantities).map(([key, q]) => [key, { ...q, bytes: bytes(q.frames), lut: bytes(q.lut), truthBytes: bytes(q.truth) }]));
    let timer = 0;
    const last = data.epochs.length - 1;
    const quantity = choice("Map", "quantity", Object.entries(maps).map(([key, q]) => [key, q.name]), Object.keys(maps)[0], () => { bar(); show(); });
    const epoch = slider({ name: "epoch", label: "Epoch", min: 0, max: last, step: 1, value: last, show: (k) => `${data.epochs[k]} of ${data.epochs[last]}` }, () => { stop(); show(); });
    const play = element("button", { type: "button", class: "widget-button", click: () => (timer ? stop() : start()) }, "Play");
    const canvases = [...data.panels, "truth"].map((name) => element("canvas", { width, height, role: "img", class: "widget-map", "data-panel": name }));
    const scores = canvases.map(() => element("span", { class: "widget-score" }));
    const panels = canvases.map((canvas, k) => element("div", { class: "widget-panel" }, element("p", { class: "widget-head" }, k < data.panels.length ? data.panels[k] : "truth"), canvas, scores[k]));
    const scale = element("div", { class: "widget-color-bar" });
    const box = element("div", { class: "widget-plot" });
    const values = sentence();
    const keys = legend(data.panels.map((name, k) => [`w-c${k + 1}`, name]));
    frame(root, element("div", { class: "widget-controls" }, quantity.row, epoch.row, element("div", { class: "widget-control" }, play)),
      element("div", { class: "widget-panels" }, ...panels), scale, box, keys, values.node);

    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    }

    function start() {
      if (epoch.value === last) epoch.value = 0;
      play.textContent = "Pause";
      show();
      timer = setInterval(() => {
        if (epoch.value >= last) { stop(); return; }
        epoch.value += 1;
        show();
      }, PAUSE);
    }

    function bar() {
      scale.replaceChildren(...colorBar(maps[quantity.value], maps[quantity.value].lut));
    }

    function show() {
      const q = maps[quantity.value], k = epoch.value;
      data.panels.forEach((name, p) => {
        const from = (p * data.epochs.length + k) * size;
        paint(canvases[p], q.bytes.subarray(from, from + size), q.lut);
        scores[p].textContent = `mean ${q.means[p][k].toFixed(q.digits)} ${q.unit}`;
        canvases[p].setAttribute("aria-label", `${q.name} by ${name} after epoch ${data.epochs[k]}: mean in gray matter ${q.means[p][k].toFixed(q.digits)} ${q.unit}.`);
      });
      paint(canvases[data.panels.length], q.truthBytes, q.lut);
      scores[data.panels.length].textContent = `mean ${q.true_mean.toFixed(q.digits)} ${q.unit}`;
      canvases[data.panels.length].setAttribute("aria-label", `True ${q.name}: mean in gray matter ${q.true_mean.toFixed(q.digits)} ${q.unit}.`);
      const text = `After epoch ${data.epochs[k]} the mean ${q.name} in gray matter is ${data.panels.map((name, p) => `${q.means[p][k].toFixed(q.digits)} ${q.unit} by ${name}`).join(", ")}; the truth is ${q.true_mean.toFixed(q.digits)} ${q.unit}.`;
      const highest = 1.1 * Math.max(q.true_mean, ...q.means.flat());
      draw(box, {
        x: { low: 0, high: data.epochs[last], label: "epoch" }, y: { low: 0, high: highest, label: `mean ${q.name} (${q.unit})` }, height: 230,
        marks: [
          { kind: "line", x: [0, data.epochs[last]], y: [q.true_mean, q.true_mean], class: "w-ghost" },
          ...data.panels.map((_, p) => ({ kind: "line", x: data.epochs, y: q.means[p], class: `w-c${p + 1}` })),
          ...data.panels.map((_, p) => ({ kind: "dot", x: data.epochs[k], y: q.means[p][k], class: `w-c${p + 1}` })),
        ],
      }, text);
      values.say(text);
    }
    bar();
    show();
    onResize(box, show);
  });
})();
