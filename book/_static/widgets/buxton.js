/* Buxton's curve under the reader's hand: CBF, ATT, relaxation times, one bolus or a train of sub-boli. */
(function () {
  "use strict";
  const { choice, define, draw, element, frame, legend, onResize, sentence, slider } = window.aslpinn.widgets;
  const { CONSTANTS, adjustedDurations, deltaM, effectiveDelays, equalDurations } = window.aslpinn.physics;
  const END = 7;
  const POINTS = 281;

  /** Curves over time since labeling began, and the samples at the readout. */
  function model(state) {
    const constants = { ...CONSTANTS, t1_blood: state.t1Blood, t1_tissue: state.t1Tissue };
    const durations =
      state.labeling === "one" ? [state.total]
      : state.labeling === "equal" ? equalDurations(state.count, state.total)
      : adjustedDurations(state.count, state.total, state.t1Blood);
    const starts = durations.map((_, k) => durations.slice(0, k).reduce((sum, value) => sum + value, 0));
    const delays = effectiveDelays(durations, state.pld);
    const time = Array.from({ length: POINTS }, (_, k) => (END * k) / (POINTS - 1));
    const each = durations.map((tau, k) => time.map((t) => deltaM(state.cbf, state.att, t - starts[k] - tau, tau, constants)));
    return {
      durations, starts, delays, time, each,
      sum: time.map((_, i) => each.reduce((total, curve) => total + curve[i], 0)),
      samples: durations.map((tau, k) => deltaM(state.cbf, state.att, delays[k], tau, constants)),
      readout: state.total + state.pld,
    };
  }

  define("buxton", (root) => {
    const update = () => {
      pieces.row.hidden = labeling.value === "one";
      show(model(state()));
    };
    const cbf = slider({ name: "cbf", label: "CBF", unit: "ml/100g/min", min: 5, max: 120, step: 1, value: 60 }, update);
    const att = slider({ name: "att", label: "ATT", unit: "s", min: 0.3, max: 3, step: 0.05, value: 1, digits: 2 }, update);
    const t1Blood = slider({ name: "t1_blood", label: "T1 of blood", unit: "s", min: 1.2, max: 2.2, step: 0.05, value: CONSTANTS.t1_blood, digits: 2 }, update);
    const t1Tissue = slider({ name: "t1_tissue", label: "T1 of tissue", unit: "s", min: 0.7, max: 2, step: 0.05, value: CONSTANTS.t1_tissue, digits: 2 }, update);
    const total = slider({ name: "duration", label: "Labeling duration, all together", unit: "s", min: 0.2, max: 4, step: 0.05, value: 1.8, digits: 2 }, update);
    const pld = slider({ name: "pld", label: "PLD (end of labeling to readout)", unit: "s", min: 0.05, max: 2.5, step: 0.05, value: 1.5, digits: 2 }, update);
    const kinds = [["one", "one bolus"], ["equal", "equal sub-boli"], ["adjusted", "T1-adjusted sub-boli"]];
    const labeling = choice("Labeling", "labeling", kinds, "one", () => { if (labeling.value !== "one" && total.value < 3) { total.value = 3.6; pld.value = 0.05; } update(); });
    const pieces = slider({ name: "count", label: "Number of sub-boli", min: 3, max: 15, step: 1, value: 11 }, update);
    const start = model(state());
    const box = element("div", { class: "widget-plot" });
    const values = sentence();
    const keys = legend([["w-c1", "signal now"], ["w-ghost", "as it was at the start"], ["w-c2", "each sub-bolus, and its sample at the readout"]]);
    frame(root, element("div", { class: "widget-controls" }, ...[cbf, att, t1Blood, t1Tissue, labeling, total, pieces, pld].map((c) => c.row)), box, keys, values.node);

    function state() {
      return {
        cbf: cbf.value, att: att.value, t1Blood: t1Blood.value, t1Tissue: t1Tissue.value,
        labeling: labeling.value, total: total.value, count: pieces.value, pld: pld.value,
      };
    }

    function show(now) {
      const train = now.durations.length > 1;
      const percent = (curve) => curve.map((value) => 100 * value);
      const marks = [{ kind: "line", x: start.time, y: percent(start.sum), class: "w-ghost" }];
      if (train) now.each.forEach((curve) => marks.push({ kind: "line", x: now.time, y: percent(curve), class: "w-c2 w-thin" }));
      marks.push({ kind: "line", x: now.time, y: percent(now.sum), class: "w-c1" });
      marks.push({ kind: "rule", x: now.readout, class: "", text: "readout" });
      const sum = now.samples.reduce((all, value) => all + value, 0);
      if (train) now.samples.forEach((value) => marks.push({ kind: "dot", x: now.readout, y: 100 * value, class: "w-c2" }));
      marks.push({ kind: "dot", x: now.readout, y: 100 * sum, class: "w-c1", r: 5 });
      now.durations.forEach((tau, k) => marks.push({ kind: "block", x: now.starts[k], width: tau, row: 0, class: k % 2 ? "w-c3 w-second" : "w-c3" }));
      const high = Math.max(0.5, Math.ceil(1.05 * 100 * Math.max(...now.sum, ...start.sum) * 5) / 5);
      const peak = now.sum.indexOf(Math.max(...now.sum));
      const text =
        `CBF ${cbf.value} ml/100g/min, ATT ${att.value.toFixed(2)} s: the signal is zero until ${att.value.toFixed(2)} s after labeling began, ` +
        `is highest (${(100 * now.sum[peak]).toFixed(2)} % of M0b) at ${now.time[peak].toFixed(1)} s, and is ${(100 * sum).toFixed(2)} % at the readout, ${now.readout.toFixed(2)} s.` +
        (train ? ` The ${now.durations.length} sub-boli last ${now.durations.map((tau) => tau.toFixed(2)).join(", ")} s; at the readout they give ${now.samples.map((value) => (100 * value).toFixed(2)).join(", ")} %.` : "");
      const spec = { x: { low: 0, high: END, label: "time since labeling began (s)" }, y: { low: 0, high, label: "ΔM / M0b (%)" }, height: 290, rows: ["labels"], marks };
      draw(box, spec, text);
      values.say(text);
    }
    update();
    onResize(box, update);
  });
})();
