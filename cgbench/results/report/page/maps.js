// Two PMFs side by side: their choice, their values, and their errors against the reference.

const REFERENCE = "(reference)";
const RANGES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];
const LIKELY = 10; // kT; the automatic error scale covers 90 % of the bins below this free energy
const maps = { system: 0, map: 0, sides: [{}, {}] };

/** Decodes free energies in kT, last axis fastest; infinite above the largest stored value. */
function decodePmf(coded) {
  if (!coded) return null;
  if (!coded.decoded) {
    const bytes = Uint8Array.from(atob(coded.values), (c) => c.charCodeAt(0));
    coded.decoded = coded.type === "float32"
      ? Float64Array.from(new Float32Array(bytes.buffer))
      : Float64Array.from(new Uint16Array(bytes.buffer), (v) => (v === 65535 ? Infinity : v * coded.step));
  }
  return coded.decoded;
}

/**
 * Returns estimate minus reference in kT, shifted to zero mean over the reference's probability; NaN where the
 * reference is above the cut or the estimate is not stored.
 */
function errorOf(estimate, reference) {
  let [weight, shift, square] = [0, 0, 0];
  const known = (i) => Number.isFinite(estimate[i]) && Number.isFinite(reference[i]);
  reference.forEach((f, i) => {
    if (known(i)) {
      weight += Math.exp(-f);
      shift += Math.exp(-f) * (estimate[i] - f);
    }
  });
  shift /= weight;
  const values = reference.map((f, i) => (known(i) ? estimate[i] - f - shift : NaN));
  reference.forEach((f, i) => { if (known(i)) square += Math.exp(-f) * values[i] ** 2; });
  const likely = values.filter((v, i) => reference[i] < LIKELY && !Number.isNaN(v)).map(Math.abs).sort();
  return {
    values: values.map((v, i) => (reference[i] < data.cut ? v : NaN)),
    rms: Math.sqrt(square / weight),
    typical: likely[Math.floor(0.9 * likely.length)] ?? 0,
  };
}

/** Starts with the best-ranked method on the left, and plain MD (or the runner-up) on the right. */
function startSides() {
  const ranked = ROWS.filter((row) => systemOf(row) === maps.system);
  const best = ranked.find((row) => row.method !== "md") ?? ranked[0];
  const others = ranked.filter((row) => row !== best);
  const second = others.find((row) => row.method === "md") ?? others[0] ?? best;
  maps.sides = [best, second].map((row) => ({ method: row.method, preset: row.preset, run: null }));
}

/** Replaces an invalid choice of a side by a valid one: a preset of the method, a seed of the preset. */
function settle(side) {
  const groups = groupsOf(maps.system);
  if (side.method === REFERENCE) return { runs: [], presets: [] };
  const presets = groups.filter((g) => g.method === side.method).map((g) => g.preset);
  if (!presets.includes(side.preset)) side.preset = presets[0];
  const { runs } = groups.find((g) => g.method === side.method && g.preset === side.preset);
  if (!runs.includes(side.run)) [side.run] = runs;
  return { runs, presets };
}

/** Returns a system with the axes and the reference PMF of the chosen map. */
function chosenMap() {
  const system = data.systems[maps.system];
  const reference = system.reference && { ...system.reference, pmf: system.reference.pmfs[maps.map] };
  return { ...system, axes: system.maps[maps.map], reference };
}

function drawMaps() {
  hideTip();
  const system = chosenMap();
  const reference = system.reference ? decodePmf(system.reference.pmf) : null;
  const sides = maps.sides.map((side) => sideContent(side, system, reference));
  const widest = Math.max(0, ...sides.map((side) => (side.error ? side.error.typical : 0)));
  const chosen = byId("error-range").value;
  const range = chosen === "auto" ? RANGES.find((r) => r >= widest) ?? RANGES.at(-1) : Number(chosen);
  const linked = { panels: [], sides, reference, system };
  byId("sides").replaceChildren(...sides.map((side, k) => {
    const host = html("div", { class: "side" }, sideControls(maps.sides[k], k));
    host.append(html("div", {}, ...side.notes.map((note) => html("p", { class: "note" }, note))));
    if (side.pmf) pmfPanels(host, side, system, reference, range, linked);
    return host;
  }));
  describeMaps(system);
}

