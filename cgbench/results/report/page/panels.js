// The panels of one PMF: a map on a canvas for two collective variables, lines for one.

const VIEW = { width: 420, height: 332 };
const BOX = { left: 62, top: 10, right: 340, bottom: 288 };
const BAR = { left: 354, right: 368 };
const SEQUENTIAL = paletteOf(data.colours.sequential);
const DIVERGING = paletteOf(data.colours.diverging);

const inDegrees = (axis) => (axis.unit === "rad" ? 180 / Math.PI : 1);
const symbol = (axis) => ({ phi: "φ", psi: "ψ" }[axis.name] ?? axis.name);

function axisLabel(axis) {
  const unit = axis.unit === "rad" ? "degrees" : axis.unit;
  return unit ? `${symbol(axis)} (${unit})` : symbol(axis);
}

/** Returns the centre of bin number `i`, in degrees or in the axis' unit. */
function centreOf(axis, i) {
  return (axis.lower + ((i + 0.5) * (axis.upper - axis.lower)) / axis.bins) * inDegrees(axis);
}

function axisScale(axis, from, to) {
  const scale = makeScale(false, axis.lower * inDegrees(axis), axis.upper * inDegrees(axis), from, to);
  if (axis.unit === "rad" && axis.upper - axis.lower > 6) {
    const [low, high] = [axis.lower, axis.upper].map((v) => v * inDegrees(axis));
    scale.ticks = [-180, -90, 0, 90, 180, 270, 360].filter((v) => v >= low - 1e-6 && v <= high + 1e-6)
      .map((value) => ({ value, label: String(value).replace("-", "−") }));
  }
  return scale;
}

/** Draws the two panels of a side, linked with all others. */
function pmfPanels(host, side, system, reference, range, linked) {
  const pmf = { name: "pmf", title: "PMF", label: "PMF (kT)", values: side.pmf, low: 0, high: data.cut, palette: SEQUENTIAL };
  const error = { name: "error", title: "Error", label: "estimate − reference (kT)", low: -range, high: range, palette: DIVERGING };
  const kinds = side.error ? [pmf, { ...error, values: side.error.values }] : [pmf];
  for (const kind of kinds) {
    const name = `${kind.title} of ${side.label} on ${system.name}`;
    const frame = html("div", { class: "panel", tabindex: 0, role: "img", "aria-label": name, "data-kind": kind.name });
    const broad = system.axes.length === 1 && kind.name === "pmf" && reference ? " (wide line: reference)" : "";
    const draw = system.axes.length === 1 ? drawLines : drawMap;
    const panel = draw(frame, kind, side, system, reference);
    linked.panels.push(panel);
    linkPanel(frame, panel, linked);
    host.append(html("figure", {}, html("figcaption", {}, `${kind.title}: ${side.label}`, broad), frame));
  }
}

function canvasAt(frame, columns, rows, box) {
  const canvas = html("canvas", { width: columns, height: rows });
  canvas.style.left = `${(100 * box.left) / VIEW.width}%`;
  canvas.style.top = `${(100 * box.top) / VIEW.height}%`;
  canvas.style.width = `${(100 * (box.right - box.left)) / VIEW.width}%`;
  canvas.style.height = `${(100 * (box.bottom - box.top)) / VIEW.height}%`;
  frame.append(canvas);
  return canvas;
}

/** Colours each pixel by a value; NaN stays transparent and shows the grey of the style sheet. */
function paint(canvas, valueAt, kind) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const value = valueAt(column, height - 1 - row);
      if (Number.isNaN(value)) continue;
      const level = Math.max(0, Math.min(255, Math.floor((256 * (value - kind.low)) / (kind.high - kind.low))));
      image.data.set([...kind.palette[level], 255], 4 * (row * width + column));
    }
  }
  context.putImageData(image, 0, 0);
}

function drawMap(frame, kind, side, system) {
  const [first, second] = system.axes;
  const [x, y] = [axisScale(first, BOX.left, BOX.right), axisScale(second, BOX.bottom, BOX.top)];
  paint(canvasAt(frame, first.bins, second.bins, BOX), (i, j) => kind.values[i * second.bins + j], kind);
  const bar = { left: BAR.left, right: BAR.right, top: BOX.top, bottom: BOX.bottom };
  paint(canvasAt(frame, 1, 256, bar), (_, j) => kind.low + ((j + 0.5) / 256) * (kind.high - kind.low), kind);
  const axes = drawAxes(BOX, x, y, axisLabel(first), axisLabel(second), false);
  const image = svg("svg", { viewBox: `0 0 ${VIEW.width} ${VIEW.height}` }, axes);
  const z = makeScale(false, kind.low, kind.high, BOX.bottom, BOX.top);
  z.ticks.forEach(({ value, label }) => {
    image.append(segment("tick", BAR.right, z(value), BAR.right + 4, z(value)));
    image.append(words(BAR.right + 7, z(value) + 4, "start", label));
  });
  image.append(upright(VIEW.width - 4, (BOX.top + BOX.bottom) / 2, kind.label));
  const cross = svg("rect", { class: "cross", visibility: "hidden" });
  image.append(cross);
  frame.append(image);
  const size = [(BOX.right - BOX.left) / first.bins, (BOX.bottom - BOX.top) / second.bins];
  return {
    bins: [first.bins, second.bins],
    mark: (bin) => {
      cross.setAttribute("visibility", bin ? "visible" : "hidden");
      if (!bin) return;
      const [left, top] = [BOX.left + bin[0] * size[0], BOX.bottom - (bin[1] + 1) * size[1]];
      fill(cross, { x: left - 2, y: top - 2, width: size[0] + 4, height: size[1] + 4 }, []);
    },
  };
}

