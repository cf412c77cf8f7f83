"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross",
    "triangle-left", "x", "triangle-right", "pentagon", "hexagon", "star"];
  const GLYPHS = ["●", "■", "▲", "◆", "▼", "✚", "◀", "✖", "▶", "⬟", "⬢", "★"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const XT = "I(X;T)", TY = "I(T;Y)", NULL = "I(T;Y) null";
  const MOST_TRAIL = 120, PASS_MS = 9000;
  const layerOn = data.shown.slice(), runOn = data.runs.map(() => true);
  let estimate, steps, at = 0, playing = null, started = 0, wanted = null;

  // Plotly reads a little mark-up in its texts; names are shown as they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const show = (value) => value === null || value === undefined ? "–"
    : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
  const option = (select, value, text) => {
    const one = document.createElement("option");
    one.value = value;
    one.textContent = text;
    select.append(one);
  };

  // Time: linear up to the first step and logarithmic beyond it, so that step 0 has its place.
  const firstStep = () => steps.find((s) => s > 0) || 1;
  const place = (step) => $("axis").value === "linear" ? step : Math.log2(1 + step / firstStep());
  const timeTicks = () => {
    const last = steps[steps.length - 1], values = [];
    if ($("axis").value === "linear") return {};
    if (steps[0] === 0) values.push(0);
    for (let d = 10 ** Math.floor(Math.log10(firstStep())); d <= last; d *= 10) if (d >= firstStep()) values.push(d);
    return {tickvals: values.map(place), ticktext: values.map(String)};
  };
  const countUpTo = (list, step) => {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] <= step) low = middle + 1; else high = middle;
    }
    return low;
  };
  const shade = (step) => {
    const last = place(steps[steps.length - 1]) - place(steps[0]) || 1;
    return Math.min(data.shades.length - 1, Math.floor((place(step) - place(steps[0])) / last * data.shades.length));
  };

  const flagsOf = (quantity, i, s) => quantity && quantity.flags ? quantity.flags.names[quantity.flags.codes[i][s]] : "";
  const ceilingOf = (quantity, i, s) => {
    const top = quantity.ceiling;
    return Array.isArray(top) ? top[i][s] : top;
  };
  const isSaturated = (part, i, s) => [XT, TY].some((q) => flagsOf(part.quantities[q], i, s).split(", ").includes("saturated"));

  // What the hover says of one layer at one snapshot: values, intervals, bounds, ceilings, flags.
  const words = (part, i, s) => {
    const lines = [`<b>${plain(data.layers[part.layers[i]])}</b>  step ${part.steps[s]}` +
      (part.epochs[s] === null || part.epochs[s] === part.steps[s] ? "" : `, epoch ${show(part.epochs[s])}`)];
    if (data.runs.length > 1) lines.push(`run ${plain(data.runs[part.run])}`);
    for (const [name, q] of Object.entries(part.quantities)) {
      const value = q.value[i][s];
      if (value === null && !flagsOf(q, i, s)) continue;
      let line = `${plain(name)} = ${show(value)} ${plain(q.unit)}`;
      if (q.low && q.low[i][s] !== null) line += ` [${show(q.low[i][s])}, ${show(q.high[i][s])}]`;
      if (q.bound) line += `, ${q.bound}`;
      const top = ceilingOf(q, i, s);
      if (top !== null && top !== undefined && (name === XT || name === TY)) line += `, ceiling ${show(top)}`;
      if (flagsOf(q, i, s)) line += `, ${plain(flagsOf(q, i, s))}`;
      lines.push(line);
    }
    return lines.join("<br>");
  };

  // Snapshots of which the trail is made: all of a short run; of a long one as many as can be told apart, at
  // even distances on the time axis. The current line, the hover on it and the slider have every snapshot.
  const trail = (part) => {
    const all = part.steps.map((_, s) => s);
    if (all.length <= MOST_TRAIL) return all;
    const low = place(part.steps[0]), width = place(part.steps[all.length - 1]) - low;
    let cell = -1;
    return all.filter((s) => {
      const mine = Math.floor((place(part.steps[s]) - low) / width * (MOST_TRAIL - 1));
      if (mine === cell) return false;
      cell = mine;
      return true;
    });
  };

  const visibleParts = () => estimate.parts.filter((part) => runOn[part.run]);
  const shownLayers = (part) => part.layers.map((_, i) => i).filter((i) => layerOn[part.layers[i]]);
  const hasPlane = (part) => part.quantities[XT] && part.quantities[TY];

  // The plane. Traces are rebuilt when a choice changes; the slider only changes how much of each is shown.
  let planeTraces = [];
  const buildPlane = () => {
    planeTraces = [];
    for (const part of visibleParts().filter(hasPlane)) {
      const x = part.quantities[XT].value, y = part.quantities[TY].value, chosen = shownLayers(part);
      const kept = trail(part), pick = (list) => kept.map((s) => list[s]), when = pick(part.steps);
      const run = data.runs.length > 1 ? `, ${plain(data.runs[part.run])}` : "";
      if ($("mode").value === "steps") {
        const lines = data.shades.map(() => ({x: [], y: [], step: []}));
        kept.forEach((s) => {
          const step = part.steps[s];
          const line = lines[shade(step)];
          for (const i of chosen) {
            line.x.push(x[i][s]);
            line.y.push(y[i][s]);
            line.step.push(step);
          }
          line.x.push(null);
          line.y.push(null);
          line.step.push(step);
        });
        lines.forEach((line, k) => {
          if (line.x.length) planeTraces.push({full: line, trace: {mode: "lines", hoverinfo: "skip", opacity: 0.55,
            line: {color: data.shades[k], width: 1, dash: DASHES[part.run % DASHES.length]}}});
        });
      }
      for (const i of chosen) {
        const layer = part.layers[i], symbol = SYMBOLS[layer % SYMBOLS.length];
        const open = kept.map((s) => isSaturated(part, i, s));
        const byStep = $("mode").value === "steps";
        planeTraces.push({
          full: {x: pick(x[i]), y: pick(y[i]), step: when},
          trace: {
            name: plain(data.layers[layer]) + run, mode: byStep ? "markers" : "lines+markers", hoverinfo: "text",
            text: kept.map((s) => words(part, i, s)),
            line: {color: data.colors[layer], width: 1.6, dash: DASHES[part.run % DASHES.length]},
            marker: {symbol: open.map((o) => symbol + (o ? "-open" : "")), size: byStep ? 6 : 5,
              color: byStep ? when.map((step) => data.shades[shade(step)]) : data.colors[layer]},
          },
        });
      }
      planeTraces.push({now: part, chosen, trace: {mode: "lines+markers", hoverinfo: "text",
        line: {color: "#222", width: 1.6, dash: DASHES[part.run % DASHES.length]}, name: "now" + run,
        marker: {size: 11, line: {color: "#222", width: 1.2}}}});
    }
    drawPlane(true);
  };
  const slice = (entry, step) => {
    if (entry.now) {
      const part = entry.now, s = countUpTo(part.steps, step) - 1, get = (q) => entry.chosen.map((i) => s < 0 ? null : part.quantities[q].value[i][s]);
      return {x: get(XT), y: get(TY), text: entry.chosen.map((i) => s < 0 ? "" : words(part, i, s)),
        symbol: entry.chosen.map((i) => SYMBOLS[part.layers[i] % SYMBOLS.length] + (s >= 0 && isSaturated(part, i, s) ? "-open" : "")),
        color: entry.chosen.map((i) => $("mode").value === "steps" ? data.shades[shade(step)] : data.colors[part.layers[i]])};
    }
    const n = countUpTo(entry.full.step, step);
    return {x: entry.full.x.slice(0, n), y: entry.full.y.slice(0, n)};
  };
  const range = (name) => {
    let low = Infinity, high = -Infinity;
    const tops = [];
    for (const part of visibleParts().filter(hasPlane)) {
      for (const i of shownLayers(part)) part.quantities[name].value[i].forEach((v, s) => {
        if (v === null) return;
        low = Math.min(low, v);
        high = Math.max(high, v);
        const top = ceilingOf(part.quantities[name], i, s);
        if (top !== null && top !== undefined) tops.push(top);
      });
    }
    if (low > high) return {range: [0, 1], top: null};
    const top = tops.length ? tops.reduce((a, b) => Math.max(a, b)) : null;
    if (low > 0 && low < 0.25 * high) low = 0;
    const near = top !== null && (top <= high || high - low >= 0.4 * (top - low));
    if (near) high = Math.max(high, top);
    const pad = 0.05 * (high - low || Math.max(Math.abs(high), 1));
    return {range: [low - pad, high + pad], top: near ? top : null};
  };
  const config = {displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: {filename: "information-plane", scale: 2}};
  const base = () => ({font: {family: "system-ui, sans-serif", size: 13, color: "#222"}, showlegend: false, hovermode: "closest",
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", hoverlabel: {align: "left", bgcolor: "#fff", bordercolor: "#888", font: {color: "#222"}}});
  const axis = (title, more) => ({title: {text: title, standoff: 8}, zeroline: false, showgrid: false, ticks: "outside", linecolor: "#222",
    showline: true, automargin: true, ...more});

  const drawPlane = (rebuild) => {
    const step = steps[at];
    const parts = planeTraces.map((entry) => slice(entry, step));
    if (!rebuild) {
      // One call for all traces but the colour bar's; undefined leaves an attribute as it is.
      Plotly.restyle("plane", {x: parts.map((p) => p.x), y: parts.map((p) => p.y), text: parts.map((p) => p.text),
        "marker.symbol": parts.map((p) => p.symbol), "marker.color": parts.map((p) => p.color)}, parts.map((_, k) => k));
      return;
    }
    const traces = planeTraces.map((entry, k) => {
      const trace = {type: "scatter", ...entry.trace, x: parts[k].x, y: parts[k].y};
      if (entry.now) trace.marker = {...entry.trace.marker, symbol: parts[k].symbol, color: parts[k].color};
      if (parts[k].text) trace.text = parts[k].text;
      return trace;
    });
    if ($("mode").value === "steps") traces.push(colorBar());
    const rx = range(XT), ry = range(TY), shapes = [], notes = [];
    const dotted = {color: "#888", width: 1, dash: "dot"};
    if (rx.top !== null) {
      shapes.push({type: "line", x0: rx.top, x1: rx.top, yref: "paper", y0: 0, y1: 1, line: dotted, layer: "below"});
      notes.push({x: rx.top, y: 0.02, yref: "paper", text: `${estimate.ceiling} = ${show(rx.top)}`, textangle: -90, showarrow: false, xanchor: "right", yanchor: "bottom", font: {size: 11, color: "#666"}});
    }
    if (ry.top !== null) {
      shapes.push({type: "line", y0: ry.top, y1: ry.top, xref: "paper", x0: 0, x1: 1, line: dotted, layer: "below"});
      notes.push({y: ry.top, x: 0.01, xref: "paper", text: `H(Y) = ${show(ry.top)}`, showarrow: false, xanchor: "left", yanchor: "bottom", font: {size: 11, color: "#666"}});
    }
    Plotly.react("plane", traces, {...base(), margin: {l: 60, r: 10, t: 12, b: 52}, uirevision: $("estimate").value, shapes, annotations: notes,
      xaxis: axis("I(X;T) [bits]", {range: rx.range}), yaxis: axis("I(T;Y) [bits]", {range: ry.range})}, config);
  };
  // An unseen trace that carries the colour bar of the steps.
  const colorBar = () => {
    const ticks = timeTicks(), low = place(steps[0]), high = place(steps[steps.length - 1]);
    return {type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip", marker: {color: [low], cmin: low, cmax: high > low ? high : low + 1,
      colorscale: data.shades.map((c, k) => [k / (data.shades.length - 1), c]), showscale: true,
      colorbar: {title: {text: "step", side: "right"}, thickness: 12, outlinewidth: 0, ...ticks}}};
  };

  const timeAxis = () => {
    const low = place(steps[0]), high = place(steps[steps.length - 1]), pad = 0.02 * (high - low) || 0.5;
    return axis("step", {...timeTicks(), range: [low - pad, high + pad]});
  };
  // The place in training is a line of our own above the panel: moving a shape of Plotly's draws the panel anew.
  const cursors = {};
  const moveCursor = (panel) => {
    const layout = $(panel)._fullLayout;
    if (!layout || !layout.xaxis || !cursors[panel]) return;
    const x = layout.xaxis.l2p(place(steps[at])), line = cursors[panel];
    line.hidden = !(x >= 0 && x <= layout.xaxis._length);
    line.style.left = `${layout.xaxis._offset + x}px`;
    line.style.top = `${layout._size.t}px`;
    line.style.height = `${layout._size.h}px`;
  };
  const withCursor = (panel) => {
    if (!cursors[panel]) {
      cursors[panel] = document.createElement("div");
      cursors[panel].className = "cursor";
      $(panel).append(cursors[panel]);
      $(panel).on("plotly_afterplot", () => moveCursor(panel));
    }
    moveCursor(panel);
  };
  // Steps in a row that have an interval: where a value has none, the band is interrupted.
  const stretches = (q, i) => {
    const out = [[]];
    q.value[i].forEach((value, s) => {
      if (q.low[i][s] !== null && q.high[i][s] !== null) out[out.length - 1].push(s);
      else if (value !== null && out[out.length - 1].length) out.push([]);
    });
    return out.filter((known) => known.length);
  };
  const buildCurves = () => {
    const name = $("quantity").value, traces = [];
    let unit = "";
    const shapes = [];
    const tops = new Set();
    for (const part of visibleParts()) {
      const q = part.quantities[name];
      if (!q) continue;
      unit = q.unit;
      const x = part.steps.map(place), chance = part.quantities[`${name} null`];
      for (const i of shownLayers(part)) {
        const color = data.colors[part.layers[i]];
        if (q.low) {
          const outline = stretches(q, i).map((known) => {
            const back = [...known].reverse();
            return {x: [...known, ...back].map((s) => x[s]), y: [...known.map((s) => q.high[i][s]), ...back.map((s) => q.low[i][s])]};
          });
          traces.push({type: "scatter", mode: "lines", hoverinfo: "skip", fill: "toself", fillcolor: color, opacity: 0.18, line: {width: 0},
            x: outline.flatMap((part) => [...part.x, null]), y: outline.flatMap((part) => [...part.y, null])});
        }
        if (chance) traces.push({type: "scatter", mode: "lines", x, y: chance.value[i], hoverinfo: "skip", line: {color, width: 1, dash: "dot"}});
        traces.push({type: "scatter", mode: "lines+markers", x, y: q.value[i], hoverinfo: "text", name: plain(data.layers[part.layers[i]]),
          text: part.steps.map((_, s) => words(part, i, s)), line: {color, width: 1.8, dash: DASHES[part.run % DASHES.length]},
          marker: {color, size: 5, symbol: SYMBOLS[part.layers[i] % SYMBOLS.length], maxdisplayed: 8}});
        const top = ceilingOf(q, i, 0);
        if (top !== null && top !== undefined) tops.add(top);
      }
    }
    for (const top of tops) shapes.push({type: "line", y0: top, y1: top, xref: "paper", x0: 0, x1: 1, line: {color: "#888", width: 1, dash: "dot"}});
    Plotly.react("curves", traces, {...base(), margin: {l: 60, r: 10, t: 12, b: 40}, shapes,
      xaxis: timeAxis(), yaxis: axis(`${plain(name)} [${plain(unit)}]`, {rangemode: "tozero"})}, {...config, displayModeBar: false});
    withCursor("curves");
  };
  const buildMetrics = () => {
    const traces = [], names = [];
    data.metrics.forEach((recorded, run) => {
      if (!runOn[run]) return;
      for (const [name, m] of Object.entries(recorded)) {
        if (!names.includes(name)) names.push(name);
        const k = names.indexOf(name), right = name.toLowerCase().includes("acc");
        traces.push({type: "scatter", mode: "lines", x: m.steps.map(place), y: m.values, yaxis: right ? "y2" : "y", name: plain(name), showlegend: run === data.metrics.findIndex((r, i) => runOn[i] && name in r),
          hoverinfo: "text", text: m.values.map((v, s) => `${plain(name)} = ${show(v)}<br>step ${m.steps[s]}` + (data.runs.length > 1 ? `<br>run ${plain(data.runs[run])}` : "")),
          line: {color: ["#222", "#0072B2", "#D55E00", "#009E73", "#CC79A7"][k % 5], width: 1.6, dash: DASHES[k % DASHES.length]}});
      }
    });
    $("metrics").hidden = traces.length === 0;
    if (!traces.length) return;
    const left = traces.some((t) => t.yaxis === "y");
    Plotly.react("metrics", traces, {...base(), showlegend: true, legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: {size: 11}}, margin: {l: 60, r: 50, t: 30, b: 40},
      xaxis: timeAxis(), yaxis: axis(left ? "loss" : "", {visible: left}),
      yaxis2: axis("accuracy", {overlaying: "y", side: "right", tickmode: "auto", nticks: 5, visible: traces.some((t) => t.yaxis === "y2")})}, {...config, displayModeBar: false});
    withCursor("metrics");
  };

  const tell = () => {
    const part = estimate.parts.find((p) => runOn[p.run]) || estimate.parts[0];
    const s = countUpTo(part.steps, steps[at]) - 1, epoch = s < 0 ? null : part.epochs[s];
    $("now").textContent = `step ${steps[at]}` + (epoch === null || epoch === steps[at] ? "" : `, epoch ${show(epoch)}`);
    $("step").setAttribute("aria-valuetext", $("now").textContent);
  };
  const goTo = (index) => {
    at = Math.max(0, Math.min(steps.length - 1, index));
    $("step").value = at;
    tell();
    drawPlane(false);
    moveCursor("curves");
    moveCursor("metrics");
  };
  const soon = (index) => {
    if (wanted === null) requestAnimationFrame(() => {
      const next = wanted;
      wanted = null;
      goTo(next);
    });
    wanted = index;
  };
  const stop = () => {
    cancelAnimationFrame(playing);
    playing = null;
    $("play").textContent = "▶ Play";
    $("play").setAttribute("aria-label", "Play");
  };
  const frame = (time) => {
    const index = Math.floor((time - started) / PASS_MS * steps.length);
    if (index >= steps.length) {
      goTo(steps.length - 1);
      stop();
      return;
    }
    if (index > at) goTo(index);
    playing = requestAnimationFrame(frame);
  };
  const play = () => {
    if (playing !== null) {
      stop();
      return;
    }
    if (at >= steps.length - 1) goTo(0);
    started = performance.now() - at / steps.length * PASS_MS;
    $("play").textContent = "❚❚ Pause";
    $("play").setAttribute("aria-label", "Pause");
    playing = requestAnimationFrame(frame);
  };

  const rebuild = () => {
    buildPlane();
    buildCurves();
    buildMetrics();
    tell();
  };
  const choose = () => {
    const before = steps ? steps[at] : Infinity;
    estimate = data.estimates[$("estimate").selectedIndex];
    steps = [...new Set(estimate.parts.flatMap((part) => part.steps))].sort((a, b) => a - b);
    $("step").max = steps.length - 1;
    at = Math.max(0, countUpTo(steps, before) - 1);
    $("step").value = at;
    const names = [...new Set(estimate.parts.flatMap((part) => Object.keys(part.quantities)))];
    const kept = $("quantity").value;
    $("quantity").replaceChildren();
    for (const name of names.filter((n) => n !== NULL)) option($("quantity"), name, name);
    $("quantity").value = names.includes(kept) ? kept : names.includes(TY) ? TY : names[0];
    const n = estimate.n.length === 1 ? estimate.n[0] : `${estimate.n[0]} to ${estimate.n[estimate.n.length - 1]}`;
    const longest = Math.max(...estimate.parts.map((part) => part.steps.length));
    const some = longest > MOST_TRAIL ? `The trail shows at most ${MOST_TRAIL} of ${longest} snapshots, the dark line each. ` : "";
    $("caption").textContent = `${estimate.name}. N = ${n}. ${some}Information in bits. Open markers are saturated: the number is only its ceiling. ` +
      "Dotted lines: ceilings; in the curves, the same estimate on shuffled labels.";
    rebuild();
  };
  const toggles = (box, names, state, marks) => names.forEach((name, i) => {
    const label = document.createElement("label"), input = document.createElement("input");
    input.type = "checkbox";
    input.checked = state[i];
    input.dataset.index = i;
    input.addEventListener("change", () => {
      state[i] = input.checked;
      rebuild();
    });
    label.append(input);
    if (marks) {
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.textContent = GLYPHS[i % GLYPHS.length];
      mark.style.color = data.colors[i];
      label.append(mark);
    }
    label.append(name);
    box.append(label);
  });

  data.estimates.forEach((one, k) => option($("estimate"), k, one.name));
  toggles($("layers"), data.layers, layerOn, true);
  toggles($("runs"), data.runs, runOn, false);
  $("estimate").addEventListener("change", choose);
  $("mode").addEventListener("change", buildPlane);
  $("axis").addEventListener("change", rebuild);
  $("quantity").addEventListener("change", buildCurves);
  $("step").addEventListener("input", () => {
    stop();
    soon(Number($("step").value));
  });
  $("play").addEventListener("click", play);
  choose();
  document.body.dataset.ready = "yes";
})();
