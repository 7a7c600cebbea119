"use strict";
// Shared by all parts: the data, elements, number formats, colours, the tooltip.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** Reads a number from the data; JSON stores infinities and NaN as strings. */
function number(value) {
  if (typeof value === "number") return value;
  if (value === "inf") return Infinity;
  return value === "-inf" ? -Infinity : NaN;
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Creates an HTML element; strings among the children become text, never markup. */
function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => html("option", { value }, text)));
  const values = entries.map(([value]) => String(value));
  select.value = values.includes(String(chosen)) ? String(chosen) : values[0] ?? "";
}

// ---- number formats -----------------------------------------------------------------------------------

const superscript = (n) => String(n).replace(/[-\d]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));

/** Formats a number with three significant digits and a power of ten. */
function scientific(value, digits = 2) {
  if (value === 0) return "0";
  const [mantissa, exponent] = value.toExponential(digits).split("e");
  if (Number(exponent) === 0) return mantissa.replace("-", "−");
  return `${mantissa.replace("-", "−")}\u00a0×\u00a010${superscript(Number(exponent))}`;
}

/** Formats a number of evaluations. */
function count(value) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return "∞";
  return Math.abs(value) < 1e7 ? value.toLocaleString("en-US", { maximumFractionDigits: 0 }) : scientific(value);
}

/** Formats a number with three significant digits. */
function shortNumber(value) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return scientific(value);
  return Number(value.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 6 }).replace("-", "−");
}

function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 120) return `${value.toPrecision(3)} s`;
  return value < 7200 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** Formats a KLD; below the noise floor of the reference it is an upper bound. */
function kldWords(kld, floor) {
  if (Number.isNaN(kld)) return "no score";
  return kld < floor ? `≤ ${scientific(floor)} (noise floor)` : Number.isFinite(kld) ? scientific(kld) : "∞";
}

// ---- colours ------------------------------------------------------------------------------------------

const METHODS = [...new Set(data.groups.map((group) => group.method))].sort();
const COLOURS = { md: 0, cgflow_al: 1, cgflow_grid: 2, umbrella: 3, metadynamics: 4, flow_ais_bootstrap: 5 };
const SPARE = [6, 7, 8, 9, 10];
const OTHERS = METHODS.filter((name) => !(name in COLOURS));

/** Returns the class of a method's colour: fixed for our methods, the text colour for plain MD, spare ones for others. */
const colourClass = (method) => `m${COLOURS[method] ?? SPARE[OTHERS.indexOf(method) % SPARE.length]}`;

const PRESETS = [...new Set(data.groups.map((group) => group.preset))].sort((a, b) =>
  (b === "default") - (a === "default") || a.localeCompare(b, "en"));
const dash = (preset) => [null, "7 3", "2 3", "9 3 2 3"][PRESETS.indexOf(preset) % 4];

function paletteOf(hex) {
  return Array.from({ length: 256 }, (_, i) => [0, 2, 4].map((k) => parseInt(hex.slice(6 * i + k, 6 * i + k + 2), 16)));
}

// ---- systems and groups -------------------------------------------------------------------------------

const systemLabel = (system) => `${system.name} (version ${system.version})`;
const groupsOf = (where) => data.groups.filter((group) => group.where === where);
const systemOf = (item) => data.systems.findIndex((s) => s.name === item.system && s.version === item.version);
const floorOf = (run) => number((run.record.reference ?? {}).noise_floor ?? 0) || 0;
data.groups.forEach((group) => { group.shown = true; group.where = systemOf(group); });

// ---- tooltip ------------------------------------------------------------------------------------------

function showTip(x, y, lines) {
  const tip = byId("tip");
  tip.replaceChildren(...lines.map((line, i) => html(i === 0 ? "strong" : "div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 16 + height > innerHeight ? Math.max(4, y - 16 - height) : y + 16}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}