function describeMaps(system) {
  const stored = system.axes && system.axes.length > 1 ? ` Values are stored up to ${data.stored_to} kT.` : "";
  byId("maps-words").textContent =
    `PMF in kT with minimum 0; colours and axes end at ${data.cut} kT. Error: estimate minus reference, shifted to ` +
    `zero mean over the reference's probability p, and shown where the reference is below ${data.cut} kT. Its root ` +
    `mean square (RMS) is weighted by p.${stored} Point at a map, or focus it and use the arrow keys, to read values.` +
    (system.reference ? ` Reference of ${system.name}: ${system.reference.source}.` : "");
}

/** Returns the content of one side: label, PMF, error and notes. */
function sideContent(side, system, reference) {
  settle(side);
  if (side.method === REFERENCE) {
    const notes = [`noise floor ${scientific(number(system.reference.noise_floor))}`];
    return { label: "reference", colour: "m0", pmf: reference, error: errorOf(reference, reference), notes };
  }
  const run = { ...data.runs[side.run], pmf: data.runs[side.run].pmfs[maps.map] };
  const { record } = run;
  const shape = (coded) => (coded ? coded.shape.join(" × ") : null);
  const label = `${record.method}, ${record.preset}, seed ${record.seed}`;
  const content = { label, colour: colourClass(record.method), pmf: decodePmf(run.pmf), error: null };
  const fits = run.pmf && system.reference && shape(run.pmf) === shape(system.reference.pmf);
  if (fits) content.error = errorOf(content.pmf, reference);
  const kld = kldWords(number(record.metrics.forward_kld), floorOf(run));
  const mean = data.systems[maps.system].maps.length > 1 ? " (mean over maps)" : "";
  const rms = content.error ? `, RMS error ${shortNumber(content.error.rms)} kT` : "";
  content.notes = [`${count(record.evaluations.total)} evaluations, forward KLD ${kld}${mean}${rms}`];
  if (!run.pmf) content.notes.push("This run has no pmf.npz.");
  else if (!system.reference) content.notes.push(`No error map: ${system.problem}.`);
  else if (!fits) {
    content.notes.push(`No error map: the run's grid is ${shape(run.pmf)}, the reference's ${shape(system.reference.pmf)}.`);
  }
  if (system.reference && record.reference && record.reference.sha256 !== system.reference.sha256) {
    content.notes.push("The run was scored against a different reference than the one shown here (the hashes differ).");
  }
  return content;
}

function sideControls(side, k) {
  const { runs, presets } = settle(side);
  const groups = groupsOf(maps.system);
  const name = "AB"[k];
  const methods = [...new Set(groups.map((g) => g.method))].map((m) => [m, m]);
  if (data.systems[maps.system].reference) methods.push([REFERENCE, REFERENCE]);
  const [method, preset, run] = ["method", "preset", "seed"].map((what) => html("select", { id: `${what}-${k}` }));
  options(method, methods, side.method);
  options(preset, presets.map((p) => [p, p]), side.preset);
  options(run, runs.map((i) => [i, String(data.runs[i].record.seed)]), side.run);
  const change = (select, key, value) => select.addEventListener("change", () => {
    side[key] = value(select.value);
    drawMaps();
    byId(select.id).focus();
  });
  change(method, "method", String);
  change(preset, "preset", String);
  change(run, "run", Number);
  const label = (text, select) => html("label", { hidden: select.options.length === 0 }, `${text} `, select);
  const labels = [label(`${name}: method`, method), label("preset", preset), label("seed", run)];
  return html("div", { class: "controls" }, ...labels);
}

function startMaps(where) {
  maps.system = where;
  maps.map = 0;
  byId("map-system").value = String(where);
  const names = data.systems[where].maps.map((axes, k) => [k, axes.map((axis) => axis.name).join(" and ")]);
  options(byId("map-number"), names, 0);
  byId("map-number").parentElement.hidden = names.length < 2;
  startSides();
  drawMaps();
}
