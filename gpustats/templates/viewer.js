"use strict";
/* Explore the maps of a report: brainsprite draws the slices, this paints what lies on them.
   Voxels are numbered in C order of the volume, as in the JSON of the run. */
(() => {
  const LIVE_DELAY_MS = 400;
  const AXES = ["X", "Y", "Z"];
  const KEYS = {
    ArrowLeft: ["X", -1], ArrowRight: ["X", 1], ArrowDown: ["Y", -1], ArrowUp: ["Y", 1],
    PageDown: ["Z", -1], PageUp: ["Z", 1],
  };

  const inflate = async (text) => {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  const numbers = async (text) => {
    const planes = await inflate(text);
    const n = planes.length / 4;
    const bytes = new Uint8Array(planes.length);
    for (let plane = 0; plane < 4; plane++) {
      for (let i = 0; i < n; i++) bytes[4 * i + plane] = planes[plane * n + i];
    }
    return new Float32Array(bytes.buffer);
  };

  const moved = (affine, place) =>
    affine.slice(0, 3).map((row) => row[0] * place[0] + row[1] * place[1] + row[2] * place[2] + row[3]);

  const written = (value) => {
    const digits = Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
    return digits.replace("-", "\u2212");
  };

  const writtenP = (negativeLog) => {
    if (negativeLog < 4) return String(Number((10 ** -negativeLog).toPrecision(3)));
    const exponent = Math.ceil(negativeLog);
    return `${(10 ** (exponent - negativeLog)).toPrecision(3)}e\u2212${exponent}`;
  };

  const millimetres = (place) =>
    place.map((x) => (Math.abs(x) < 0.05 ? 0 : x).toFixed(1).replace("-", "\u2212")).join(", ");

  class Explorer {
    constructor(root, backdrop, given) {
      Object.assign(this, { root, backdrop, given });
      this.section = root.closest("section");
      this.canvas = root.querySelector("canvas.slices");
      this.slider = root.querySelector("input[type=range]");
      this.only = root.querySelector("input[type=checkbox]");
      this.inputs = [...root.querySelectorAll("input[type=number]")];
      this.rows = [...this.section.querySelectorAll("button[data-mm]")];
    }

    async load() {
      const { given } = this;
      const inside = await inflate(given.mask);
      this.voxelAt = new Int32Array(inside.length).fill(-1);
      let n = 0;
      inside.forEach((there, i) => { if (there) this.voxelAt[i] = n++; });
      this.labels = await numbers(given.labels);
      this.maps = await Promise.all(
        given.maps.map(async (map) => ({ ...map, values: await numbers(map.values) })));
      this.z = this.maps.find((map) => map.name === "z").values;
      this.tail = await numbers(given.uncorrected.values);
      const colours = await Promise.resolve(atob(given.colours));
      this.colours = Uint8Array.from(colours, (letter) => letter.charCodeAt(0));
    }

    /* -log10 p of a voxel by itself, between the two nearest z of which it is known. */
    uncorrected(voxel) {
      const at = Math.min(Math.max(
        this.z[voxel] * this.given.uncorrected.steps - this.given.uncorrected.first, 0), this.tail.length - 1);
      const below = Math.floor(at);
      const above = Math.min(below + 1, this.tail.length - 1);
      return this.tail[below] + (at - below) * (this.tail[above] - this.tail[below]);
    }

    voxel(place) {
      const index = moved(this.given.inverse, place).map(Math.round);
      const shape = this.given.shape;
      if (index.some((i, axis) => i < 0 || i >= shape[axis])) return -1;
      return this.voxelAt[(index[0] * shape[1] + index[1]) * shape[2] + index[2]];
    }

    start() {
      const { shape, columns, step, origin } = this.backdrop;
      const sprite = document.getElementById("backdrop");
      this.overlay = this.root.querySelector("canvas.overlay");
      this.overlay.width = columns * shape[1];
      this.overlay.height = Math.ceil(shape[0] / columns) * shape[2];
      this.scale = this.root.querySelector("canvas.scale");
      this.voxelOf = this.drawnVoxels();
      this.paint();
      this.brain = brainsprite({
        canvas: this.canvas.id,
        sprite: sprite.id,
        nbSlice: { X: shape[0], Y: shape[1], Z: shape[2] },
        // brainsprite counts from 1
        affine: AXES.map((_, axis) => [0, 1, 2].map((other) => (axis === other ? step : 0))
          .concat(origin[axis] - step)).concat([[0, 0, 0, 1]]),
        overlay: { sprite: this.overlay.id, nbSlice: { X: shape[0], Y: shape[1], Z: shape[2] } },
        colorMap: { img: this.scale.id, min: this.lowest, max: this.given.limit },
        colorBackground: "#ffffff", colorFont: "#1b1f24", colorCrosshair: "#00795c",
        crosshair: true, flagCoordinates: true, nanValue: true, nbDecimals: 2, sizeFont: 0.05,
        onclick: () => this.look(this.crosshair()),
      });
      this.listen();
      this.move(this.given.start);
      this.root.dataset.state = "ready";
    }

    get lowest() { return this.given.twoSided ? -this.given.limit : 0; }

    /* Which voxel each pixel of the sprite shows; the nearest, so that values are what is seen. */
    drawnVoxels() {
      const { shape, columns, step, origin } = this.backdrop;
      const { inverse, shape: size } = this.given;
      const width = this.overlay.width;
      const drawn = new Int32Array(width * this.overlay.height).fill(-1);
      for (let x = 0; x < shape[0]; x++) {
        const left = (x % columns) * shape[1];
        const top = Math.floor(x / columns) * shape[2];
        for (let y = 0; y < shape[1]; y++) {
          const [a, b, c] = moved(inverse, [origin[0] + step * x, origin[1] + step * y, origin[2]]);
          for (let z = 0; z < shape[2]; z++) {
            const i = Math.round(a + inverse[0][2] * step * z);
            const j = Math.round(b + inverse[1][2] * step * z);
            const k = Math.round(c + inverse[2][2] * step * z);
            if (i < 0 || j < 0 || k < 0 || i >= size[0] || j >= size[1] || k >= size[2]) continue;
            drawn[(top + shape[2] - 1 - z) * width + left + y] =
              this.voxelAt[(i * size[1] + j) * size[2] + k];
          }
        }
      }
      return drawn;
    }

    colour(z) {
      const share = (z - this.lowest) / (this.given.limit - this.lowest);
      return 3 * Math.min(255, Math.max(0, Math.round(255 * share)));
    }

    passes(z) {
      return (this.given.twoSided ? Math.abs(z) : z) >= this.threshold;
    }

    paint() {
      this.threshold = Number(this.slider.value);
      const onlySurviving = this.only !== null && this.only.checked;
      const context = this.overlay.getContext("2d");
      const image = context.createImageData(this.overlay.width, this.overlay.height);
      const pixels = new Uint32Array(image.data.buffer);
      const { colours, labels, z, voxelOf } = this;
      for (let pixel = 0; pixel < voxelOf.length; pixel++) {
        const voxel = voxelOf[pixel];
        if (voxel < 0 || !this.passes(z[voxel]) || (onlySurviving && !labels[voxel])) continue;
        const c = this.colour(z[voxel]);
        pixels[pixel] = 0xff000000 | (colours[c + 2] << 16) | (colours[c + 1] << 8) | colours[c];
      }
      context.putImageData(image, 0, 0);
      this.paintScale();
    }

    paintScale() {
      const context = this.scale.getContext("2d");
      for (let i = 0; i < 256; i++) {
        const z = this.lowest + (i / 255) * (this.given.limit - this.lowest);
        const c = this.colour(z);
        const [r, g, b] = this.passes(z) ? this.colours.slice(c, c + 3) : [208, 212, 216];
        context.fillStyle = `rgb(${r}, ${g}, ${b})`;
        context.fillRect(i, 0, 1, 1);
      }
    }

    redraw() {
      this.brain.init();
      this.brain.drawAll();
    }

    listen() {
      const repaint = () => {
        this.root.querySelector("output").value = Number(this.slider.value).toFixed(2);
        this.paint();
        this.redraw();
      };
      this.slider.addEventListener("input", repaint);
      if (this.only !== null) this.only.addEventListener("change", repaint);
      this.canvas.addEventListener("keydown", (event) => this.step(event));
      for (const input of this.inputs) {
        input.addEventListener("change", () => {
          const place = this.inputs.map((one) => Number(one.value));
          if (place.every(Number.isFinite)) this.move(place);
        });
      }
      for (const button of this.rows) {
        button.closest("tr").addEventListener("click", () => {
          this.move(JSON.parse(button.dataset.mm));
          this.root.scrollIntoView({ block: "nearest" });
        });
      }
    }

    step(event) {
      if (!(event.key in KEYS) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const [axis, sign] = KEYS[event.key];
      const place = this.crosshair();
      place[AXES.indexOf(axis)] += sign * this.backdrop.step;
      this.move(place);
    }

    crosshair() {
      const { step, origin } = this.backdrop;
      return AXES.map((axis, i) => origin[i] + step * this.brain.numSlice[axis]);
    }

    move(place) {
      const { step, origin, shape } = this.backdrop;
      AXES.forEach((axis, i) => {
        const slice = Math.round((place[i] - origin[i]) / step);
        this.brain.numSlice[axis] = Math.min(shape[i] - 1, Math.max(0, slice));
      });
      this.redraw();
      this.look(place);
    }

    /* Say what is at a place: in the list, in the row of its cluster, and to those who listen. */
    look(place) {
      const voxel = this.voxel(place);
      const label = voxel < 0 ? 0 : this.labels[voxel];
      this.inputs.forEach((input, axis) => { input.value = place[axis].toFixed(1); });
      const list = this.root.querySelector("dl");
      list.replaceChildren();
      const add = (name, value) => {
        const pair = document.createElement("div");
        pair.append(document.createElement("dt"), document.createElement("dd"));
        pair.firstChild.textContent = name;
        pair.lastChild.append(value);
        list.append(pair);
      };
      const values = voxel < 0 ? [] : this.maps.map((map) => [
        map.name, (map.logarithmic ? writtenP : written)(map.values[voxel])]);
      if (voxel >= 0) values.splice(2, 0, [this.given.uncorrected.name, writtenP(this.uncorrected(voxel))]);
      add("cluster", voxel < 0 ? "outside the mask" : label ? this.link(label) : "none");
      values.forEach(([name, value]) => add(name, value));
      this.mark(place, label);
      const words = values.slice(0, 2).map(([name, value]) => `${name} = ${value}`);
      const of = label ? `cluster ${label}` : "no cluster";
      this.say(`(${millimetres(place)}) mm: ${[...words, voxel < 0 ? "outside the mask" : of].join(", ")}`);
    }

    link(label) {
      const link = document.createElement("a");
      link.href = `#${this.section.id}-cluster-${label}`;
      link.textContent = String(label).replace("-", "\u2212");
      return link;
    }

    mark(place, label) {
      for (const button of this.rows) {
        const mm = JSON.parse(button.dataset.mm);
        const here = mm.every((x, axis) => Math.abs(x - place[axis]) < 1e-3);
        const row = button.closest("tr");
        row.classList.toggle("here", here);
        row.classList.toggle("inside", label !== 0 && parseInt(row.dataset.cluster, 10) === label);
        if (here) button.setAttribute("aria-current", "true");
        else button.removeAttribute("aria-current");
      }
    }

    /* Readers of the screen hear where a movement ends, not each step of it. */
    say(words) {
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => {
        this.root.querySelector("[role=status]").textContent = words;
      }, LIVE_DELAY_MS);
    }
  }

  const main = async () => {
    const data = JSON.parse(document.getElementById("data").textContent);
    await document.getElementById("backdrop").decode();
    const roots = document.querySelectorAll(".explorer");
    for (let i = 0; i < roots.length; i++) {
      const explorer = new Explorer(roots[i], data.backdrop, data.contrasts[i]);
      try {
        await explorer.load();
        roots[i].hidden = false;
        explorer.start();
      } catch (error) {
        roots[i].hidden = true;
        roots[i].previousElementSibling.hidden = false;
        console.error(error);
      }
    }
  };
  main();
})();
