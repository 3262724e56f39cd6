/* The book's physics for its moving figures: Buxton's signal, Hadamard matrices, the hash encoding's grids.
   The same formulas as aslpinn.physics and aslpinn.fields; tests/test_widgets.py compares them in a browser.
   Times in s, cbf in ml/100g/min, signals as fractions of M0b. */
(function () {
  "use strict";
  const CBF_PER_FLOW = 6000;
  const CONSTANTS = { t1_blood: 1.65, t1_tissue: 1.3, partition_coefficient: 0.9, labeling_efficiency: 0.85 };

  /** T1' in s, the tissue's relaxation time with the outflow of labeled water (Buxton 1998, eq. 2). */
  function apparentT1(cbf, constants = CONSTANTS) {
    return 1 / (1 / constants.t1_tissue + cbf / CBF_PER_FLOW / constants.partition_coefficient);
  }

  /** Buxton's pCASL signal, delta-M / M0b (Buxton et al. 1998, eq. 3). */
  function deltaM(cbf, att, pld, tau, constants = CONSTANTS) {
    const t1 = apparentT1(cbf, constants);
    const sinceArrival = pld + tau - att;
    const inflow = Math.min(Math.max(sinceArrival, 0), tau);
    const outflow = Math.max(sinceArrival - tau, 0);
    const amplitude = 2 * constants.labeling_efficiency * (cbf / CBF_PER_FLOW) * t1 * Math.exp(-att / constants.t1_blood);
    return amplitude * (1 - Math.exp(-inflow / t1)) * Math.exp(-outflow / t1);
  }

  /** Durations of n equal sub-boli. */
  function equalDurations(n, total) {
    return new Array(n).fill(total / n);
  }

  /** Durations of n sub-boli, in the order of labeling, that have equal magnetization at the end of labeling. */
  function adjustedDurations(n, total, t1Blood = CONSTANTS.t1_blood) {
    const growth = Math.expm1(total / t1Blood);
    const end = (k) => t1Blood * Math.log1p((k * growth) / n);
    return Array.from({ length: n }, (_, k) => end(k + 1) - end(k));
  }

  /** PLD of each sub-bolus: the one delay after the last, plus the sub-boli labeled later. */
  function effectiveDelays(durations, finalDelay) {
    let later = finalDelay;
    const delays = new Array(durations.length);
    for (let k = durations.length - 1; k >= 0; k--) {
      delays[k] = later;
      later += durations[k];
    }
    return delays;
  }

  function sylvester(size) {
    let full = [[1]];
    while (full.length < size) {
      full = [...full.map((row) => [...row, ...row]), ...full.map((row) => [...row, ...row.map((sign) => -sign)])];
    }
    return full;
  }

  function paley(size) {
    const q = size - 1;
    const squares = new Set(Array.from({ length: q - 1 }, (_, i) => ((i + 1) * (i + 1)) % q));
    const character = (x) => (x === 0 ? 0 : squares.has(x) ? 1 : -1);
    return Array.from({ length: size }, (_, i) => {
      const row = Array.from({ length: size }, (_, j) => {
        let skew = character((((i - j) % q) + q) % q);
        if (i === 0) skew = j === 0 ? 0 : 1;
        else if (j === 0) skew = -1;
        return skew + (i === j ? 1 : 0);
      });
      return row.map((sign) => sign * row[0]);
    });
  }

  /** Number of changes of sign from volume to volume in a column. */
  function sequency(matrix, column) {
    return matrix.reduce((changes, row, v) => changes + (v > 0 && row[column] !== matrix[v - 1][column] ? 1 : 0), 0);
  }

  /** N rows (volumes) by N - 1 columns (sub-boli), +1 control and -1 label; kind "Hadamard", "Walsh" or "Paley". */
  function hadamard(kind, size) {
    const byPaley = kind === "Paley" || [12, 20, 24].includes(size);
    const columns = (byPaley ? paley(size) : sylvester(size)).map((row) => row.slice(1));
    if (kind !== "Walsh") return columns;
    const order = columns[0].map((_, k) => k).sort((a, b) => sequency(columns, a) - sequency(columns, b) || a - b);
    return columns.map((row) => order.map((k) => row[k]));
  }

  /** Volumes S_v = static - sum_k (1 - H[v, k]) / 2 m_k. */
  function encode(signals, matrix, still = 0) {
    return matrix.map((row) => still - row.reduce((sum, sign, k) => sum + ((1 - sign) / 2) * signals[k], 0));
  }

  /** Sub-bolus signals m_k = (2 / N) sum_v H[v, k] S_v. */
  function decode(volumes, matrix) {
    const share = 2 / matrix.length;
    return matrix[0].map((_, k) => share * matrix.reduce((sum, row, v) => sum + row[k] * volumes[v], 0));
  }

  /** Scale, resolution and rows of each level. `resolutions` are the core's own, where the page brings them:
      the last level's scale is a whole number but for rounding, and a browser may round it up where Python does not. */
  function gridLevels(levels, log2Table, base, finest, resolutions) {
    const growth = levels > 1 ? Math.exp(Math.log(finest / base) / (levels - 1)) : 1;
    return Array.from({ length: levels }, (_, number) => {
      const scale = base * growth ** number - 1;
      const resolution = resolutions ? resolutions[number] : Math.ceil(scale) + 1;
      const rows = Math.min(Math.ceil(resolution ** 3 / 8) * 8, 2 ** log2Table);
      return { scale, resolution, rows, dense: resolution ** 3 <= rows };
    });
  }

  /** Row of a vertex within its level's table. */
  function vertexRow(x, y, z, level) {
    if (level.dense) return (x + y * level.resolution + z * level.resolution ** 2) % level.rows;
    return ((x ^ Math.imul(y, 2654435761) ^ Math.imul(z, 805459861)) >>> 0) % level.rows;
  }

  /** Rows of the eight vertices around a point of the unit cube, x fastest, as the core orders them. */
  function cornerRows(point, level) {
    const lower = point.map((value) => Math.floor(value * level.scale + 0.5));
    return Array.from({ length: 8 }, (_, k) =>
      vertexRow(lower[0] + (k & 1), lower[1] + ((k >> 1) & 1), lower[2] + ((k >> 2) & 1), level),
    );
  }

  window.aslpinn = Object.assign(window.aslpinn || {}, {
    physics: {
      CONSTANTS, adjustedDurations, apparentT1, cornerRows, decode, deltaM, effectiveDelays, encode, equalDurations,
      gridLevels, hadamard, vertexRow,
    },
  });
})();
