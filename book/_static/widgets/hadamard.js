/* Time encoding: a Hadamard matrix, what one of its volumes labels, what the volumes measure, what decoding gives. */
(function () {
  "use strict";
  const { choice, define, draw, element, frame, legend, onResize, sentence, slider } = window.aslpinn.widgets;
  const { adjustedDurations, decode, deltaM, effectiveDelays, encode, equalDurations, hadamard } = window.aslpinn.physics;
  const TOTAL = 3.6, FINAL = 0.05;
  const ORDERS = [4, 8, 12, 16, 20, 24];

  /** Everything that the drawings show; signals in % of M0b, volumes against an image without label. */
  function model(state) {
    const matrix = hadamard(state.kind, state.order);
    const count = state.order - 1;
    const durations = state.timing === "equal" ? equalDurations(count, TOTAL) : adjustedDurations(count, TOTAL);
    const delays = effectiveDelays(durations, FINAL);
    const signals = durations.map((tau, k) => 100 * deltaM(state.cbf, state.att, delays[k], tau));
    const volumes = encode(signals, matrix);
    return { matrix, durations, delays, signals, volumes, decoded: decode(volumes, matrix) };
  }

  function drawMatrix(box, matrix, chosen, pick) {
    const cell = Math.max(9, Math.min(22, Math.floor((Math.max(200, box.clientWidth || 300) - 40) / matrix[0].length)));
    const svg = element("svg", {
      width: 34 + cell * matrix[0].length, height: 22 + cell * matrix.length, role: "img",
      "aria-label": `Encoding matrix of ${matrix.length} volumes by ${matrix[0].length} sub-boli. Row ${chosen + 1}: ${matrix[chosen].map((sign) => (sign > 0 ? "control" : "label")).join(", ")}.`,
    });
    matrix.forEach((row, v) => {
      const line = element("g", { click: () => pick(v), class: "w-row" });
      row.forEach((sign, k) => line.append(element("rect", { x: 30 + k * cell, y: 18 + v * cell, width: cell - 1, height: cell - 1, class: `w-bar ${sign > 0 ? "w-control" : "w-c2"}` })));
      if (cell >= 12 || v % 2 === 0) line.append(element("text", { x: 25, y: 18 + (v + 0.5) * cell + 4, class: "w-tick", "text-anchor": "end" }, String(v + 1)));
      svg.append(line);
    });
    svg.append(element("text", { x: 30, y: 12, class: "w-tick" }, "sub-bolus, first to last"));
    svg.append(element("rect", { x: 29, y: 17 + chosen * cell, width: cell * matrix[0].length + 1, height: cell + 1, class: "w-frame" }));
    box.replaceChildren(svg);
  }

  define("hadamard", (root) => {
    const update = () => {
      const named = kind.value === "Paley" ? ORDERS.filter((n) => n !== 16) : ORDERS;
      for (const option of order.input.options) option.disabled = !named.includes(Number(option.value));
      if (!named.includes(Number(order.value))) order.input.value = 12;
      volume.limit(Number(order.value));
      show();
    };
    const order = choice("Order N: number of images", "order", ORDERS.map((n) => [n, String(n)]), 12, update);
    const kind = choice("Matrix", "kind", [["Hadamard", "Hadamard"], ["Walsh", "Walsh order"], ["Paley", "Paley"]], "Hadamard", update);
    const timing = choice("Sub-boli", "timing", [["equal", "equal durations"], ["adjusted", "T1-adjusted durations"]], "equal", update);
    const volume = slider({ name: "volume", label: "Volume shown", min: 1, max: 12, step: 1, value: 2 }, update);
    const cbf = slider({ name: "cbf", label: "CBF", unit: "ml/100g/min", min: 5, max: 120, step: 1, value: 60 }, update);
    const att = slider({ name: "att", label: "ATT", unit: "s", min: 0.3, max: 3, step: 0.05, value: 1, digits: 2 }, update);
    const [grid, bars, measured, found] = ["matrix", "plot", "plot", "plot"].map((name) => element("div", { class: `widget-${name}` }));
    const values = sentence();
    const head = (text) => element("p", { class: "widget-head" }, text);
    frame(
      root,
      element("div", { class: "widget-controls" }, ...[order, kind, timing, volume, cbf, att].map((c) => c.row)),
      element("div", { class: "widget-pair" },
        element("div", {}, head("The matrix: a row a volume"), grid),
        element("div", {}, head("What the scanner does in the volume shown"), bars)),
      legend([["w-c2", "label"], ["w-control", "control"]]),
      element("div", { class: "widget-pair" },
        element("div", {}, head("What the volumes measure, less the image without label"), measured),
        element("div", {}, head("Decoded: each sub-bolus alone"), found)),
      values.node,
    );

    function show() {
      const now = model({ order: Number(order.value), kind: kind.value, timing: timing.value, cbf: cbf.value, att: att.value });
      const chosen = volume.value - 1;
      const n = now.matrix.length;
      drawMatrix(grid, now.matrix, chosen, (v) => { volume.value = v + 1; update(); });
      const starts = now.durations.map((_, k) => now.durations.slice(0, k).reduce((sum, tau) => sum + tau, 0));
      const row = now.matrix[chosen];
      const labels = row.filter((sign) => sign < 0).length;
      draw(bars, {
        x: { low: 0, high: 4, label: "time (s)" }, y: { low: 0, high: 1, label: "", ticks: { values: [], digits: 0 } }, height: 130,
        marks: [
          ...row.map((sign, k) => ({ kind: "bar", x: starts[k], width: now.durations[k] * 0.97, y: 0.7, class: sign > 0 ? "w-control" : "w-c2" })),
          { kind: "rule", x: TOTAL + FINAL, class: "", text: "readout" },
        ],
      }, `Volume ${chosen + 1}: ${labels} of ${row.length} sub-boli are labeled, then the readout at ${(TOTAL + FINAL).toFixed(2)} s.`);
      const low = Math.min(-0.2, Math.floor(Math.min(...now.volumes) * 5) / 5);
      draw(measured, {
        x: { low: 0.3, high: n + 0.7, label: "volume", ticks: { values: Array.from({ length: n }, (_, v) => v + 1).filter((v) => n <= 8 || v % 4 === 0), digits: 0 } },
        y: { low, high: 0.1, label: "ΔM / M0b (%)" }, height: 230,
        marks: now.volumes.map((value, v) => ({ kind: "bar", x: v + 0.6, width: 0.8, y: value, class: v === chosen ? "w-c2" : "w-c4" })),
      }, `Signals of the volumes in percent of M0b: ${now.volumes.map((value) => value.toFixed(2)).join(", ")}.`);
      const time = now.durations.map((tau, k) => tau + now.delays[k]);
      const fine = Array.from({ length: 200 }, (_, i) => 0.05 + (3.75 * i) / 199);
      const curve = timing.value === "equal" ? [{ kind: "line", x: fine, y: fine.map((t) => 100 * deltaM(cbf.value, att.value, t - now.durations[0], now.durations[0])), class: "w-ghost" }] : [];
      draw(found, {
        x: { low: 0, high: 4, label: "t = τ + PLD of the sub-bolus (s)" }, y: { low: 0, high: Math.max(0.2, Math.ceil(Math.max(...now.decoded) * 5.5) / 5), label: "ΔM / M0b (%)" }, height: 230,
        marks: [...curve, ...now.decoded.map((value, k) => ({ kind: "dot", x: time[k], y: value, class: "w-c1", r: 4.5 }))],
      }, `Decoded signals from the first sub-bolus to the last, in percent of M0b: ${now.decoded.map((value) => value.toFixed(2)).join(", ")}.`);
      values.say(
        `Order ${n}: ${n} images give ${n - 1} sub-boli. Volume ${chosen + 1} labels ${labels} of them. Every image counts for every sub-bolus, so the noise of a decoded one is ` +
        `2/√${n} = ${(2 / Math.sqrt(n)).toFixed(2)} times that of an image; a single control and label have √2 = 1.41.`,
      );
    }
    update();
    onResize(bars, update);
  });
})();
