/* The maps of one subject in three dimensions (NiiVue), over the calibration image. Maps come as a script, because a
   page opened from a folder may not fetch files; NiiVue itself is loaded when the viewer comes into sight. */
(function () {
  "use strict";
  const { bytes, choice, define, element, frame, sentence, slider } = window.aslpinn.widgets;
  const waiting = {};
  window.aslpinn.maps = (key, data) => waiting[key](data);

  function load(source) {
    return new Promise((done, failed) => {
      const script = element("script", { src: source, load: done, error: () => failed(new Error(source)) });
      document.head.append(script);
    });
  }

  /** A color map for NiiVue: lowest index transparent, which is what lies outside the mask. */
  function colormap(lut) {
    const channel = (c) => Array.from({ length: 256 }, (_, k) => lut[3 * k + c]);
    return { R: channel(0), G: channel(1), B: channel(2), A: Array.from({ length: 256 }, (_, k) => (k ? 255 : 0)), I: Array.from({ length: 256 }, (_, k) => k) };
  }

  /** A volume from a NIfTI in base64; no request is made. */
  function volume(name, base64, map, low, high, opacity) {
    return window.niivue.NVImage.loadFromBase64({ base64, name: `${name}.nii.gz`, colormap: map, cal_min: low, cal_max: high, opacity });
  }

  /** Links to the maps themselves, which lie beside the script. */
  function files(root, names) {
    const folder = root.dataset.source.replace(/[^/]*$/, "");
    const list = element("ul", {}, ...names.map((name) => element("li", {}, element("a", { href: folder + name, download: "" }, name.split("/").slice(1).join(": ")))));
    root.querySelector(".widget-body").append(element("details", { class: "widget-files" }, element("summary", {}, "The maps as NIfTI files"), list));
  }

  async function fill(root, data) {
    const { Niivue } = window.niivue;
    const canvas = element("canvas", { class: "widget-volume", role: "img", tabindex: "-1" });
    const holder = element("div", { class: "widget-volume-box" }, canvas);
    const values = sentence();
    const scale = element("div", { class: "widget-color-bar" });
    const again = () => show().catch((error) => values.say(`The map cannot be drawn: ${error.message}`));
    const estimators = [...new Set(data.maps.map((map) => map.estimator))];
    const estimator = choice("Estimator", "estimator", estimators.map((name) => [name, name]), estimators[0], () => { offer(); again(); });
    const quantity = choice("Map", "quantity", [], "", again);
    const views = [["multi", "three planes and 3D"], ["axial", "axial"], ["coronal", "coronal"], ["sagittal", "sagittal"], ["render", "3D"]];
    const view = choice("View", "view", views, "multi", () => arrange());
    const opacity = slider({ name: "opacity", label: "Opacity over M0", unit: "%", min: 0, max: 100, step: 5, value: 100 }, () => { nv.setOpacity(nv.volumes.length - 1, opacity.value / 100); nv.createOnLocationChange(); });
    let size = [1, 1, 1];
    const places = ["x, left to right", "y, back to front", "z, low to high"].map((label, axis) =>
      slider({ name: `place${axis}`, label: `Crosshair ${label}`, min: 1, max: 1, step: 1, value: 1, show: (n) => `${n} of ${size[axis]}` }, () => {
        nv.scene.crosshairPos = places.map((place, k) => (place.value - 0.5) / size[k]);
        nv.drawScene();
        nv.createOnLocationChange();
      }));
    frame(root, element("div", { class: "widget-controls" }, ...[estimator, quantity, view, opacity, ...places].map((c) => c.row)), holder, scale, values.node);
    const nv = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, isColorbar: false, dragAndDropEnabled: false, logLevel: "silent", crosshairWidth: 0.8, crosshairWidthUnit: "percent", multiplanarLayout: 2, multiplanarForceRender: true });
    nv.onLocationChange = (place) => {
      if (place.frac) places.forEach((slide, axis) => { slide.value = Math.min(size[axis], 1 + Math.floor(place.frac[axis] * size[axis] + 1e-4)); });
      tell(place);
    };
    await nv.attachToCanvas(canvas);
    nv.setInterpolation(true); // a voxel is shown as it is
    nv.addColormap("aslpinn-m0", { R: [0, 255], G: [0, 255], B: [0, 255], A: [0, 255], I: [0, 255] });
    data.maps.forEach((map, k) => nv.addColormap(`aslpinn-${k}`, colormap(bytes(map.lut))));
    offer();
    await show();
    arrange();
    if (data.files.length) files(root, data.files);
    root.dataset.ready = "yes";

    function offer() {
      const before = quantity.value;
      const there = data.maps.filter((map) => map.estimator === estimator.value);
      quantity.input.replaceChildren(...there.map((map) => element("option", { value: map.quantity }, map.name)));
      quantity.input.value = there.some((map) => map.quantity === before) ? before : there[0].quantity;
    }

    function chosen() {
      return data.maps.find((map) => map.estimator === estimator.value && map.quantity === quantity.value);
    }

    async function show() {
      const map = chosen();
      const k = data.maps.indexOf(map);
      const step = (map.high - map.low) / 254; // what is outside the mask lies one step below the range
      const entries = data.underlay ? [volume("m0", data.underlay, "aslpinn-m0", 0, 100, 1)] : [];
      entries.push(volume(map.quantity, map.volume, `aslpinn-${k}`, map.low - step, map.high, opacity.value / 100));
      const place = [...nv.scene.crosshairPos];
      for (const old of [...nv.volumes]) nv.removeVolume(old);
      for (const image of await Promise.all(entries)) nv.addVolume(image);
      size = nv.volumes[0].dimsRAS.slice(1, 4);
      places.forEach((slide, axis) => slide.limit(size[axis]));
      nv.scene.crosshairPos = place;
      nv.updateGLVolume();
      nv.createOnLocationChange();
      bar(map);
      root.dataset.shown = `${map.estimator} ${map.quantity}`;
    }

    function arrange() {
      const types = { multi: nv.sliceTypeMultiplanar, axial: nv.sliceTypeAxial, coronal: nv.sliceTypeCoronal, sagittal: nv.sliceTypeSagittal, render: nv.sliceTypeRender };
      nv.setSliceType(types[view.value]);
      nv.createOnLocationChange();
    }

    function bar(map) {
      const lut = bytes(map.lut);
      const strip = element("canvas", { width: 256, height: 1, "aria-hidden": "true" });
      const at = strip.getContext("2d");
      const image = at.createImageData(256, 1);
      for (let k = 0; k < 256; k++) image.data.set([lut[3 * k], lut[3 * k + 1], lut[3 * k + 2], 255], 4 * k);
      at.putImageData(image, 0, 0);
      const tick = (value) => element("span", {}, String(Number(value.toFixed(2))));
      scale.replaceChildren(strip, element("div", { class: "widget-bar-ticks" }, tick(map.low), tick((map.low + map.high) / 2), tick(map.high)), element("div", {}, `${map.name} (${map.unit})`));
    }

    function tell(place) {
      const map = chosen();
      const found = place.values && place.values.length ? place.values[place.values.length - 1].value : NaN;
      const outside = !(found >= map.low - 0.5 * ((map.high - map.low) / 254));
      const value = outside ? "outside the mask" : `${found.toFixed(map.digits)} ${map.unit}${found <= map.low ? " or less" : ""}`;
      const voxel = place.vox ? `voxel ${[...place.vox].map((v) => Math.round(v)).join(", ")} (counted from 0)` : "the crosshair";
      const text = `${map.name} by ${map.estimator} at ${voxel}: ${value}.`;
      const shown = view.input.selectedOptions[0].textContent;
      canvas.setAttribute("aria-label", `The brain, ${shown}; the map at ${opacity.value} % opacity. ${text}`);
      values.say(text);
    }
  }

  define("maps", (root) => {
    const key = root.dataset.key;
    const words = root.querySelector(".widget-note");
    const sorry = (text) => { if (words) words.textContent = text; root.dataset.ready = "failed"; };
    const data = new Promise((done) => { waiting[key] = done; });
    const begin = async () => {
      if (!document.createElement("canvas").getContext("webgl2")) { sorry("The 3D viewer needs WebGL 2, which this browser does not offer. The maps are in the files named on this page."); return; }
      try {
        if (!window.niivue) await load(root.dataset.niivue);
        await load(root.dataset.source);
        const found = await data;
        if (!found.maps.length) { sorry("This subject has no maps."); return; }
        await fill(root, found);
      } catch (error) {
        sorry(`The 3D viewer could not start: ${error.message}`);
      }
    };
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); begin(); }
    }, { rootMargin: "200px" });
    root.dataset.ready = "loading";
    seen.observe(root);
    return false;
  });
})();
