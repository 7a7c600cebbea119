// Draws all parts and connects the controls.

function shownSystems() {
  const chosen = byId("system").value;
  return chosen === "all" ? data.systems.map((_, i) => i) : [Number(chosen)];
}

function drawAll() {
  drawBoard();
  drawLegend();
  drawCharts();
  drawRuns();
}

function start() {
  const choices = data.systems.map((system, i) => [String(i), systemLabel(system)]);
  options(byId("system"), [["all", "all systems"], ...choices], "all");
  options(byId("map-system"), choices, "0");
  options(byId("error-range"), [["auto", "automatic"], ...RANGES.map((r) => [String(r), `± ${r} kT`])], "auto");
  const sizes = [plural(data.runs.length, "run"), plural(METHODS.length, "method"), plural(data.systems.length, "system")];
  byId("summary").textContent = `${sizes[0]} of ${sizes[1]} on ${sizes[2]}.`;
  byId("system").addEventListener("change", () => {
    drawAll();
    if (byId("system").value !== "all") startMaps(Number(byId("system").value));
  });
  byId("all-columns").addEventListener("change", drawBoard);
  for (const id of ["log-x", "log-y", "band", "seeds"]) byId(id).addEventListener("change", drawCharts);
  byId("map-system").addEventListener("change", () => startMaps(Number(byId("map-system").value)));
  byId("map-number").addEventListener("change", () => {
    maps.map = Number(byId("map-number").value);
    drawMaps();
  });
  byId("error-range").addEventListener("change", drawMaps);
  byId("run-filter").addEventListener("input", drawRuns);
  addEventListener("scroll", hideTip, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  drawAll();
  startMaps(0);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      drawCharts();
    }
  });
}

start();
