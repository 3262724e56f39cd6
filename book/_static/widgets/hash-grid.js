/* The hash encoding laid over a brain: resolution and rows of each level, which vertices share a row, and where. */
(function () {
  "use strict";
  const { bytes, choice, define, draw, element, frame, legend, onResize, sentence, slider } = window.aslpinn.widgets;
  const { gridLevels, vertexRow } = window.aslpinn.physics;
  const WINDOW_CELLS = 40;

  /** Voxels of the mask as positions in the unit cube, as the core puts them there: mm over the box's longest side. */
  function brain(data) {
    const bits = bytes(data.mask);
    const [nx, ny, nz] = data.shape;
    const extent = Math.max(...data.shape.map((n, axis) => n * data.voxel_size[axis]));
    const unit = (index, axis) => Math.fround(((index + 0.5) * data.voxel_size[axis]) / extent);
    const inside = (i, j, k) => (bits[((i * ny + j) * nz + k) >> 3] >> (7 - (((i * ny + j) * nz + k) & 7))) & 1;
    const voxels = [];
    for (let i = 0; i < nx; i++) for (let j = 0; j < ny; j++) for (let k = 0; k < nz; k++) if (inside(i, j, k)) voxels.push(i, j, k);
    return { voxels, unit, inside, shape: data.shape, voxelSize: data.voxel_size, extent };
  }

  /** Distinct vertices around the voxels as numbers (x * side + y) * side + z. */
  function verticesOf(head, level) {
    const along = head.shape.map((n, axis) => Int32Array.from({ length: n }, (_, i) => Math.floor(head.unit(i, axis) * level.scale + 0.5)));
    const apart = along.every((lower) => lower.every((value, i) => i === 0 || value - lower[i - 1] > 1)); // then none is met twice
    const side = level.resolution + 1;
    const count = (head.voxels.length / 3) * 8;
    const vertices = new Float64Array(count);
    const slots = apart ? null : new Float64Array(2 ** Math.ceil(Math.log2(2 * count))).fill(-1);
    let found = 0;
    for (let v = 0; v < head.voxels.length; v += 3) {
      const x = along[0][head.voxels[v]], y = along[1][head.voxels[v + 1]], z = along[2][head.voxels[v + 2]];
      for (let c = 0; c < 8; c++) {
        const vertex = ((x + (c & 1)) * side + y + ((c >> 1) & 1)) * side + z + (c >> 2);
        if (slots) {
          let slot = (Math.imul(vertex % 4294967291, 2654435761) >>> 0) % slots.length;
          while (slots[slot] !== -1 && slots[slot] !== vertex) slot = (slot + 1) % slots.length;
          if (slots[slot] === vertex) continue;
          slots[slot] = vertex;
        }
        vertices[found++] = vertex;
      }
    }
    return { side, vertices: vertices.subarray(0, found) };
  }

  /** Vertices around the voxels, the row of each, and how many share a row. */
  function usage(head, level) {
    const { side, vertices } = verticesOf(head, level);
    const owners = new Uint32Array(level.rows);
    const rows = new Uint32Array(vertices.length);
    for (let i = 0; i < vertices.length; i++) {
      const z = vertices[i] % side, rest = (vertices[i] - z) / side, y = rest % side;
      rows[i] = vertexRow((rest - y) / side, y, z, level);
      owners[rows[i]]++;
    }
    const shared = rows.reduce((sum, row) => sum + (owners[row] > 1 ? 1 : 0), 0);
    return { side, vertices, rows, owners, used: vertices.length, shared, share: shared / Math.max(1, vertices.length) };
  }

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  /** The vertices of one level over the middle slice of the brain; a part of it where the grid is fine. */
  function drawSlice(canvas, head, level, used) {
    const [nx, ny, nz] = head.shape;
    const whole = Math.max(nx * head.voxelSize[0], ny * head.voxelSize[1]) / head.extent;
    const span = Math.min(whole, WINDOW_CELLS / level.scale);
    const center = [0, 1].map((axis) => (0.5 * head.shape[axis] * head.voxelSize[axis]) / head.extent);
    const ratio = window.devicePixelRatio || 1;
    const size = Math.min(420, canvas.parentElement.clientWidth || 420);
    canvas.width = canvas.height = Math.round(size * ratio);
    canvas.style.width = canvas.style.height = `${size}px`;
    const at = canvas.getContext("2d");
    const place = (value, axis) => ((value - center[axis]) / span + 0.5) * canvas.width;
    const flip = (value) => canvas.height - place(value, 1);
    const slice = Math.floor(nz / 2);
    at.fillStyle = color("--w-brain");
    const [dx, dy] = [0, 1].map((axis) => (head.voxelSize[axis] / head.extent / span) * canvas.width);
    for (let i = 0; i < nx; i++) for (let j = 0; j < ny; j++) {
      if (head.inside(i, j, slice)) at.fillRect(place(head.unit(i, 0), 0) - dx / 2, flip(head.unit(j, 1)) - dy / 2, dx + 0.5, dy + 0.5);
    }
    const layer = Math.floor(head.unit(slice, 2) * level.scale + 0.5);
    const radius = Math.max(1.6 * ratio, Math.min(5 * ratio, (0.3 * canvas.width) / (span * level.scale)));
    for (let i = 0; i < used.used; i++) {
      const vertex = used.vertices[i], row = used.rows[i];
      const z = vertex % used.side, rest = (vertex - z) / used.side, y = rest % used.side, x = (rest - y) / used.side;
      if (z !== layer) continue;
      const [cx, cy] = [place((x - 0.5) / level.scale, 0), flip((y - 0.5) / level.scale)];
      if (cx < 0 || cy < 0 || cx > canvas.width || cy > canvas.height) continue;
      const alone = used.owners[row] === 1;
      at.fillStyle = at.strokeStyle = color(alone ? "--w-1" : "--w-2");
      at.lineWidth = 1.2 * ratio;
      at.beginPath();
      if (alone) { at.arc(cx, cy, radius, 0, 7); at.fill(); } else { at.rect(cx - radius, cy - radius, 2 * radius, 2 * radius); at.stroke(); }
    }
    return { mm: span * head.extent, whole: span >= whole };
  }

  define("hash-grid", (root, data) => {
    if (!data.mask) { root.dataset.ready = "empty"; return; }
    const head = brain(data);
    let timer = 0;
    const update = () => { clearTimeout(timer); timer = setTimeout(show, 40); };
    const pick = (name, label, values, value) => choice(label, name, values.map((number) => [number, String(number)]), value, () => { update(); });
    const levels = slider({ name: "levels", label: "Levels", min: 2, max: 16, step: 1, value: data.start.levels }, () => { shown.limit(levels.value); update(); });
    const base = pick("base", "Base: vertices an axis, first level", data.bases, data.start.base);
    const finest = pick("finest", "Finest: vertices an axis, last level", data.finests, data.start.finest);
    const table = slider({ name: "log2_table", label: "Largest table", min: 8, max: 19, step: 1, value: data.start.log2_table, show: (n) => `2^${n} = ${(2 ** n).toLocaleString("en")} rows` }, update);
    const shown = slider({ name: "shown", label: "Level drawn", min: 1, max: data.start.levels, step: 1, value: Math.min(data.start.levels, 4) }, update);
    const canvas = element("canvas", { role: "img" });
    const box = element("div", { class: "widget-plot" });
    const rows = element("tbody");
    const head3 = ["level", "vertices along an axis", "spacing (mm)", "rows", "how", "vertices that share a row"];
    const list = element("div", { class: "widget-table", tabindex: "0", role: "region", "aria-label": "Levels of the grid" },
      element("table", {}, element("thead", {}, element("tr", {}, ...head3.map((text) => element("th", { scope: "col" }, text)))), rows));
    const note = element("p", { class: "widget-head" });
    const values = sentence();
    frame(
      root,
      element("div", { class: "widget-controls" }, ...[levels, base, finest, table, shown].map((c) => c.row)),
      element("div", { class: "widget-pair" }, element("div", {}, note, canvas, legend([["w-c1", "has its row alone"], ["w-ring", "shares its row with another vertex of this brain"]])),
        element("div", {}, element("p", { class: "widget-head" }, "Share of vertices that collide, by level"), box)),
      list, values.node,
    );
    const cache = new Map();

    function used(level, key) {
      if (!cache.has(key)) { if (cache.size > 40) cache.clear(); cache.set(key, usage(head, level)); }
      return cache.get(key);
    }

    function show() {
      const settings = [levels.value, Number(base.value), Number(finest.value)];
      const all = gridLevels(settings[0], table.value, settings[1], settings[2], data.resolutions[settings.join(" ")]);
      const found = all.map((level) => used(level, `${level.scale} ${level.rows}`));
      const n = shown.value - 1;
      const drawnPart = drawSlice(canvas, head, all[n], found[n]);
      note.textContent = `Level ${n + 1} on the middle slice` + (drawnPart.whole ? "" : `: the middle ${Math.round(drawnPart.mm)} mm of it`);
      canvas.setAttribute("aria-label", `Vertices of level ${n + 1} over the brain: ${found[n].used - found[n].shared} have a row alone, ${found[n].shared} share one.`);
      rows.replaceChildren(...all.map((level, k) => element("tr", k === n ? { class: "w-chosen" } : {},
        ...[k + 1, level.resolution, (head.extent / level.scale).toFixed(1), level.rows.toLocaleString("en"), level.dense ? "dense" : "hashed", `${(100 * found[k].share).toFixed(1)} %`].map((text) => element("td", {}, String(text))))));
      const hashed = all.filter((level) => !level.dense).length;
      const text = `Level ${n + 1}: ${all[n].resolution} vertices along an axis, one every ${(head.extent / all[n].scale).toFixed(1)} mm, ${all[n].dense ? `each with a row of its own${found[n].shared ? " (but for the last of an axis, which run into the next line of rows)" : ""}` : `hashed into ${all[n].rows.toLocaleString("en")} rows`}. ` +
        `This brain uses ${found[n].used.toLocaleString("en")} of its vertices; ${(100 * found[n].share).toFixed(1)} % of these share a row with another. ${hashed} of ${all.length} levels are hashed; the table has ${all.reduce((sum, level) => sum + level.rows, 0).toLocaleString("en")} rows in all.`;
      draw(box, {
        x: { low: 0.3, high: all.length + 0.7, label: "level", ticks: { values: all.map((_, k) => k + 1).filter((k) => all.length <= 8 || k % 2 === 0), digits: 0 } },
        y: { low: 0, high: 100, label: "share a row (%)" }, height: 280,
        marks: found.map((use, k) => ({ kind: "bar", x: k + 0.6, width: 0.8, y: 100 * use.share, class: all[k].dense ? "w-c1" : "w-c2" })),
      }, `Share of vertices that collide, by level: ${found.map((use) => `${(100 * use.share).toFixed(0)} %`).join(", ")}.`);
      values.say(text);
      root.dataset.shared = found.map((use) => use.shared).join(" ");
    }
    show();
    onResize(box, show);
    new MutationObserver(show).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  });
})();
