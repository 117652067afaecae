"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const quiet = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const number = (value, digits = 3, signed = true) =>
    value === null || value === undefined ? "–"
      : (signed && value >= 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
  // Too few prompts have no interval, and so no bar.
  const reach = (end, from) => end === null || from === null ? 0 : end - from;
  // As every table has it: an interval that shows no width is said in words.
  const span = (low, high, signed) => {
    if (low === null || low === undefined || high === null || high === undefined) return "[n < 5]";
    if (low === high) return "[all the same]";
    const ends = [low, high].map((end) => number(end, 3, signed));
    const plainly = ends.map((end) => /[1-9]/.test(end) ? end : "0"); // -0.000 is 0.000
    return plainly[0] === plainly[1] ? "[within 0.001]" : `[${ends.join(", ")}]`;
  };
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // Themes -------------------------------------------------------------------------------------------
  const root = document.documentElement, theme = document.getElementById("theme");
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  function dark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  theme.addEventListener("change", () => {
    if (theme.value === "auto") delete root.dataset.theme; else root.dataset.theme = theme.value;
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());

  // Charts -------------------------------------------------------------------------------------------
  function layout(title, more) {
    const axis = { gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
    const made = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 50, r: 20, t: 30, b: 50 }, hovermode: "closest",
      hoverlabel: { bgcolor: colour("--panel"), font: { color: colour("--text") }, bordercolor: colour("--line") },
      ...more,
    };
    made.xaxis = { ...axis, ...more.xaxis };
    made.yaxis = { ...axis, ...more.yaxis };
    return made;
  }

  function heat(panel) {
    const empty = () => panel.y.map(() => panel.x.map(() => null));
    const z = empty(), text = empty(), names = empty(), dots = { x: [], y: [] };
    for (const [row, column, change, low, high, q, value, rank, name] of panel.cells) {
      z[row][column] = change;
      names[row][column] = name;
      text[row][column] = `${plain(name)}<br>rank ${rank}<br>change ${number(change)} ${span(low, high, true)}, q = ${number(q, 3, false)}` +
        (value === null ? "" : `<br>${plain(panel.unit)} ${number(value, 3, false)}`);
      if (q === null || q >= 0.05) { dots.x.push(column); dots.y.push(row); }
    }
    const ends = data.diverging[dark() ? "dark" : "light"];
    const traces = [{
      type: "heatmap", z, text, customdata: names, hovertemplate: "%{text}<extra></extra>", xgap: 1, ygap: 1,
      zmin: -panel.size, zmax: panel.size, colorscale: [[0, ends[0]], [0.5, ends[1]], [1, ends[2]]],
      colorbar: { title: { text: "change", side: "right" }, thickness: 12, outlinewidth: 0 },
    }, {
      type: "scatter", mode: "markers", x: dots.x, y: dots.y, hoverinfo: "skip", showlegend: false,
      marker: { size: 3, color: colour("--quiet") },
    }];
    const every = Math.max(1, Math.ceil(panel.y.length / 16));
    const shown = panel.y.map((_, place) => place).filter((place) => place % every === 0);
    const told = layout("", {
      height: Math.max(280, 110 + 16 * panel.y.length),
      xaxis: { title: { text: "of the spectrum kept" }, tickmode: "array", tickvals: panel.x.map((_, i) => i), ticktext: panel.x.map(plain), showgrid: false, zeroline: false },
      yaxis: { title: { text: "layer" }, tickmode: "array", tickvals: shown, ticktext: shown.map((i) => String(panel.y[i])), showgrid: false, zeroline: false },
    });
    return [traces, told];
  }

  // Step 0 and rank 0 have no place on a logarithmic axis: they stand at its left end.
  const onLog = (value) => Math.max(value, 0.5);
  function ticks(values) {
    const top = Math.max(1, ...values), found = values.some((value) => value === 0) ? [0] : [];
    for (let tick = 1; tick <= top; tick *= 10) found.push(tick);
    return { type: "log", tickmode: "array", tickvals: found.map(onLog), ticktext: found.map((tick) => tick.toLocaleString("en")) };
  }

  function lines(panel) {
    const all = panel.series.flatMap((series) => series.x), traces = [];
    for (const series of panel.series) {
      const own = data.palette[series.colour % data.palette.length], x = series.x.map(onLog);
      const bars = series.low && {
        type: "data", symmetric: false, thickness: 1, width: 3,
        array: series.high.map((high, i) => reach(high, series.y[i])), arrayminus: series.low.map((low, i) => -reach(low, series.y[i])),
      };
      traces.push({
        type: "scatter", mode: "lines+markers", name: plain(series.name), x, y: series.y, error_y: bars || undefined,
        customdata: series.x.map((at, i) => [at, series.low ? span(series.low[i], series.high[i], false) : ""]),
        hovertemplate: `%{customdata[0]}: %{y:.3f} %{customdata[1]}<extra>${plain(series.name)}</extra>`,
        line: { color: own, width: series.control ? 1 : 2, dash: series.control ? "dot" : "solid" },
        marker: { color: own, size: series.control ? 4 : 6, symbol: series.control ? "x" : "circle" }, opacity: series.control ? 0.75 : 1,
      });
    }
    const shapes = [], level = panel.level;
    if (level) {
      const across = { xref: "paper", x0: 0, x1: 1, layer: "below" };
      if (level.low !== null) shapes.push({ type: "rect", ...across, y0: level.low, y1: level.high, fillcolor: colour("--quiet"), opacity: 0.18, line: { width: 0 } });
      shapes.push({ type: "line", ...across, y0: level.y, y1: level.y, line: { color: colour("--text"), width: 1, dash: "dash" } });
      traces.push({ type: "scatter", mode: "lines", x: [null], y: [null], name: "uncut", line: { color: colour("--text"), dash: "dash", width: 1 } });
    }
    const told = layout("", {
      height: innerWidth < 640 ? 480 : 420, shapes, showlegend: true, legend: { orientation: "h", y: innerWidth < 640 ? -0.4 : -0.25, yanchor: "top", font: { size: 11 } },
      xaxis: { title: { text: panel.x }, ...ticks(all) }, yaxis: { title: { text: plain(panel.y) } },
    });
    return [traces, told];
  }

  function points(panel) {
    const places = panel.names.map((_, place) => panel.names.length - 1 - place);
    const traces = [{
      type: "scatter", mode: "markers", x: panel.y, y: places,
      marker: { size: 9, color: panel.colours.map((place) => data.palette[place]) },
      error_x: {
        type: "data", symmetric: false, thickness: 1.5, width: 4, color: colour("--text"),
        array: panel.high.map((high, i) => reach(high, panel.y[i])), arrayminus: panel.low.map((low, i) => -reach(low, panel.y[i])),
      },
      text: panel.names.map((name, i) => `${plain(name)}: ${number(panel.y[i])} ${span(panel.low[i], panel.high[i], true)}`),
      hovertemplate: "%{text}<extra></extra>",
    }];
    const told = layout("", {
      height: 140 + 40 * panel.names.length, showlegend: false,
      xaxis: { title: { text: plain(panel.x) }, zeroline: true, zerolinewidth: 2 },
      yaxis: { tickmode: "array", tickvals: places, ticktext: panel.names.map(plain), range: [-0.6, panel.names.length - 0.4], zeroline: false },
    });
    return [traces, told];
  }

  // Names down and columns across, each with an axis of its own below it.
  function columns(panel) {
    const places = panel.names.map((_, place) => panel.names.length - 1 - place), each = 1 / panel.columns.length;
    const traces = panel.columns.flatMap((column, i) => column.series.map((series) => ({
      xaxis: i ? `x${i + 1}` : "x", type: "scatter", mode: "markers", y: places, x: series.y, hovertemplate: "%{text}<extra></extra>",
      text: panel.names.map((name, row) => `${plain(series.name)}, ${plain(name)}: ${number(series.y[row])} ` +
        (series.low[row] === null ? "" : span(series.low[row], series.high[row], true)) + `<br>${plain(series.notes[row])}`),
      marker: series.beside ? { size: 8, symbol: "x-thin-open", color: colour("--quiet") } : { size: 8, color: data.palette[column.colour] },
      error_x: {
        type: "data", symmetric: false, thickness: series.beside ? 0 : 1.5, width: series.beside ? 0 : 3, color: colour("--text"),
        array: series.high.map((high, row) => reach(high, series.y[row])), arrayminus: series.low.map((low, row) => -reach(low, series.y[row])),
      },
    })));
    const told = layout("", {
      height: 130 + 30 * panel.names.length, showlegend: false, width: 150 + 150 * panel.columns.length,
      yaxis: { tickmode: "array", tickvals: places, ticktext: panel.names.map(plain), range: [-0.6, panel.names.length - 0.4], zeroline: false },
    });
    panel.columns.forEach((column, i) => {
      told[i ? `xaxis${i + 1}` : "xaxis"] = { ...told.xaxis, zeroline: true, zerolinewidth: 2, nticks: 4, domain: [i * each, (i + 0.86) * each], title: { text: plain(column.title), font: { size: 11 } } };
    });
    return [traces, told];
  }

  const KINDS = { heat, lines, points, columns };
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const folds = [...document.querySelectorAll("details")];
  const PAPER = 660; // pixels of a printed page

  function draw(figure, width) {
    const chart = data.charts[figure.dataset.chart], menus = [...figure.querySelectorAll("select")];
    const key = menus.map((menu) => menu.value);
    const panel = chart.panels.find((each) => each.key.every((option, i) => option === key[i]));
    const plot = figure.querySelector(".plot"), caption = figure.querySelector("figcaption");
    caption.textContent = panel ? key.join(", ") : `Nothing was scored for ${key.join(", ")}.`;
    plot.hidden = !panel;
    if (!panel) return;
    const [traces, told] = KINDS[chart.kind](panel);
    if (width) told.width = Math.min(told.width ?? width, width);
    Plotly.react(plot, traces, told, { responsive: !width, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
    if (chart.kind === "heat" && !plot.dataset.ready) {
      plot.dataset.ready = "yes";
      plot.on("plotly_click", (event) => show(event.points[0].customdata));
    }
  }
  // The library of the charts is unpacked when the first of them is opened: the picture needs none.
  const isOpen = (figure) => !figure.closest("details:not([open])");
  let library = null;
  const loaded = () => library ??= unpack();
  async function drawAll() {
    const open = figures.filter(isOpen);
    if (!open.length) return;
    try {
      await loaded();
      open.forEach((figure) => draw(figure));
      document.body.dataset.charts = open.length;
    } catch (problem) {
      for (const figure of open) {
        figure.querySelector("figcaption").textContent = `This browser cannot draw the chart (${problem.message}). The tables have the numbers.`;
      }
    }
  }
  figures.forEach((figure) => figure.addEventListener("change", () => draw(figure)));
  folds.forEach((fold) => fold.addEventListener("toggle", () => {
    if (fold.open) fill();
    drawAll();
  }));

  // Folds --------------------------------------------------------------------------------------------
  function unfold(place) {
    for (let fold = place.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  }
  function follow() {
    const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (place) unfold(place);
  }
  addEventListener("hashchange", follow);
  document.querySelectorAll("nav a").forEach((link) => link.addEventListener("click", () => unfold(document.querySelector(link.hash))));
  const all = document.getElementById("all"), parts = folds.filter((fold) => fold.matches(".part"));
  all.hidden = parts.length < 2;
  all.addEventListener("click", () => {
    const opens = parts.some((part) => !part.open);
    parts.forEach((part) => part.open = opens);
    all.textContent = opens ? "Fold everything" : "Open everything";
  });
  // On paper everything is open, and the charts that were looked at are as wide as the paper.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = folds.filter((fold) => !fold.open);
    folds.forEach((fold) => fold.open = true);
    fill();
    if (window.Plotly) figures.filter((figure) => figure.querySelector(".plot").childElementCount).forEach((figure) => draw(figure, PAPER));
  });
  addEventListener("afterprint", () => {
    folded.forEach((fold) => fold.open = false);
    drawAll();
  });

  // Prompts ------------------------------------------------------------------------------------------
  const browser = document.getElementById("browser");
  let order = { column: null, up: true };

  function show(name) {
    if (!browser || !name) return;
    const menu = document.getElementById("setting");
    const found = [...menu.options].find((option) => option.textContent === name);
    if (!found) return;
    menu.value = found.value;
    unfold(browser);
    fill();
    browser.scrollIntoView({ behavior: quiet() ? "auto" : "smooth" });
    menu.focus({ preventScroll: true });
  }

  function columnsOf(group, setting) {
    const cut = group.series[setting.cut], uncut = setting.uncut === null ? null : group.series[setting.uncut];
    const made = group.titles.map((name, column) => ({ name, of: (i) => group.texts[i][column] }));
    for (const [metric, digits] of Object.entries(group.digits)) {
      if (!cut[metric]) continue;
      const value = (series) => (i) => series[metric][i] === null ? null : series[metric][i] / 10 ** digits;
      const after = value(cut), shown = Math.min(digits, 3);
      if (uncut) {
        const before = value(uncut);
        made.push({ name: `${group.names[metric]} uncut`, of: before, digits: shown });
        made.push({ name: "cut", of: after, digits: shown });
        made.push({ name: "change", of: (i) => after(i) === null || before(i) === null ? null : after(i) - before(i), digits: shown, signed: true });
      } else made.push({ name: group.names[metric], of: after, digits: shown });
    }
    return made;
  }

  // Many prompts take a while to be laid out, and few readers open them.
  function fill() {
    if (!browser || browser.hidden || browser.closest("details:not([open])")) return;
    const group = data.prompts[document.getElementById("group").value];
    const setting = group.settings[document.getElementById("setting").value];
    const wanted = document.getElementById("filter").value.toLowerCase();
    const titles = columnsOf(group, setting), all = group.texts.map((_, i) => i);
    const rows = all.filter((i) => group.texts[i].some((text) => text.toLowerCase().includes(wanted)));
    if (order.column !== null && order.column < titles.length) {
      const { of } = titles[order.column], sign = order.up ? 1 : -1;
      rows.sort((one, other) => {
        const a = of(one), b = of(other);
        return sign * (typeof a === "string" ? a.localeCompare(b) : (a ?? -Infinity) - (b ?? -Infinity));
      });
    }
    const head = element("tr");
    titles.forEach((title, place) => {
      const cell = element("th", undefined, { scope: "col" }), button = element("button", title.name, { type: "button" });
      if (order.column === place) cell.setAttribute("aria-sort", order.up ? "ascending" : "descending");
      button.addEventListener("click", () => {
        order = { column: place, up: order.column === place ? !order.up : typeof title.of(0) === "string" };
        fill();
        document.querySelectorAll("#table thead button")[place].focus();
      });
      cell.append(button);
      head.append(cell);
    });
    const body = rows.map((i) => {
      const row = element("tr");
      titles.forEach((title, place) => {
        const value = title.of(i);
        if (place === 0) row.append(element("th", value, { scope: "row" }));
        else if (title.digits === undefined) row.append(element("td", `‘${value}’`, { class: "text" }));
        else row.append(element("td", number(value, title.digits, Boolean(title.signed))));
      });
      return row;
    });
    document.querySelector("#table thead").replaceChildren(head);
    document.querySelector("#table tbody").replaceChildren(...body);
    const left = group.left_out ? ` ${group.left_out} settings that change less are left out of the menu.` : "";
    document.getElementById("count").textContent = `${rows.length} of ${all.length} prompts.${left}`;
  }

  function fillSettings() {
    const group = data.prompts[document.getElementById("group").value];
    const options = group.settings.map((each, place) => element("option", each.name, { value: place }));
    document.getElementById("setting").replaceChildren(...options);
    document.getElementById("setting").value = group.first ?? 0;
    fill();
  }

  if (browser && data.prompts.length) {
    const groups = document.getElementById("group");
    groups.replaceChildren(...data.prompts.map((each, place) => element("option", each.name, { value: place })));
    groups.addEventListener("change", fillSettings);
    document.getElementById("setting").addEventListener("change", fill);
    document.getElementById("filter").addEventListener("input", fill);
    browser.hidden = false;
    fillSettings();
  }
  for (const cell of document.querySelectorAll(".picture [data-setting]")) {
    cell.addEventListener("click", () => show(cell.dataset.setting));
    cell.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      show(cell.dataset.setting);
    });
  }

  // Plotly comes packed, in a third of its room.
  async function unpack() {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = new Uint8Array(packed.length);
    for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  follow();
  drawAll();
  document.body.dataset.ready = "yes";
})();