function drawLines(frame, kind, side, system, reference) {
  const [axis] = system.axes;
  const wide = { ...BOX, right: VIEW.width - 12 };
  const [x, y] = [axisScale(axis, wide.left, wide.right), makeScale(false, kind.low, kind.high, wide.bottom, wide.top)];
  const centres = Array.from({ length: axis.bins }, (_, i) => centreOf(axis, i));
  const axes = drawAxes(wide, x, y, axisLabel(axis), kind.label);
  const image = svg("svg", { viewBox: `0 0 ${VIEW.width} ${VIEW.height}` }, axes);
  const size = frameOf(wide);
  const inside = svg("svg", { class: "clip", ...size, viewBox: `${size.x} ${size.y} ${size.width} ${size.height}` });
  const line = (name, values) => {
    inside.append(svg("path", { class: name, stroke: "currentColor", d: pathOf(centres, Array.from(values), x, y) }));
  };
  if (kind.name === "error") inside.append(segment("zero", wide.left, y(0), wide.right, y(0)));
  if (kind.name === "pmf" && reference) line("true", reference);
  line(`median ${side.colour}`, kind.values);
  image.append(inside);
  const cursor = svg("line", { class: "cursor", y1: wide.top, y2: wide.bottom, visibility: "hidden" });
  image.append(cursor);
  frame.append(image);
  return {
    bins: [axis.bins],
    right: wide.right,
    mark: (bin) => {
      cursor.setAttribute("visibility", bin ? "visible" : "hidden");
      if (bin) fill(cursor, { x1: x(centres[bin[0]]), x2: x(centres[bin[0]]) }, []);
    },
  };
}

/** Marks the same bin on every panel on hover and with arrow keys, and shows its values in the tooltip. */
function linkPanel(frame, panel, linked) {
  let current = null;
  const leave = () => { linked.panels.forEach((p) => p.mark(null)); hideTip(); };
  const describe = (bin, x, y) => {
    current = bin;
    linked.panels.forEach((p) => p.mark(bin));
    showTip(x, y, binWords(bin, linked));
  };
  frame.addEventListener("pointermove", (event) => {
    const bounds = frame.getBoundingClientRect();
    const px = ((event.clientX - bounds.left) / bounds.width) * VIEW.width;
    const py = ((event.clientY - bounds.top) / bounds.height) * VIEW.height;
    const right = panel.right ?? BOX.right;
    const parts = [(px - BOX.left) / (right - BOX.left), (BOX.bottom - py) / (BOX.bottom - BOX.top)];
    if (parts.some((part) => part < 0 || part >= 1)) return leave();
    return describe(panel.bins.map((n, k) => Math.floor(parts[k] * n)), event.clientX, event.clientY);
  });
  frame.addEventListener("pointerleave", leave);
  frame.addEventListener("blur", leave);
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const from = current ?? panel.bins.map((n) => Math.floor(n / 2));
    const bounds = frame.getBoundingClientRect();
    const to = from.map((v, k) => Math.max(0, Math.min(panel.bins[k] - 1, v + step[k])));
    describe(to, bounds.left + bounds.width / 2, bounds.top);
  });
}

function binWords(bin, { sides, reference, system }) {
  const index = system.axes.length === 1 ? bin[0] : bin[0] * system.axes[1].bins + bin[1];
  const place = system.axes.map((axis, k) => {
    const unit = axis.unit === "rad" ? "°" : ` ${axis.unit}`;
    return `${symbol(axis)} = ${centreOf(axis, bin[k]).toFixed(axis.unit === "rad" ? 1 : 3).replace("-", "−")}${unit}`.trim();
  });
  const energy = (f) => (Number.isFinite(f) ? `${f.toFixed(2)} kT` : `above ${data.stored_to} kT`);
  const lines = [place.join(", ")];
  if (reference) lines.push(`reference: ${energy(reference[index])}`);
  sides.forEach((side, k) => {
    if (!side.pmf) return;
    const error = side.error ? side.error.values[index] : NaN;
    const words = Number.isNaN(error) ? "" : `, error ${signed(error, 3)} kT`;
    lines.push(`${"AB"[k]} ${side.label}: ${energy(side.pmf[index])}${words}`);
  });
  return lines;
}
